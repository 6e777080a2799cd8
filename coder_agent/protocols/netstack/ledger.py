"""Sums over all connections with one peer, closed ones included: what the path selection measures a path by."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from ...base.flow import Flow
from .tcp import TcpConnection


class Ledger:
    """What closed connections have sent, by peer. Bounded by the peers that the stack knows."""

    def __init__(self) -> None:
        self._past: dict[Hashable, tuple[int, int]] = {}

    def close(self, connection: TcpConnection) -> None:
        """A connection is about to be forgotten."""
        if connection.peer is not None:
            resent, acked = self._past.get(connection.peer, (0, 0))
            sender = connection.sender
            self._past[connection.peer] = resent + sender.resent, acked + sender.acked

    def forget(self, peer: Hashable) -> None:
        """A peer is gone."""
        self._past.pop(peer, None)

    def flow(self, peer: Hashable, connections: Iterable[TcpConnection]) -> Flow:
        """Past and present together. An acknowledgement on any connection proves that the peer answers."""
        resent, acked = self._past.get(peer, (0, 0))
        flying, backlog, stuck, rtt, patience = 0, False, False, 0.0, 0.0
        asked: float | None = None
        heard = float("-inf")
        for connection in connections:
            if connection.peer != peer:
                continue
            sender = connection.sender
            resent += sender.resent
            acked += sender.acked
            heard = max(heard, sender.heard_at)
            since = sender.unanswered_since
            if since is None:
                continue
            flying += sender.board.in_flight
            backlog = backlog or sender.has_backlog
            stuck = stuck or (sender.is_stuck and connection.packet_mtu > connection.owner.config.mtu)
            rtt = max(rtt, sender.rtt.srtt)
            patience = max(patience, sender.rtt.srtt + 4 * sender.rtt.variation)
            asked = since if asked is None else min(asked, since)
        silent = None if asked is None else max(asked, heard)
        return Flow(acked + flying + resent, resent, acked, backlog, rtt, patience, silent, stuck)
