"""The path selection, seen from outside: which path carries the next burst to a peer?

Everything is asked with the current time (`now`: monotonic seconds) and answered with effects. `route` is the only call
on the data path: on a settled path it is one dictionary look-up and one comparison.
Source: tailscale wgengine/magicsock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from heapq import heappop, heappush

from ..base.addresses import AddrPort
from ..base.flow import Flow
from ..base.keys import DiscoPrivate, DiscoPublic, NodePublic
from ..base.nat_facts import NatFacts
from ..base.path_rules import NO_RULES, DirectRule, PathRules
from ..base.paths import DerpPath, Path, PathKind, PathPolicy, UdpPath
from ..protocols.effects import Dropped
from . import constants as c
from .candidates import NEVER
from .carrier import Carrier
from .effects import CloseSockets, Effect, EndpointsWanted, PathUpdate, Route
from .mtu import MtuProber
from .peer import FOREVER, NOTHING, Peer
from .peer_map import PeerMap, Reach
from .policy import DefaultPathPolicy
from .prober import Via
from .receiver import Receiver, note_relay
from .search import Search
from .status import PathStatus

__all__ = ["Magicsock", "PathStatus", "Route"]


class Magicsock:
    """All peers and the ways to them.

    `rules` hold for all peers without rules of their own (`set_rules`). `birthday` False: no port is guessed, whoever
    asks (birthday.py). `reach` False for an address: it is never tried nor answered, whoever names it.
    """

    def __init__(
        self,
        node_key: NodePublic,
        disco: DiscoPrivate,
        *,
        rng: Callable[[int], bytes],
        policy: PathPolicy | None = None,
        rules: PathRules = NO_RULES,
        birthday: bool = True,
        accepted_mtu: int = c.TUNNEL_MTU_SAFE,
        reach: Reach = lambda addr, peer: True,
    ) -> None:
        self.counters: Counter[str] = Counter()
        """Since the start: drops by reason, and what was sent. Names are stable."""
        self.home = 0
        """Our own home relay region; 0 = none yet."""
        self.rules = rules
        """Those for peers without rules of their own."""
        self._peers = PeerMap(disco, reach)
        self._search = Search(node_key, disco, self._peers, rng)
        self._search.birthday.enabled = birthday
        self._prober = self._search.prober
        policy = policy or DefaultPathPolicy()
        self._carrier = Carrier(self._prober, policy)
        self._mtu = MtuProber(self._prober, accepted_mtu)
        self._receiver = Receiver(self._peers, self._search, policy, self._carrier, self._mtu, self._settled)
        self._timers: list[tuple[float, int, Peer]] = []
        self._timer_count = 0

    # ------------------------------------------------------------ who there is

    def upsert_peer(
        self, key: NodePublic, disco: DiscoPublic, *, home: int, endpoints: Sequence[AddrPort], now: float
    ) -> list[Effect]:
        """The coordinator named a peer, or said something new about it. `home` 0 = no home relay known.

        A new disco key (the peer restarted) ends the trust in its path; candidates are kept.
        """
        peer = self._peers.get(key)
        if peer is None:
            peer = Peer(key, self.rules)
            self._peers.add(peer)
        restarted = self._peers.set_disco(peer, disco, advertised=False)
        if restarted:
            peer.end_trust()
        if peer.home != home or peer.gone_region == home:
            peer.home, peer.gone_region = home, 0
        endpoints = self._peers.reachable(endpoints, key)
        news = peer.candidates.list_from_coordinator(endpoints, now) or restarted
        effects: list[Effect] = []
        if peer.drop_lost_best():
            effects += peer.announce(now, "candidate-gone")
        if peer.heartbeat_at is not None:
            if news and not peer.is_trusted(now):
                effects += self._prober.full_ping(peer, now, call=True)
            effects += peer.announce(now, "relay-changed")
        return self._done(peer, effects, now)

    def suggest_endpoints(self, key: NodePublic, endpoints: Sequence[AddrPort], now: float) -> list[Effect]:
        """Our own sources saw the peer at these addresses (by mDNS, say): the whole list, replacing the former one.

        Nothing is believed: the addresses are pinged like all others, at once if packets for the peer are waiting; and
        an address that answers keeps carrying packets, for anybody on a LAN can say goodbye in the peer's name.
        """
        peer = self._peers.get(key)
        if peer is None:
            return NOTHING
        if peer.best is not None and peer.is_trusted(now):
            in_use = peer.best.addr
            endpoints = [*(one.addr for one in peer.candidates if one.suggested and one.addr == in_use), *endpoints]
        news = peer.candidates.list_from_sources(self._peers.reachable(endpoints, key), now)
        effects: list[Effect] = []
        if peer.drop_lost_best():
            effects += peer.announce(now, "candidate-gone")
        if news and peer.heartbeat_at is not None and not peer.is_trusted(now):
            effects += self._prober.full_ping(peer, now, call=True)
        return self._done(peer, effects, now)

    def remove_peer(self, key: NodePublic) -> list[Effect]:
        """Forget a peer."""
        peer = self._peers.get(key)
        effects = self._search.birthday.stop(peer) if peer is not None else NOTHING
        self._peers.remove(key)
        return effects

    def set_disco_key(self, key: NodePublic, disco: DiscoPublic, now: float) -> list[Effect]:
        """The peer announced a disco key in-band (TSMP type 'a'). The first such announcement ends the trust in its
        path, even if it repeats the known key; repeating it later does nothing. Both keys are accepted from now on."""
        peer = self._peers.get(key)
        if peer is None:
            return NOTHING
        first = peer.disco_advertised is None
        if not self._peers.set_disco(peer, disco, advertised=True) and not first:
            return NOTHING
        peer.end_trust()
        if peer.heartbeat_at is None:
            return NOTHING
        return self._done(peer, self._prober.full_ping(peer, now, call=True), now)

    def set_rules(self, rules: PathRules | None, now: float, peer: NodePublic | None = None) -> list[Effect]:
        """Rules for one peer, or (`peer` None) for all that have none of their own, present and future ones. They hold
        at once. A peer's own rules replace the general ones: who wants both combines them (`PathRules.under`); None
        takes a peer's own rules away.

        NEVER: nothing is tried, answered or sent over UDP, and no endpoint is told to the peer. ONLY: no data by relay;
        signalling (call-me-maybe) still goes that way. `ipv6` False: as NEVER, for IPv6 addresses. `prefer_region` is
        used while the peer is connected there, which is all that DERP offers: a peer is connected to its own home, and
        for a minute after it sent to somebody whose home is another region. The node's own home is the caller's choice
        (`home.choose_home`).
        """
        if peer is None:
            self.rules = rules or NO_RULES
        effects: list[Effect] = []
        for one in list(self._peers):
            if peer is None and not one.own_rules:
                effects += self._apply_rules(one, self.rules, now)
            elif one.key == peer:
                one.own_rules = rules is not None
                effects += self._apply_rules(one, rules or self.rules, now)
        return self._count(effects)

    def _apply_rules(self, peer: Peer, rules: PathRules, now: float) -> list[Effect]:
        if rules == peer.rules:
            return []
        effects: list[Effect] = []
        peer.rules = rules
        peer.fast_until = NEVER
        if peer.best is not None and not rules.permits(peer.best.addr):
            peer.clear_best()
        if rules.direct is DirectRule.NEVER:
            peer.heartbeat_at = peer.call_due = None
            peer.search_at = FOREVER
            effects += self._search.birthday.stop(peer)
        reason = "direct-blocked" if rules.direct is DirectRule.NEVER else "rules"
        effects += peer.announce(now, reason) if peer.announced is not PathKind.NONE else []
        return self._settled(peer, effects, now)

    # ------------------------------------------------------------ who we are

    def set_home(self, region: int) -> None:
        """Our home relay region changed; 0 = none."""
        self.home = region

    def set_local_endpoints(self, endpoints: Sequence[AddrPort], now: float) -> list[Effect]:
        """What the candidate sources found, best first. Call it after every look, also if nothing changed: a
        call-me-maybe carries the list only while it is younger than 27 s."""
        effects = self._prober.set_endpoints(endpoints, now)
        if effects:
            for peer in self._peers:
                self._schedule(peer)
        return self._count(effects)

    def set_local_facts(self, facts: NatFacts, now: float) -> list[Effect]:
        """What the candidate sources found out about our network. Told to peers in reports; decides about guesses."""
        effects = self._search.reporter.set_facts(facts, now)
        for peer in self._peers:
            self._schedule(peer)
        return self._count(effects)

    def set_birthday(self, enabled: bool) -> list[Effect]:
        """Allow or forbid guessing ports, for ourselves and when peers ask for it. Forbidding ends what is on."""
        birthday = self._search.birthday
        birthday.enabled = enabled
        return [] if enabled else [effect for peer in self._peers for effect in birthday.stop(peer)]

    def rebound(self, now: float) -> list[Effect]:
        """The sockets were reopened or the link changed: nothing that was learnt about direct paths holds any more."""
        self._prober.invalidate_endpoints(now)
        effects: list[Effect] = [EndpointsWanted("rebind")]
        for peer in self._peers:
            self._search.rebound(peer)
            peer.clear_best()
            news: list[Effect] = []
            if peer.heartbeat_at is not None:
                news += peer.announce(now, "rebind")
                news += self._prober.full_ping(peer, now, call=True)
            effects += self._settled(peer, news, now)
        return self._count(effects)

    # ------------------------------------------------------------ the data path

    def route(self, peer: NodePublic, now: float) -> tuple[Route | None, list[Effect]]:
        """Where the next burst to `peer` goes, and what to do beside. None = there is no way, or no such peer.

        Call it for every outbound WireGuard burst, handshakes and keepalives included: it is what keeps the session
        active. The list may be shared: do not change it.
        """
        state = self._peers.get(peer)
        if state is None:
            return None, NOTHING
        if now < state.fast_until:
            state.last_send = now
            return state.fast_answer
        return self._route_slowly(state, now)

    def _route_slowly(self, peer: Peer, now: float) -> tuple[Route | None, list[Effect]]:
        woken = peer.heartbeat_at is None
        effects = self._prober.wake(peer, now)
        if woken and peer.heartbeat_at is not None:
            effects = effects + self._search.reporter.searching(peer, now)
        route = peer.route(now)
        if peer.announced is PathKind.NONE:
            effects += peer.announce(now, "first-send")
        elif not woken or peer.best is None:  # just woken, a path gets the chance to answer before it is declared lost
            effects += peer.announce(now, "no-pong")
        return route, self._done(peer, effects, now)

    def peer_for_source(self, addr: AddrPort) -> NodePublic | None:
        """Whose packets come from `addr`? A guess good enough to choose whose keys to try; not an authentication."""
        peer = self._peers.source(addr)
        return peer.key if peer is not None else None

    def learn_source(self, addr: AddrPort, peer: NodePublic, now: float) -> None:
        """A WireGuard packet of `peer` from `addr` was decrypted. This does not make `addr` a path to it."""
        state = self._peers.get(peer)
        if state is not None:
            state.last_received = now
            self._peers.learn_source(addr, state, proven=True)

    def note_received(self, peer: NodePublic, path: Path, now: float) -> list[Effect]:
        """WireGuard packets of `peer` came by `path` (once per burst will do). They do not make it a path of ours; but
        a peer that uses the relay may have noticed that the direct path is dead."""
        state = self._peers.get(peer)
        if state is None:
            return NOTHING
        state.last_received = now
        if isinstance(path, UdpPath):
            return NOTHING
        if path.region != state.seen_region:
            note_relay(state, path.region)
        effects = self._carrier.heard_by_relay(state, now)
        return self._done(state, effects, now) if effects else NOTHING

    def note_flow(self, peer: NodePublic, flow: Flow, now: float) -> list[Effect]:
        """The answer to `FlowWanted`: how the conversation with `peer` goes."""
        state = self._peers.get(peer)
        if state is None:
            return NOTHING
        if flow.stuck:
            self._mtu.note_stuck(state, now)
        return self._done(state, self._carrier.note_flow(state, flow, now), now)

    def note_derp_seen(self, peer: NodePublic, region: int, now: float) -> None:
        """A relay connection of ours delivered something from `peer`."""
        state = self._peers.get(peer)
        if state is not None:
            state.last_received = now
            note_relay(state, region)

    def peer_gone(self, peer: NodePublic, region: int, now: float) -> list[Effect]:
        """A relay says that `peer` is not connected there. Its home stays in use unless it was seen elsewhere."""
        state = self._peers.get(peer)
        if state is None:
            return NOTHING
        if state.seen_region == region:
            state.seen_region = 0
        if state.home == region:
            state.gone_region = region
        state.fast_until = NEVER
        return self._count(state.announce(now, "relay-changed") if state.heartbeat_at is not None else NOTHING)

    def send_failed(self, path: Path, now: float, *, too_big: bool = False) -> list[Effect]:
        """A path is broken, says who should carry packets there: the kernel (EHOSTUNREACH, ENETUNREACH) or the relay
        (peer gone). `too_big` (EMSGSIZE): the local link, or the path as the kernel knows it, takes smaller ones
        only; smaller ones are sent then."""
        if isinstance(path, DerpPath):
            return self.peer_gone(path.key, path.region, now)
        effects: list[Effect] = []
        for peer in self._peers:
            candidate = peer.candidates.get(path)
            if candidate is None:
                continue
            candidate.trouble = "packets too big for the local link" if too_big else "host unreachable"
            news: list[Effect] = []
            if too_big:
                if peer.mtu.path == path:
                    self._mtu.suspect(peer, now)
            else:
                candidate.pongs.clear()
                if peer.best is not None and peer.best.path == path:
                    peer.clear_best()
                    news += peer.announce(now, "unreachable")
            effects += self._settled(peer, news, now)
        return self._count(effects)

    # ------------------------------------------------------------ disco

    def receive_disco(self, packet: bytes | memoryview, path: Path, now: float) -> list[Effect]:
        """A packet that `demux.classify` calls disco. Never raises for what it contains."""
        return self._count(self._receiver.receive(packet, path, now))

    def ping(
        self, peer: NodePublic, now: float, *, via: Via = "best", size: int = 0
    ) -> tuple[bytes | None, list[Effect]]:
        """Ping on somebody's behalf: a `PongReceived` or `PingLost` with this transaction id follows.

        `via`: "derp" the relay; "direct" the best direct path, trusted or not; "best" what carries data now. None =
        there is no such path yet; a search for one has begun (its success is a `PathUpdate`). `size` is the whole UDP
        payload in bytes; 0 = full-size on direct paths, unpadded over a relay.
        """
        state = self._peers.get(peer)
        if state is None:
            return None, NOTHING
        txid, effects = self._prober.user_ping(state, now, via, size)
        return txid, self._done(state, effects, now)

    def ask_report(self, peer: NodePublic, now: float) -> list[Effect]:
        """Ask the peer what it knows: its answer appears as `PathStatus.remote`. A stock peer does not answer."""
        state = self._peers.get(peer)
        return NOTHING if state is None else self._done(state, self._search.reporter.tell(state, now, ask=True), now)

    def sockets_opened(self, peer: NodePublic, names: Sequence[int], now: float) -> list[Effect]:
        """The answer to `OpenSockets`: the names of those that could be opened."""
        state = self._peers.get(peer)
        if state is None:
            return [CloseSockets(tuple(names))] if names else NOTHING
        return self._done(state, self._search.birthday.sockets_opened(state, names, now), now)

    # ------------------------------------------------------------ time

    def deadline(self) -> float | None:
        """When to call `on_timer` next; None = not needed now."""
        timers = self._timers
        while timers and (timers[0][2].removed or timers[0][0] != timers[0][2].scheduled_at):
            heappop(timers)  # superseded by an earlier one, or its peer is gone
        return timers[0][0] if timers else None

    def on_timer(self, now: float) -> list[Effect]:
        """Do what is due: heartbeats, ping time-outs, calls that waited long enough."""
        effects: list[Effect] = []
        while (when := self.deadline()) is not None and when <= now:
            peer = heappop(self._timers)[2]
            peer.scheduled_at = FOREVER
            effects += self._settled(peer, self._expire(peer, now), now)
        return self._count(effects)

    def _expire(self, peer: Peer, now: float) -> list[Effect]:
        effects = self._prober.expire_pings(peer, now, self._mtu.note_lost)
        effects += self._prober.expire_call(peer, now)
        if peer.lost_trust(now):
            effects += peer.announce(now, "no-pong")
        if peer.heartbeat_at is not None and now >= peer.heartbeat_at:
            effects += self._prober.heartbeat(peer, now)
            effects += self._mtu.heartbeat(peer, now)
            effects += self._carrier.keep_relay_warm(peer, now)
            effects += self._search.after_heartbeat(peer, now)
        effects += self._search.on_timer(peer, now)
        effects += self._carrier.on_timer(peer, now)
        effects += self._carrier.measure_relay(peer, now)
        return effects

    def _schedule(self, peer: Peer) -> None:
        """Make sure that `on_timer` runs no later than this peer needs. A run too early is harmless."""
        when = peer.next_deadline()
        if when < peer.scheduled_at and not peer.removed:
            peer.scheduled_at = when
            self._timer_count += 1
            heappush(self._timers, (when, self._timer_count, peer))

    # ------------------------------------------------------------ for people

    def path(self, peer: NodePublic) -> PathStatus:
        """The way to `peer`, with the evidence for it."""
        state = self._peers.get(peer)
        if state is None:
            return PathStatus()
        return replace(state.status(), local=self._search.reporter.report(state))

    def _done(self, peer: Peer, effects: list[Effect], now: float) -> list[Effect]:
        return self._count(self._settled(peer, effects, now))

    def _settled(self, peer: Peer, effects: list[Effect], now: float) -> list[Effect]:
        """After everything that was done about a peer. A new packet size comes first: what is sent again because of
        the rest shall have it."""
        sized = self._mtu.settle(peer, now)
        self._schedule(peer)
        return [*sized, *effects] if sized else effects

    def _count(self, effects: list[Effect]) -> list[Effect]:
        for effect in effects:
            if isinstance(effect, Dropped):
                self.counters[effect.reason] += effect.count
            elif isinstance(effect, PathUpdate):
                self.counters[f"path-{effect.kind}"] += 1
        return effects or NOTHING
