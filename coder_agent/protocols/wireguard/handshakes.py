"""Messages 1 to 3 of all peers: makes them, judges them, and turns finished handshakes into sessions.

Source: wireguard-go device/{noise-protocol,send,receive,cookie}.go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ...base.keys import NodePublic
from .messages import build_initiation, build_response, parse_cookie_reply, parse_initiation, parse_response
from .noise import Identity, InitiationConsumed, TransportKeys, create_initiation, read_initiation
from .peer import Peer
from .primitives import HandshakeRefused, next_stamp, shared_secret, tai64n
from .session import IndexTable, Keypair
from .timers import JITTER_MAX

INITIATION_INTERVAL = 0.02
"""Initiations of one peer are accepted at most 50 times a second. Seconds (wireguard-go HandshakeInitationRate)."""


class Answered(NamedTuple):
    """An initiation was accepted: send `response` to `peer`."""

    peer: Peer
    response: bytes


class Handshakes:
    """The handshake half of a device. Refusals are HandshakeRefused with the reason to count."""

    __slots__ = ("identity", "index", "_peers", "_rng", "_wall")

    def __init__(
        self,
        identity: Identity,
        peers: dict[NodePublic, Peer],
        rng: Callable[[int], bytes],
        wall: Callable[[], float],
    ) -> None:
        self.identity = identity
        self.index = IndexTable(rng)
        self._peers = peers
        self._rng = rng
        self._wall = wall

    def static_static(self, key: NodePublic) -> bytes | None:
        """DH of both static keys; None for a low-order key."""
        try:
            return shared_secret(self.identity.private, key.raw)
        except HandshakeRefused:
            return None

    # ------------------------------------------------------------ initiator

    def initiate(self, peer: Peer, now: float) -> bytes | None:
        """A fresh message 1, which replaces an unanswered one. None if the peer's key admits no handshake."""
        if peer.static_static is None:
            return None
        self.abandon(peer)
        index = self.index.allocate()
        stamp = max(tai64n(self._wall()), next_stamp(peer.last_stamp))
        message, peer.initiation = create_initiation(
            self.identity, peer.key.raw, peer.static_static, self._rng(32), index, stamp
        )
        peer.last_stamp = stamp
        peer.timers.jitter = self._jitter()
        self.index.handshakes[index] = peer
        return peer.macs.stamp(build_initiation(message), now)

    def abandon(self, peer: Peer) -> None:
        """Forget the unanswered initiation, if there is one."""
        if peer.initiation is not None:
            del self.index.handshakes[peer.initiation.index]
            peer.initiation = None

    def consume_response(self, data: bytes, now: float) -> Peer:
        """Message 2 makes a session, which is at once the current one."""
        message = parse_response(data)
        peer = self.index.handshakes.get(message.receiver)
        if peer is None or peer.initiation is None:
            raise HandshakeRefused("unknown-handshake")
        keys = peer.initiation.consume(message, peer.psk)
        index = peer.initiation.index
        self.abandon(peer)
        keypair = self._derive(peer, keys, index, message.sender, is_initiator=True, now=now)
        self.index.forget(peer.slots.initiated(keypair))
        return peer

    def take_cookie(self, data: bytes, now: float) -> None:
        """Message 3: the next handshake message to that peer will carry mac2. Nothing is sent again at once."""
        message = parse_cookie_reply(data)
        peer = self.index.owner(message.receiver)
        if peer is None:
            raise HandshakeRefused("unknown-handshake")
        if not peer.macs.take_cookie(message, now):
            raise HandshakeRefused("bad-cookie")

    # ------------------------------------------------------------ responder

    def answer(self, data: bytes, now: float) -> Answered:
        """Message 1 makes a session that waits for the initiator's first packet, and message 2."""
        read = read_initiation(self.identity, parse_initiation(data))
        peer = self._peers.get(NodePublic(read.static))
        if peer is None or peer.static_static is None:
            raise HandshakeRefused("unknown-peer")
        initiation = read.authenticate(peer.static_static)
        self._check_fresh(peer, initiation, now)
        index = self.index.allocate()
        message, keys = initiation.respond(peer.psk, self._rng(32), index)
        peer.timers.jitter = self._jitter()
        keypair = self._derive(peer, keys, index, message.receiver, is_initiator=False, now=now)
        self.index.forget(peer.slots.responded(keypair))
        return Answered(peer, peer.macs.stamp(build_response(message), now))

    @staticmethod
    def _check_fresh(peer: Peer, initiation: InitiationConsumed, now: float) -> None:
        if initiation.stamp <= peer.greatest_stamp:
            raise HandshakeRefused("replayed-initiation")
        if now - peer.last_initiation <= INITIATION_INTERVAL:
            raise HandshakeRefused("initiation-flood")
        peer.greatest_stamp = initiation.stamp
        peer.last_initiation = now

    # ------------------------------------------------------------ both

    def _derive(
        self, peer: Peer, keys: TransportKeys, index: int, remote_index: int, *, is_initiator: bool, now: float
    ) -> Keypair:
        keypair = Keypair(peer, keys, index, remote_index, is_initiator=is_initiator, now=now)
        self.index.sessions[index] = keypair
        peer.timers.derived(now)
        return keypair

    def _jitter(self) -> float:
        return int.from_bytes(self._rng(2), "little") / 0xFFFF * JITTER_MAX

    def forget(self, peer: Peer) -> None:
        """Drop all of a peer's sessions and its handshake."""
        self.abandon(peer)
        self.index.forget(peer.slots.clear())
