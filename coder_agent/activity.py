"""What users do in a workspace, summed up for its server: a stock one stops a workspace that nobody seems to use, and
shows its people how much is used; both by what agents report. Source: coder agent/agent.go (Collect).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from statistics import median
from uuid import UUID

from .base.keys import NodePublic
from .base.node import Node
from .node import TailnetNode
from .runtime.agent_link import AgentStats
from .runtime.streams import TunnelStream

SSH_PORT = 1
TERMINAL_PORT = 2
"""The services whose connections are told by name. Source: coder codersdk/workspacesdk/workspacesdk.go."""

Serve = Callable[[TunnelStream], Awaitable[None]]


class Activity:
    """Counts for one agent. `watch` the node once there is one; `stats` is what happened since it was asked last."""

    def __init__(self) -> None:
        self._node: TailnetNode | None = None
        self._peers: Mapping[UUID, Node] = {}
        self._told: dict[NodePublic, tuple[int, int]] = {}
        self._open: Counter[int] = Counter()

    def watch(self, node: TailnetNode, peers: Mapping[UUID, Node]) -> None:
        """Whose traffic it is; `peers` changes while it is watched."""
        self._node, self._peers = node, peers

    def counted(self, port: int, serve: Serve) -> Serve:
        """The same service, whose connections are counted."""

        async def serve_counted(stream: TunnelStream) -> None:
            self._open[port] += 1
            try:
                await serve(stream)
            finally:
                self._open[port] -= 1

        return serve_counted

    def stats(self) -> AgentStats | None:
        """A report; None if nothing came or went."""
        if self._node is None:
            return None
        now = {peer.key: self._node.traffic(peer.key) for peer in self._peers.values()}
        moved = {key: _since(self._told.get(key, (0, 0)), counts) for key, counts in now.items()}
        busy = {key: counts for key, counts in moved.items() if any(counts)}
        self._told = now
        if not busy:
            return None
        connections = self._node.connection_count
        latencies = [path.latency for key in busy if (path := self._node.path(key)).latency is not None]
        return AgentStats(
            connections_by_proto={"TCP": connections},
            connection_count=max(connections, len(busy)),  # one that came and went was a connection, too
            median_latency_ms=median(latencies) * 1000 if latencies else AgentStats.NOBODY,
            rx_bytes=sum(received for received, _ in busy.values()),
            tx_bytes=sum(sent for _, sent in busy.values()),
            ssh_sessions=self._open[SSH_PORT],
            terminal_sessions=self._open[TERMINAL_PORT],
        )


def _since(before: tuple[int, int], now: tuple[int, int]) -> tuple[int, int]:
    """A peer that was forgotten and is back counts from nothing again."""
    if now[0] < before[0] or now[1] < before[1]:
        return now
    return now[0] - before[0], now[1] - before[1]
