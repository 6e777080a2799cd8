"""How large may inner packets to a peer be? 1280 bytes, and more where both ends are ours and the path is proven.

Three things must hold: the peer said that it takes larger packets (in its padded pongs; a stock peer never does); a
ping of that size and a pong of the same size have passed the direct path in use, both with fragmentation forbidden; and
nothing has happened since that makes one doubt it. Everything else means 1280 again, at once: another path, the relay,
a doubt about the path, "message too long" from the kernel, full-size segments that are sent again and again while other
packets pass (a *black hole*: some router on the way drops what is too large and nobody says so). After a suspicion all
sizes are probed afresh, so a wrong one costs a round trip; suspicions in a row make us wait longer each time.

Source: RFC 8899 (datagram path MTU discovery: probes apart from data, black hole detection), RFC 4821 §7.7.
"""

from __future__ import annotations

from ..base.paths import UdpPath
from . import constants as c
from .candidates import NEVER
from .effects import Effect, TunnelMtu
from .peer import NOTHING, Peer, Purpose, SentPing, wire_mtu_of
from .prober import Prober


class MtuProber:
    """One per core. `accepted`: the largest inner packet that we take ourselves; TUNNEL_MTU_SAFE switches all off."""

    def __init__(self, prober: Prober, accepted: int) -> None:
        self._prober = prober
        self._accepted = min(accepted, c.TUNNEL_MTU_MAX)
        prober.accepted = self._accepted if self.is_on else 0

    @property
    def is_on(self) -> bool:
        """Larger packets than everybody takes are used where they can be."""
        return self._accepted > c.TUNNEL_MTU_SAFE

    # ------------------------------------------------------------ what happens

    def note_pong(self, peer: Peer, ping: SentPing, size: int, accepts: int | None, now: float) -> None:
        """A pong of `size` bytes came by UDP. `accepts`: what it says about packets to its sender, None = nothing."""
        state = peer.mtu
        if accepts is not None:
            state.accepted = accepts
        if peer.best is None or ping.path != peer.best.path or ping.path != state.path or ping.at < state.since:
            return
        if ping.size > c.PADDED_PING_SIZE and size >= ping.size:
            state.proven = max(state.proven, ping.size)
            if ping.size == state.proven:
                state.lost = 0

    def note_lost(self, peer: Peer, ping: SentPing, now: float) -> None:
        """A ping for the MTU's sake was not answered in time. Those of a size not proven yet are expected not to be."""
        state = peer.mtu
        if ping.path == state.path and ping.at >= state.since and ping.size <= state.proven:
            state.lost += 1
            if state.lost >= c.FULL_PINGS_LOST:
                self.suspect(peer, now)

    def suspect(self, peer: Peer, now: float) -> None:
        """Larger packets may be getting lost: none until a probe has passed again."""
        state = peer.mtu
        if not state.proven:
            return
        if now - state.suspected_at < c.MTU_CALM:
            state.pause = min(max(2 * state.pause, c.DOUBT_PAUSE), c.HINT_PAUSE_MAX)
        else:
            state.pause = 0.0
            if peer.best is not None:
                peer.quality.excuse(now + c.MTU_REPAIR + 2 * peer.best.latency)
        state.suspected_at = now
        state.hold_until = now + state.pause
        self._begin(peer, state.path, now)

    def note_stuck(self, peer: Peer, now: float) -> None:
        """TCP sends the same large segment again and again, and others pass."""
        if peer.mtu.announced > c.TUNNEL_MTU_SAFE:
            self.suspect(peer, now)

    def _begin(self, peer: Peer, path: UdpPath | None, now: float) -> None:
        state = peer.mtu
        state.path, state.since = path, now
        state.proven = state.rounds = state.lost = 0
        state.round_at = NEVER
        candidate = peer.candidates.get(path) if path is not None else None
        if candidate is not None:
            candidate.wire_mtu = min(candidate.wire_mtu, wire_mtu_of(candidate.addr, c.PADDED_PING_SIZE))

    # ------------------------------------------------------------ what follows

    def settle(self, peer: Peer, now: float) -> list[Effect]:
        """After anything that may have changed the way to `peer`: probe if there is reason, and say what packets may
        be from now on. Cheap where nothing changed."""
        state, best = peer.mtu, peer.best
        if not self.is_on or (best is None and state.path is None):
            return NOTHING
        if best is not None and best.path != state.path:
            self._begin(peer, best.path, now)
            state.hold_until = NEVER
        elif peer.doubt.since is not None and state.since < peer.doubt.since:
            self.suspect(peer, now)
        effects: list[Effect] = []
        usable = self._usable(peer, now)
        if usable != state.announced:
            state.announced = usable
            effects.append(TunnelMtu(peer.key, usable))
        if not state.rounds and self._may_probe(peer, now):
            effects += self.probe(peer, now)
        return effects or NOTHING

    def _usable(self, peer: Peer, now: float) -> int:
        state, best = peer.mtu, peer.best
        if best is None or best.path != state.path or not peer.is_trusted(now):
            return c.TUNNEL_MTU_SAFE
        if peer.doubt.since is not None or (peer.quality.relayed and peer.data_region):
            return c.TUNNEL_MTU_SAFE
        proven = min(state.proven - c.WIREGUARD_OVERHEAD, state.accepted, self._accepted)
        return max(proven, c.TUNNEL_MTU_SAFE)

    def _may_probe(self, peer: Peer, now: float) -> bool:
        state = peer.mtu
        return (
            self.is_on
            and state.accepted > c.TUNNEL_MTU_SAFE
            and now >= state.hold_until
            and peer.is_trusted(now)
            and peer.heartbeat_at is not None
        )

    def heartbeat(self, peer: Peer, now: float) -> list[Effect]:
        """Every heartbeat of an active session: does the size in use still pass, and, now and then, would a larger one?

        A resting session leaves the first question to its next full-size segment: it would cost a third of all that
        an idle node sends.
        """
        state = peer.mtu
        if not self._may_probe(peer, now) or peer.best is None or state.path != peer.best.path:
            return NOTHING
        effects: list[Effect] = []
        if state.rounds < c.MTU_ROUNDS or now - state.round_at >= c.MTU_PROBE_INTERVAL:
            effects += self.probe(peer, now)
        if state.proven and not peer.doubt.is_resting(now):
            effects += self._prober.ping(peer, peer.best.path, Purpose.MTU, now, state.proven)[1]
        return effects

    def probe(self, peer: Peer, now: float) -> list[Effect]:
        """One ping of each size larger than what is proven, the largest first: then the first answer settles it."""
        best, state = peer.best, peer.mtu
        if best is None:
            return []
        state.rounds = min(state.rounds + 1, c.MTU_ROUNDS)
        state.round_at = now
        overhead = wire_mtu_of(best.addr, 0)
        effects: list[Effect] = []
        for size in reversed(c.WIRE_MTU_PROBES):
            if size - overhead > max(state.proven, c.PADDED_PING_SIZE):
                effects += self._prober.ping(peer, best.path, Purpose.MTU, now, size - overhead)[1]
        return effects
