"""What peers say to us: disco packets, opened, checked and obeyed.

Nothing here raises for what a packet contains; what is thrown away is named in a `Dropped`.
Source: tailscale wgengine/magicsock/magicsock.go (handleDiscoMessage, handlePingLocked), endpoint.go
(handlePongConnLocked, handleCallMeMaybe).
"""

from __future__ import annotations

from collections.abc import Callable

from ..base.paths import DerpPath, Path, PathPolicy, UdpPath
from ..protocols import disco
from ..protocols.effects import Dropped
from . import constants as c
from .carrier import Carrier
from .effects import Effect, PongReceived
from .mtu import MtuProber
from .peer import Peer, Purpose, SentPing
from .peer_map import DiscoIdentity, PeerMap
from .search import Search


class Receiver:
    """Handles incoming disco. One per core."""

    def __init__(
        self,
        peers: PeerMap,
        search: Search,
        policy: PathPolicy,
        carrier: Carrier,
        mtu: MtuProber,
        settled: Callable[[Peer, list[Effect], float], list[Effect]],
    ) -> None:
        self._peers = peers
        self._prober = search.prober
        self._reporter = search.reporter
        self._birthday = search.birthday
        self._policy = policy
        self._carrier = carrier
        self._mtu = mtu
        self._settled = settled

    def receive(self, packet: bytes | memoryview, path: Path, now: float) -> list[Effect]:
        """One packet that looks like disco."""
        if not disco.looks_like_disco(packet):
            return [Dropped("not-disco")]
        raw = disco.sender_of(packet)
        identity = self._peers.identity(raw)
        if identity is None:  # before any cryptography: this is what a stranger's flood costs
            return [Dropped("unknown-disco-key")]
        plaintext = disco.open_sealed(packet, identity.shared)
        if plaintext is None:
            return [Dropped("disco-not-for-us")]
        if len(identity.peers) == 1:
            self._peers.prefer(identity.peers[0], raw)
        effects = self._obey(identity, disco.parse(plaintext), path, now)
        for peer in identity.peers:
            effects = self._settled(peer, effects, now)
        return effects

    def _obey(self, identity: DiscoIdentity, message: disco.Message | None, path: Path, now: float) -> list[Effect]:
        if isinstance(message, disco.Ping):
            return self._on_ping(identity, message, path, now)
        if isinstance(message, disco.Pong):
            return self._on_pong(identity, message, path, now)
        if isinstance(message, disco.CallMeMaybe):
            return self._on_call(identity, message, path, now)
        if isinstance(message, disco.Facts | disco.GuessMyPort):
            return self._on_own_message(identity, message, path, now)
        return [Dropped("disco-malformed" if message is None else "disco-ignored-type")]

    # ------------------------------------------------------------ ping

    def _on_ping(self, identity: DiscoIdentity, ping: disco.Ping, path: Path, now: float) -> list[Effect]:
        if isinstance(path, DerpPath):
            peer = self._by_relay(identity, path)
            if peer is None:
                return [Dropped("relay-source-mismatch")]
            doubts = self._carrier.heard_by_relay(peer, now) if ping.version >= c.PADDED_VERSION else []
            return [*self._prober.pong(peer, path, ping), *doubts]
        allowed = [peer for peer in identity.peers if peer.rules.permits(path.addr)]
        if not allowed:
            return [Dropped("ipv6-blocked" if any(p.allow_direct for p in identity.peers) else "direct-blocked")]
        allowed = [peer for peer in allowed if self._peers.reach(path.addr, peer.key)]
        if not allowed:
            return [Dropped("egress-refused")]
        new = [peer.candidates.learn_from_ping(path, ping.txid, now) for peer in allowed]
        for peer in allowed:
            peer.fast_until = float("-inf")  # there may be a candidate to try
        if not any(new):
            return [Dropped("duplicate-ping")]
        owner = self._owner(allowed, ping)
        effects = self._prober.pong(owner or allowed[0], path, ping)
        if owner is not None:
            owner.account.note_seen(path.addr)
            self._peers.learn_source(path.addr, owner, proven=False)
            effects += self._prober.ping_back(owner, path, now)
        return effects

    @staticmethod
    def _owner(peers: list[Peer], ping: disco.Ping) -> Peer | None:
        """Whose ping is it? The key inside is only a hint among those who share the disco key."""
        if len(peers) == 1:
            return peers[0]
        return next((peer for peer in peers if peer.key == ping.node_key), None)

    def _by_relay(self, identity: DiscoIdentity, path: DerpPath) -> Peer | None:
        """The peer that a relay named as the sender, if it has the disco key that the message was sealed with."""
        peer = next((peer for peer in identity.peers if peer.key == path.key), None)
        if peer is not None:
            note_relay(peer, path.region)
        return peer

    # ------------------------------------------------------------ pong

    def _on_pong(self, identity: DiscoIdentity, pong: disco.Pong, path: Path, now: float) -> list[Effect]:
        peer = next((peer for peer in identity.peers if pong.txid in peer.sent), None)
        if peer is None:
            return [Dropped("unknown-txid")]
        ping = peer.sent[pong.txid]
        if isinstance(ping.path, UdpPath) != isinstance(path, UdpPath):
            return [Dropped("pong-by-other-transport")]
        del peer.sent[pong.txid]
        peer.note_ping(ping, answered=True)
        effects: list[Effect] = []
        if isinstance(ping.path, UdpPath):
            peer.account.answered += 1
            if ping.purpose is Purpose.GUESS:
                peer.candidates.learn_from_ping(ping.path, pong.txid, now)
                self._birthday.note_door(peer)
            candidate = peer.candidates.get(ping.path)
            if candidate is None or not peer.rules.permits(candidate.addr):
                return [Dropped("pong-from-former-candidate")]
            self._peers.learn_source(ping.path.addr, peer, proven=False)
            peer.accept_pong(candidate, ping, now, self._policy)
            self._note_size(peer, ping, pong, now)
            if ping.size < c.PADDED_PING_SIZE and ping.purpose is not Purpose.USER:
                effects += self._prober.prove(peer, ping.path, now)
            effects += peer.announce(now, "pong")
            effects += self._birthday.note_path(peer, now)
        else:
            peer.derp_latency = max(now - ping.at, 0.0)
        if ping.purpose is Purpose.USER:
            effects.append(PongReceived(peer.key, pong.txid, ping.path, max(now - ping.at, 0.0), pong.src))
        return effects

    def _note_size(self, peer: Peer, ping: SentPing, pong: disco.Pong, now: float) -> None:
        size = disco.OVERHEAD + len(pong.encode())
        self._mtu.note_pong(peer, ping, size, pong.accepts if pong.padding else None, now)

    # ------------------------------------------------------------ call-me-maybe

    def _on_call(self, identity: DiscoIdentity, call: disco.CallMeMaybe, path: Path, now: float) -> list[Effect]:
        if not isinstance(path, DerpPath):
            return [Dropped("call-me-maybe-over-udp")]
        peer = self._by_relay(identity, path)
        if peer is None:
            return [Dropped("relay-source-mismatch")]
        if not peer.allow_direct:
            return [Dropped("direct-blocked"), *self._reporter.answer(peer, now)]
        if not peer.calls.take(now):
            return [Dropped("call-me-maybe-flood")]
        peer.candidates.list_from_call(self._peers.reachable(call.endpoints, peer.key), now)
        effects = peer.announce(now, "candidate-gone") if peer.drop_lost_best() else []
        effects += self._prober.full_ping(peer, now, call=False)
        peer.called(now)
        return effects + self._prober.call_back(peer, now)

    # ------------------------------------------------------------ our own messages

    def _on_own_message(
        self, identity: DiscoIdentity, message: disco.Facts | disco.GuessMyPort, path: Path, now: float
    ) -> list[Effect]:
        if not isinstance(path, DerpPath):
            return [Dropped("facts-over-udp")]
        peer = self._by_relay(identity, path)
        if peer is None:
            return [Dropped("relay-source-mismatch")]
        if isinstance(message, disco.GuessMyPort):
            return self._birthday.asked(peer, message, now)
        return self._reporter.heard(peer, message, now)


def note_relay(peer: Peer, region: int) -> None:
    """A packet of `peer` came through relay `region`."""
    if peer.seen_region == region and peer.gone_region != region:
        return
    if peer.gone_region == region:
        peer.gone_region = 0
    peer.seen_region = region
    peer.fast_until = float("-inf")
