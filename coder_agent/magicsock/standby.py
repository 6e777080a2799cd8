"""Two relays per node: the home, and a second one that is kept connected, so that no one relay's end stops a
conversation.

Every node keeps connections to its home and to the region that is `second_home` of what it publishes; so a sender knows
a peer's second region without being told. Packets go by the home alone while it works. They go by both while that is in
doubt (an answer is missing, or a conversation begins), and by the second alone while our own connection to the home is
down. A receiver that hears a peer by its second region knows that the peer has reason to doubt: it answers by both.

All ours; Tailscale's nodes have one home. A stock peer is not connected to its second region: the relay there says so,
and the region is tried ever more rarely (one of ours may just have been about to connect). The copies are absorbed by
WireGuard's replay window.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..base.derp_map import DerpMap
from ..base.flow import Flow
from ..base.keys import NodePublic

NEVER = float("-inf")
PATIENCE, MARGIN = 0.15, 0.1
"""An answer by relay is missing after the first, or a round trip and the second if that is longer; never after less
than TCP's own measure (RFC 6298: the round trip, four times its variation) up to JITTER more. Longer than a delayed
ACK (40 ms), and shorter than a TCP time-out (200 ms)."""
JITTER = 0.3
PULSE = 0.05
"""Between two looks at a conversation by relay, while packets are sent."""
DOUBT = 4.0
"""For so long packets go both ways: longer than a relay connection that is dead lasts once it is doubted (3 s)."""
DOUBT_PAUSE = 1.0
"""From the end of a doubt to the next."""
BEGINNING = 3.0
"""Packets go both ways for so long when a conversation begins, unless the peer answers before."""
SEEN_LATELY, ANSWER = 0.1, 1.0
"""A peer that is heard by our second region has reason to, if nothing of it came by our home for the first (or both
ends would keep each other sending twice); then it is answered by both for the second."""
FORGOTTEN = 45.0
"""A conversation in which so long nothing was heard begins anew."""
GONE_FOR, GONE_MOST = 1.0, 64.0
"""A second region where the peer is not is left alone for so long: the first time, and at most (doubled each time)."""
DOWN_BEFORE_MOVE = 2.0
"""A home that is down for so long is given up: one that restarts is back before."""


def second_home(derp_map: DerpMap, home: int, latency: Mapping[str, float]) -> int:
    """The region to which a node with this home and `Node.derp_latency` keeps a second connection; 0 = none.

    The nearest of the others by what it published; of those without a figure, the one with the lowest id.
    """
    others = [rid for rid, region in derp_map.regions.items() if rid != home and region.may_be_home]
    if not others or not home:
        return 0
    unknown = float("inf")
    return min(others, key=lambda rid: (min(latency.get(f"{rid}-v4", unknown), latency.get(f"{rid}-v6", unknown)), rid))


@dataclass(slots=True)
class _Peer:
    home: int = 0
    second: int = 0
    sent_at: float = NEVER
    heard_at: float = NEVER
    doubt_until: float = NEVER
    beginning: bool = False
    seen_at_home: float = NEVER
    answer_by: int = 0
    answer_until: float = NEVER
    gone_until: float = NEVER
    gone_for: float = 0.0

    def second_at(self, now: float) -> int:
        """The second region, unless the peer was found not to be there."""
        return self.second if now >= self.gone_until else 0


class Standby:
    """Which relay regions carry a packet. One per node; times are monotonic seconds."""

    def __init__(self) -> None:
        self.home = 0
        """Our own home…"""
        self.second = 0
        """…and second region."""
        self.down: dict[int, float] = {}
        """Regions that we were or should be connected to and are not, since when."""
        self._peers: dict[NodePublic, _Peer] = {}
        self._look_at: dict[NodePublic, float] = {}

    # ------------------------------------------------------------ what is known

    def set_peer(self, key: NodePublic, home: int, second: int) -> None:
        """The coordinator named a peer, or said something new about it."""
        peer = self._peers.setdefault(key, _Peer())
        peer.home, peer.second = home, second

    def remove_peer(self, key: NodePublic) -> None:
        """Forget a peer."""
        self._peers.pop(key, None)
        self._look_at.pop(key, None)

    def gone(self, key: NodePublic, region: int, now: float) -> float | None:
        """A relay says that the peer is not connected there. If that was the only way that packets took: when the next
        one may be tried there, else None."""
        peer = self._peers.get(key)
        if peer is None or peer.second != region or now < peer.gone_until:
            return None
        peer.gone_for = min(peer.gone_for * 2, GONE_MOST) if peer.gone_for else GONE_FOR
        peer.gone_until = now + peer.gone_for
        return peer.gone_until if peer.home in self.down else None

    def relay_changed(self, region: int, up: bool, now: float) -> None:
        """A connection of ours came up or went down."""
        if up:
            self.down.pop(region, None)
        else:
            self.down.setdefault(region, now)

    def given_up(self, now: float) -> frozenset[int]:
        """Regions that are no home at present."""
        return frozenset(region for region, since in self.down.items() if now - since >= DOWN_BEFORE_MOVE)

    def peers_by_relay(self, now: float) -> list[NodePublic]:
        """Peers with which a conversation by relay goes on."""
        return [key for key, peer in self._peers.items() if now - peer.sent_at < 1.0]

    # ------------------------------------------------------------ the data path

    def regions(self, key: NodePublic, region: int, now: float) -> tuple[int, int]:
        """Where a packet goes that the path selection wants to send by `region`; the second is 0 = nowhere else."""
        peer = self._peers.get(key)
        if peer is None:
            return region, 0
        if now - max(peer.heard_at, peer.sent_at) > FORGOTTEN:
            peer.doubt_until, peer.beginning = now + BEGINNING, True
        peer.sent_at = now
        if key not in self._look_at and peer.second:
            self._look_at[key] = now + PULSE
        second = peer.second_at(now)
        other = second if peer.second != region else peer.home
        if other and other not in self.down:
            if region in self.down:
                return other, 0
            if now < peer.doubt_until:
                return region, other
        if now < peer.answer_until and peer.answer_by != region:
            return (region, peer.answer_by) if region not in self.down else (peer.answer_by, 0)
        return region, 0

    def seen(self, key: NodePublic, region: int, now: float) -> None:
        """Something came from the peer by `region`: perhaps a copy, which nobody opens."""
        if region == self.home:
            peer = self._peers.get(key)
            if peer is not None:
                peer.seen_at_home = now

    def heard(self, key: NodePublic, region: int, now: float) -> bool:
        """A packet of the peer came by `region`. True: the peer had a reason not to take our home; look to it."""
        peer = self._peers.get(key)
        if peer is None:
            return False
        peer.heard_at = now
        if region == peer.second:
            peer.gone_until, peer.gone_for = NEVER, 0.0
        if peer.beginning:
            peer.beginning, peer.doubt_until = False, NEVER
        if region != self.second or not self.home or now - peer.seen_at_home < SEEN_LATELY:
            return False
        news = now >= peer.answer_until
        peer.answer_by, peer.answer_until = region, now + ANSWER
        return news

    # ------------------------------------------------------------ doubt

    def deadline(self) -> float | None:
        """When to call `due`; None = not needed now."""
        return min(self._look_at.values(), default=None)

    def due(self, now: float) -> list[NodePublic]:
        """Peers whose flow is to be looked at now: call `note_flow` for each."""
        due = [key for key, when in self._look_at.items() if when <= now]
        for key in due:
            if now - max(self._peers[key].sent_at, self._peers[key].heard_at) > 1.0:
                del self._look_at[key]
            else:
                self._look_at[key] = now + PULSE
        return due

    def note_flow(self, key: NodePublic, flow: Flow, now: float) -> bool:
        """How the conversation by relay goes. True: from now on packets go both ways; send the oldest again."""
        peer = self._peers.get(key)
        if peer is None or not peer.second_at(now) or flow.unanswered_since is None:
            return False
        if now < peer.doubt_until + DOUBT_PAUSE:
            return False
        allowed = max(PATIENCE, flow.rtt + MARGIN, min(flow.patience, flow.rtt + JITTER))
        if now - flow.unanswered_since < allowed:
            return False
        peer.doubt_until, peer.beginning = now + DOUBT, False
        return True
