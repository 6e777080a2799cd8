"""Which of the two ways carries data while there is a direct path: doubts about it, and comparisons with the relay.

Joins `doubt.py` (is the path there?) and `quality.py` (which is better?) to a peer's state, and pings.
"""

from __future__ import annotations

from ..base.flow import Flow
from ..base.paths import CarrierPolicy, PathPolicy, PathQuality, RelayQuality
from . import constants as c
from .effects import Effect, FlowWanted, PathDoubted, PathReplaced, RelayWanted
from .peer import FOREVER, NOTHING, Peer, Purpose
from .policy import DefaultPathPolicy
from .prober import Prober


class _WithDefault(DefaultPathPolicy):
    """A policy that compares direct paths only, with the core's rule for the rest."""

    def __init__(self, policy: PathPolicy) -> None:
        self._policy = policy

    def better(self, a: PathQuality, b: PathQuality | None) -> bool:
        """True if `a` should replace `b`."""
        return self._policy.better(a, b)


class Carrier:
    """One per core."""

    def __init__(self, prober: Prober, policy: PathPolicy) -> None:
        self._prober = prober
        self._policy: CarrierPolicy = policy if isinstance(policy, CarrierPolicy) else _WithDefault(policy)

    def on_timer(self, peer: Peer, now: float) -> list[Effect]:
        """Pulses, and the pings of a doubt."""
        doubt, effects = peer.doubt, NOTHING
        if doubt.since is not None and now >= doubt.ping_at:
            effects = self._ask_again(peer, now)
        if doubt.pulse_at is not None and now >= doubt.pulse_at:
            if not doubt.pulse(now, peer.last_send, peer.last_received):
                peer.fast_until = float("-inf")  # the next packet must come by, to begin again
            elif peer.is_trusted(now):
                effects = [*effects, FlowWanted(peer.key)]
        return effects

    def note_flow(self, peer: Peer, flow: Flow, now: float) -> list[Effect]:
        """The answer to FlowWanted."""
        best = peer.best
        if best is None or not peer.is_trusted(now):
            return []
        effects: list[Effect] = []
        peer.doubt.note_use(flow, now)
        due = peer.quality.as_of_change(flow)
        if peer.doubt.is_due(due, best.latency, now, direct=not peer.quality.relayed):
            effects += self.doubt(peer, now)
        peer.doubt.hasten(due, best.latency)
        if not peer.data_region:
            peer.quality.forget()
        elif peer.quality.note(flow, best, relay_quality(peer), self._policy, now):
            peer.fast_until = float("-inf")
            effects += [PathReplaced(peer.key), *peer.announce(now, "quality")]
        return effects

    def heard_by_relay(self, peer: Peer, now: float) -> list[Effect]:
        """Packets of the peer came by relay; or a ping by which it says that it doubts the direct path, even if its
        packets came directly first (copies are thrown away unopened)."""
        if peer.doubt.pulse_at is None or peer.quality.relayed or not peer.is_trusted(now):
            return NOTHING
        return self.doubt(peer, now) if peer.doubt.is_hinted(peer.best_at, now) else NOTHING

    def doubt(self, peer: Peer, now: float) -> list[Effect]:
        """The path in use may be dead: both ways from now on, and a ping."""
        assert peer.best is not None
        if peer.quality.relayed:
            peer.quality.relay_failed(now)
        peer.doubt.begin(now)
        peer.fast_until = float("-inf")
        effects = self._ask_again(peer, now)
        relay = peer.relay_path()
        if relay is not None and peer.data_region:
            effects += [
                RelayWanted(relay.region),
                *self._prober.ping(peer, relay, Purpose.HEARTBEAT, now, c.DOUBT_PING_SIZE)[1],
            ]
        return [*effects, PathDoubted(peer.key)]

    def keep_relay_warm(self, peer: Peer, now: float) -> list[Effect]:
        """With each heartbeat: the relay shall be there when the direct path is not, and its latency be known if that
        may matter."""
        region, best = peer.data_region, peer.best
        if best is None or not region or peer.heartbeat_at is None:
            return NOTHING
        effects: list[Effect] = [RelayWanted(region)]
        relay = peer.relay_path()
        if best.latency > c.SLOW_DIRECT and relay is not None and now - peer.relay_pinged_at >= c.RELAY_PING_INTERVAL:
            peer.relay_pinged_at = now
            effects += self._prober.ping(peer, relay, Purpose.HEARTBEAT, now, 0)[1]
        return effects

    def measure_relay(self, peer: Peer, now: float) -> list[Effect]:
        """While the relay carries, its latency and loss are measured as those of a direct path are: by a small ping
        every 3 s of an active session. Ours: upstream does not know how long packets take that way."""
        if now < peer.relay_ping_at:
            return NOTHING
        relay = peer.relay_path()
        if relay is None or not peer.is_active(now) or not peer.wants_relay(now):
            peer.relay_ping_at = FOREVER
            peer.fast_until = float("-inf")  # the next packet must come by, to begin again
            return NOTHING
        peer.relay_ping_at = now + c.HEARTBEAT_INTERVAL
        if peer.hunt.is_on:
            return NOTHING  # guesses by the hundred are on their way, of which only so many are remembered
        peer.relay_pinged_at = now
        return self._prober.ping(peer, relay, Purpose.HEARTBEAT, now, 0)[1]

    def figures(self, peer: Peer, now: float) -> tuple[PathQuality, RelayQuality] | None:
        """Both ways as measured, for people. None without a direct path."""
        return None if peer.best is None else peer.quality.figures(peer.best, relay_quality(peer), now)

    def _ask_again(self, peer: Peer, now: float) -> list[Effect]:
        doubt, best = peer.doubt, peer.best
        if best is None or not peer.is_trusted(now):
            doubt.end(now)
            return []
        if doubt.pings >= c.DOUBT_PINGS:
            peer.end_trust()
            doubt.end(now)
            return peer.announce(now, "no-pong")
        doubt.pings += 1
        doubt.ping_at = now + c.DOUBT_PING_INTERVAL
        return self._prober.ping(peer, best.path, Purpose.HEARTBEAT, now, c.PADDED_PING_SIZE)[1]


def relay_quality(peer: Peer) -> RelayQuality:
    """The peer's relay as far as pings know it."""
    return RelayQuality(peer.derp_region, peer.derp_latency)
