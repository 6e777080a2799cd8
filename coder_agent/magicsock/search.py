"""Everything that looks for direct paths, put together: what is said, what is reported, what is guessed."""

from __future__ import annotations

from collections.abc import Callable

from ..base.keys import DiscoPrivate, NodePublic
from .birthday import Birthday
from .effects import Effect
from .peer import Peer
from .peer_map import PeerMap
from .prober import Prober
from .reports import Reporter


class Search:
    """One per core."""

    def __init__(
        self, node_key: NodePublic, private: DiscoPrivate, peers: PeerMap, rng: Callable[[int], bytes]
    ) -> None:
        self.prober = Prober(node_key, private, peers, rng)
        self.reporter = Reporter(peers, self.prober)
        self.birthday = Birthday(peers, self.prober, self.reporter, rng)

    def after_heartbeat(self, peer: Peer, now: float) -> list[Effect]:
        """Every 3 s of an active session: tell the peer how the search goes, and try harder when it is time."""
        effects = self.birthday.sweep(peer)
        if peer.heartbeat_at is None or peer.is_trusted(now):
            return effects
        return effects + self.reporter.searching(peer, now) + self.birthday.consider(peer, now)

    def on_timer(self, peer: Peer, now: float) -> list[Effect]:
        """What is due for one peer beside its pings and calls."""
        effects = self.prober.expire_search(peer, now) + self.prober.repeat(peer, now)
        effects += self.reporter.on_timer(peer, now)
        return effects + self.birthday.on_timer(peer, now)

    def rebound(self, peer: Peer) -> None:
        """Our sockets were reopened: nothing that was learnt through them holds."""
        peer.candidates.forget_probes()
        peer.account.forget_probes()
        peer.mtu_probed_at = float("-inf")
        self.birthday.rebound(peer)
