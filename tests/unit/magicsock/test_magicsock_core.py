"""Transcripts of the path selection with fixed time: one core, and a peer whose words are written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest

from coder_agent.base.addresses import AddrPort
from coder_agent.base.keys import DiscoPrivate, DiscoPublic, NodePrivate, NodePublic
from coder_agent.base.path_rules import NO_RULES, DirectRule, PathRules
from coder_agent.base.paths import DerpPath, Path, PathKind, UdpPath
from coder_agent.magicsock import Effect, EndpointsWanted, Magicsock, PathUpdate, PingLost, PongReceived, Route
from coder_agent.magicsock import constants as c
from coder_agent.protocols import disco
from coder_agent.protocols.effects import Dropped, SendRaw

T0 = 5000.0
LAN = AddrPort("192.168.1.20", 41641)
WAN = AddrPort("203.0.113.20", 41641)
MINE = AddrPort("192.168.1.10", 41641)
HOME, OTHER_REGION = 1, 2


NEVER = PathRules(direct=DirectRule.NEVER, set_by="the test")


class Far:
    """The peer: seals and opens by hand, with the codec that has its own tests."""

    def __init__(self, seed: int, us: DiscoPublic) -> None:
        self._rng = Random(seed).randbytes
        self.key = NodePrivate.generate(self._rng).public()
        self.private = DiscoPrivate.generate(self._rng)
        self.public = self.private.public()
        self._shared = self._share(us)

    def _share(self, us: DiscoPublic) -> bytes:
        shared = disco.precompute(self.private, us)
        assert shared is not None
        return shared

    def seal(self, plaintext: bytes) -> bytes:
        return disco.seal(self.public, self._shared, self._rng(24), plaintext)

    def ping(self, txid: bytes = b"t" * 12, *, version: int = 0, padding: int = 0) -> bytes:
        return self.seal(disco.Ping(txid, self.key, version, padding).encode())

    def pong(self, ping: disco.Ping, src: AddrPort = MINE) -> bytes:
        return self.seal(disco.Pong(ping.txid, src).encode())

    def call(self, *endpoints: AddrPort) -> bytes:
        return self.seal(disco.CallMeMaybe(endpoints).encode())

    def heard(self, effects: Sequence[Effect]) -> list[tuple[Path, disco.Message]]:
        """What was sent to this peer, opened."""
        out = []
        for effect in effects:
            if isinstance(effect, SendRaw):
                plaintext = disco.open_sealed(effect.data, self._shared)
                message = disco.parse(plaintext) if plaintext is not None else None
                assert message is not None
                out.append((effect.path, message))
        return out

    def pings(self, effects: Sequence[Effect]) -> dict[Path, disco.Ping]:
        return {path: message for path, message in self.heard(effects) if isinstance(message, disco.Ping)}

    def calls(self, effects: Sequence[Effect]) -> list[tuple[Path, disco.CallMeMaybe]]:
        return [(path, one) for path, one in self.heard(effects) if isinstance(one, disco.CallMeMaybe)]


class World:
    """A core and one peer that it knows, with fresh endpoints of its own."""

    def __init__(self, *endpoints: AddrPort, home: int = HOME, rules: PathRules = NO_RULES) -> None:
        rng = Random(7).randbytes
        self.node = NodePrivate.generate(rng).public()
        private = DiscoPrivate.generate(rng)
        self.core = Magicsock(self.node, private, rng=rng, rules=rules)
        self.far = Far(8, private.public())
        self.public = private.public()
        self.core.set_local_endpoints([MINE], T0)
        assert self.core.upsert_peer(self.far.key, self.far.public, home=home, endpoints=endpoints, now=T0) == []

    def relay(self, region: int = HOME) -> DerpPath:
        return DerpPath(region, self.far.key)

    def go_direct(self, addr: AddrPort = LAN, now: float = T0, latency: float = 0.02) -> None:
        """First send at `now`; the small ping is answered from `addr` at once, the full-size one after `latency`."""
        effects = self.knock(self.core.route(self.far.key, now)[1], addr, now)
        answer = self.far.pong(self.far.pings(effects)[UdpPath(addr)])
        self.core.receive_disco(answer, UdpPath(addr), now + latency)

    def knock(self, effects: Sequence[Effect], addr: AddrPort, now: float) -> list[Effect]:
        """Answer the small ping among `effects` from `addr`: a full-size one follows."""
        return self.core.receive_disco(self.far.pong(self.far.pings(effects)[UdpPath(addr)]), UdpPath(addr), now)

    def advance(self, until: float) -> list[tuple[float, Effect]]:
        """Run timers, nobody answering."""
        out = []
        while (due := self.core.deadline()) is not None and due <= until:
            out += [(due, effect) for effect in self.core.on_timer(due)]
        return out


def updates(effects: Sequence[Effect]) -> list[tuple[PathKind, str, str]]:
    return [(one.kind, one.path, one.reason) for one in effects if isinstance(one, PathUpdate)]


def reasons(effects: Sequence[Effect]) -> list[str]:
    return [one.reason for one in effects if isinstance(one, Dropped)]


# ------------------------------------------------------------ first send


def test_first_send_is_relayed_pings_every_candidate_and_calls() -> None:
    world = World(LAN, WAN)
    route, effects = world.core.route(world.far.key, T0)
    assert route == Route(None, HOME)
    assert set(world.far.pings(effects)) == {UdpPath(LAN), UdpPath(WAN)}
    assert world.far.calls(effects) == [(world.relay(), disco.CallMeMaybe((MINE,)))]
    assert updates(effects) == [(PathKind.RELAYED, "derp:1", "first-send")]


def test_the_first_ping_is_small_and_its_pong_brings_one_of_coders_size() -> None:
    world = World(LAN)
    effects = world.core.route(world.far.key, T0)[1]
    for size, version in ((124, 0), (1310, 1)):
        sizes = [len(one.data) for one in effects if isinstance(one, SendRaw) and isinstance(one.path, UdpPath)]
        assert sizes == [size]
        ping = world.far.pings(effects)[UdpPath(LAN)]
        assert (ping.node_key, ping.version) == (world.node, version)
        effects = world.knock(effects, LAN, T0 + 0.01)


def test_a_path_is_direct_only_after_it_carried_a_full_size_ping() -> None:
    world = World(LAN)
    effects = world.knock(world.core.route(world.far.key, T0)[1], LAN, T0 + 0.01)
    assert world.core.route(world.far.key, T0 + 0.02)[0] == Route(None, HOME)
    assert updates(world.knock(effects, LAN, T0 + 0.02)) == [(PathKind.DIRECT, str(LAN), "pong")]


def test_second_send_within_the_ping_interval_adds_nothing() -> None:
    world = World(LAN)
    first = world.core.route(world.far.key, T0)[0]
    again, effects = world.core.route(world.far.key, T0 + 4.9)
    assert again is first
    assert effects == []
    assert set(world.far.pings(world.core.route(world.far.key, T0 + 5.0)[1])) == {UdpPath(LAN)}


def test_unknown_peer_has_no_route() -> None:
    world = World()
    assert world.core.route(world.node, T0) == (None, [])


def test_peer_without_home_uses_the_relay_it_was_last_seen_on() -> None:
    world = World(home=0)
    assert world.core.route(world.far.key, T0)[0] is None
    world.core.note_derp_seen(world.far.key, OTHER_REGION, T0)
    assert world.core.route(world.far.key, T0)[0] == Route(None, OTHER_REGION)


def test_peer_gone_from_home_is_sought_where_it_was_seen() -> None:
    world = World()
    world.core.send_failed(world.relay(), T0)  # how a relay transport reports it
    assert world.core.route(world.far.key, T0)[0] == Route(None, HOME)  # nowhere better
    world.core.note_received(world.far.key, world.relay(OTHER_REGION), T0)
    assert world.core.route(world.far.key, T0)[0] == Route(None, OTHER_REGION)
    world.core.note_derp_seen(world.far.key, HOME, T0)
    assert world.core.route(world.far.key, T0)[0] == Route(None, HOME)


# ------------------------------------------------------------ pong, trust, heartbeat


def test_pong_makes_the_path_direct_and_exclusive() -> None:
    world = World(LAN)
    effects = world.knock(world.core.route(world.far.key, T0)[1], LAN, T0)
    pong = world.far.pong(world.far.pings(effects)[UdpPath(LAN)])
    answer = world.core.receive_disco(pong, UdpPath(LAN), T0 + 0.02)
    assert updates(answer) == [(PathKind.DIRECT, str(LAN), "pong")]
    update = answer[0]
    assert isinstance(update, PathUpdate)
    assert update.previous == "derp:1"
    assert update.latency == pytest.approx(0.02)
    assert world.core.route(world.far.key, T0 + 0.03) == (Route(UdpPath(LAN), None), [])


def test_trusted_route_is_one_cached_object() -> None:
    world = World(LAN)
    world.go_direct()
    route, _ = world.core.route(world.far.key, T0 + 0.1)
    answer = world.core.route(world.far.key, T0 + 0.2)
    assert answer[0] is route
    assert world.core.route(world.far.key, T0 + 0.3) is answer


def test_the_promoted_path_is_the_one_pinged_not_where_the_pong_came_from() -> None:
    world = World(LAN)
    effects = world.knock(world.core.route(world.far.key, T0)[1], LAN, T0)
    pong = world.far.pong(world.far.pings(effects)[UdpPath(LAN)])
    world.core.receive_disco(pong, UdpPath(WAN), T0 + 0.02)
    assert world.core.route(world.far.key, T0 + 0.03)[0] == Route(UdpPath(LAN), None)


def test_trust_ends_6_5_seconds_after_the_last_pong_and_traffic_goes_both_ways() -> None:
    world = World(LAN)
    world.go_direct()  # pong at T0 + 0.02
    world.advance(T0 + 6.52)  # heartbeats at +3 and +6, unanswered
    assert world.core.route(world.far.key, T0 + 6.52)[0] == Route(UdpPath(LAN), None)
    route, effects = world.core.route(world.far.key, T0 + 6.53)
    assert route == Route(UdpPath(LAN), HOME)
    assert updates(effects) == [(PathKind.RELAYED, "derp:1", "no-pong")]
    assert set(world.far.pings(effects)) == {UdpPath(LAN)}
    assert len(world.far.calls(effects)) == 1


def test_heartbeats_every_3_seconds_while_something_was_sent_in_the_last_45() -> None:
    world = World(LAN)
    world.go_direct()
    beats, now = [], T0
    while (due := world.core.deadline()) is not None:
        now = due
        for path, ping in world.far.pings(world.core.on_timer(now)).items():
            beats.append(now - T0)
            world.core.receive_disco(world.far.pong(ping), path, now + 0.004)
    assert beats == pytest.approx([3.0 * i for i in range(1, 16)])
    assert not world.core.path(world.far.key).active
    assert now - T0 == pytest.approx(48.0)  # the heartbeat that finds the session idle is the last timer


def test_heartbeats_are_padded_too() -> None:
    world = World(LAN)
    world.go_direct()
    sizes = [len(one.data) for _, one in world.advance(T0 + 6.0) if isinstance(one, SendRaw)]
    assert sizes == [
        1310,
        1332,
        1372,
        1472,
        1310,
    ]  # after the first: may packets be 1360, 1400 or 1500 bytes on the wire?


def test_after_a_cut_the_path_is_given_up_at_the_ping_timeout() -> None:
    world = World(LAN)
    world.go_direct()
    world.advance(T0 + 7.9)
    assert world.core.route(world.far.key, T0 + 7.9)[0] == Route(UdpPath(LAN), HOME)
    world.advance(T0 + 8.0)  # the heartbeat of +3 timed out, trust has ended
    assert world.core.route(world.far.key, T0 + 8.1)[0] == Route(None, HOME)


def test_after_a_sleep_of_the_machine_the_first_send_goes_both_ways() -> None:
    world = World(LAN)
    world.go_direct()
    world.advance(T0 + 2.9)
    world.core.on_timer(T0 + 100)  # no timers ran meanwhile: the machine slept
    world.core.set_local_endpoints([MINE], T0 + 100)
    route, effects = world.core.route(world.far.key, T0 + 100)
    assert route == Route(UdpPath(LAN), HOME)
    assert set(world.far.pings(effects)) == {UdpPath(LAN)}


def test_a_quiet_session_that_wakes_stays_direct_if_the_peer_answers() -> None:
    world = World(LAN)
    world.go_direct()
    now = T0
    while (due := world.core.deadline()) is not None:  # everything answered until the session is idle
        now = due
        for path, ping in world.far.pings(world.core.on_timer(now)).items():
            world.core.receive_disco(world.far.pong(ping), path, now + 0.004)
    now += 60
    world.core.set_local_endpoints([MINE], now)
    route, effects = world.core.route(world.far.key, now)
    assert route == Route(UdpPath(LAN), HOME)
    assert updates(effects) == []
    pong = world.far.pong(world.far.pings(effects)[UdpPath(LAN)])
    assert updates(world.core.receive_disco(pong, UdpPath(LAN), now + 0.02)) == []
    assert world.core.route(world.far.key, now + 0.03)[0] == Route(UdpPath(LAN), None)


@pytest.mark.parametrize(("latency", "searches"), [(0.004, False), (0.020, True)])
def test_better_paths_are_sought_every_60_seconds_unless_5_ms_are_good_enough(latency: float, searches: bool) -> None:
    world = World(LAN, WAN)
    world.go_direct(latency=latency)
    sought: list[float] = []
    while (due := world.core.deadline()) is not None and due < T0 + 100:
        world.core.route(world.far.key, due)
        for path, ping in world.far.pings(world.core.on_timer(due)).items():
            if path == UdpPath(WAN):
                sought.append(due - T0)
            else:
                world.core.receive_disco(world.far.pong(ping), path, due + latency)
    assert sought == (pytest.approx([60.0]) if searches else [])


def test_better_candidate_takes_over_and_hysteresis_keeps_an_equal_one_out() -> None:
    world = World(WAN, AddrPort("198.51.100.9", 9), LAN)
    small = world.core.route(world.far.key, T0)[1]
    full = [one for path in world.far.pings(small) for one in world.knock(small, path.addr, T0)]  # type: ignore[union-attr]
    pings = world.far.pings(full)
    first, equal, better = (UdpPath(WAN), UdpPath(AddrPort("198.51.100.9", 9)), UdpPath(LAN))
    world.core.receive_disco(world.far.pong(pings[first]), first, T0 + 0.0400)
    assert updates(world.core.receive_disco(world.far.pong(pings[equal]), equal, T0 + 0.0404)) == []
    effects = world.core.receive_disco(world.far.pong(pings[better]), better, T0 + 0.0408)
    assert updates(effects) == [(PathKind.DIRECT, str(LAN), "pong")]


def test_late_pong_is_not_counted() -> None:
    world = World(LAN)
    ping = world.far.pings(world.core.route(world.far.key, T0)[1])[UdpPath(LAN)]
    world.advance(T0 + 5.0)
    assert reasons(world.core.receive_disco(world.far.pong(ping), UdpPath(LAN), T0 + 5.1)) == ["unknown-txid"]


def test_pong_by_relay_to_a_ping_by_udp_proves_nothing() -> None:
    world = World(LAN)
    ping = world.far.pings(world.core.route(world.far.key, T0)[1])[UdpPath(LAN)]
    effects = world.core.receive_disco(world.far.pong(ping), world.relay(), T0 + 0.1)
    assert reasons(effects) == ["pong-by-other-transport"]
    assert world.core.route(world.far.key, T0 + 0.2)[0] == Route(None, HOME)


# ------------------------------------------------------------ incoming pings


def test_ping_is_answered_where_it_came_from_and_becomes_a_candidate_only() -> None:
    world = World()
    effects = world.core.receive_disco(world.far.ping(), UdpPath(WAN), T0)
    assert world.far.heard(effects) == [(UdpPath(WAN), disco.Pong(b"t" * 12, WAN))]
    assert world.core.peer_for_source(WAN) == world.far.key
    route, effects = world.core.route(world.far.key, T0 + 1)
    assert route == Route(None, HOME)
    assert set(world.far.pings(effects)) == {UdpPath(WAN)}


def test_same_ping_again_is_not_answered() -> None:
    world = World()
    packet = world.far.ping()
    world.core.receive_disco(packet, UdpPath(WAN), T0)
    assert reasons(world.core.receive_disco(packet, UdpPath(WAN), T0)) == ["duplicate-ping"]


def test_padded_ping_gets_a_padded_pong_and_tailscales_an_unpadded_one() -> None:
    world = World()
    sizes = []
    for i, (version, padding) in enumerate([(1, 1186), (0, 1186), (1, 0), (0, 0), (1, 1500)]):
        effects = world.core.receive_disco(
            world.far.ping(bytes([i]) * 12, version=version, padding=padding), UdpPath(WAN), T0
        )
        sizes += [len(one.data) for one in effects if isinstance(one, SendRaw)]
    assert sizes == [1310, 110, 110, 110, 1310]


def test_ping_by_relay_is_answered_with_the_region_in_the_magic_address() -> None:
    world = World()
    effects = world.core.receive_disco(world.far.ping(), world.relay(OTHER_REGION), T0)
    pong = disco.Pong(b"t" * 12, AddrPort("127.3.3.40", OTHER_REGION))
    assert world.far.heard(effects) == [(world.relay(OTHER_REGION), pong)]


def test_ping_by_relay_from_another_node_key_is_dropped() -> None:
    world = World()
    effects = world.core.receive_disco(world.far.ping(), DerpPath(HOME, world.node), T0)
    assert reasons(effects) == ["relay-source-mismatch"]


def test_a_replayed_ping_does_not_take_the_address_another_peer_lives_at() -> None:
    world = World(LAN)
    world.go_direct(LAN)
    other = Far(99, world.public)
    world.core.upsert_peer(other.key, other.public, home=HOME, endpoints=[], now=T0)
    world.core.receive_disco(other.ping(), UdpPath(LAN), T0 + 1)
    assert world.core.peer_for_source(LAN) == world.far.key
    world.core.learn_source(LAN, other.key, T0 + 1)  # decrypted: that is proof
    assert world.core.peer_for_source(LAN) == other.key


def test_ping_is_answered_with_a_ping_while_there_are_packets_but_no_direct_path() -> None:
    world = World(LAN)
    world.core.route(world.far.key, T0)  # LAN was pinged, in vain
    effects = world.core.receive_disco(world.far.ping(), UdpPath(LAN), T0 + 0.1)
    assert [type(message) for _, message in world.far.heard(effects)] == [disco.Pong, disco.Ping]
    ping = world.far.pings(effects)[UdpPath(LAN)]
    world.core.receive_disco(world.far.pong(ping), UdpPath(LAN), T0 + 0.2)
    effects = world.core.receive_disco(world.far.ping(b"u" * 12), UdpPath(LAN), T0 + 0.3)
    assert [type(message) for _, message in world.far.heard(effects)] == [disco.Pong]


def test_pinging_back_is_rationed() -> None:
    world = World()
    world.core.route(world.far.key, T0)
    asked = 0
    for i in range(50):
        effects = world.core.receive_disco(world.far.ping(bytes([i]) * 12), UdpPath(WAN), T0 + i / 1000)
        asked += len(world.far.pings(effects))
    assert asked == 10


# ------------------------------------------------------------ call-me-maybe


def test_call_me_maybe_makes_us_ping_at_once_without_calling_back() -> None:
    world = World(LAN)
    world.core.route(world.far.key, T0)  # LAN was pinged just now
    effects = world.core.receive_disco(world.far.call(WAN, LAN), world.relay(), T0 + 0.1)
    assert set(world.far.pings(effects)) == {UdpPath(LAN), UdpPath(WAN)}
    assert world.far.calls(effects) == []


def test_call_me_maybe_drops_called_candidates_no_longer_listed() -> None:
    world = World()
    effects = world.knock(world.core.receive_disco(world.far.call(WAN), world.relay(), T0), WAN, T0)
    world.core.receive_disco(world.far.pong(world.far.pings(effects)[UdpPath(WAN)]), UdpPath(WAN), T0 + 0.02)
    assert world.core.route(world.far.key, T0 + 0.1)[0] == Route(UdpPath(WAN), None)
    effects = world.core.receive_disco(world.far.call(LAN), world.relay(), T0 + 1)
    assert updates(effects) == [(PathKind.RELAYED, "derp:1", "candidate-gone")]
    assert world.core.route(world.far.key, T0 + 1.1)[0] == Route(None, HOME)


def test_call_me_maybe_is_believed_from_relays_only() -> None:
    world = World()
    assert reasons(world.core.receive_disco(world.far.call(WAN), UdpPath(LAN), T0)) == ["call-me-maybe-over-udp"]


def test_call_me_maybe_ignores_addresses_nobody_can_be_reached_at() -> None:
    world = World()
    bad = [("fe80::1", 1), ("0.0.0.0", 1), ("224.0.0.1", 1), ("ff02::1", 1), ("255.255.255.255", 1), ("10.0.0.1", 0)]
    effects = world.core.receive_disco(world.far.call(*(AddrPort(*one) for one in bad), WAN), world.relay(), T0)
    assert set(world.far.pings(effects)) == {UdpPath(WAN)}


def test_a_flood_of_calls_is_not_obeyed() -> None:
    world = World()
    dropped = [
        bool(reasons(world.core.receive_disco(world.far.call(WAN), world.relay(), T0 + i / 100))) for i in range(30)
    ]
    assert dropped == [False] * 10 + [True] * 20
    assert reasons(world.core.receive_disco(world.far.call(WAN), world.relay(), T0 + 3)) == []


def test_stale_own_endpoints_are_refreshed_before_calling() -> None:
    world = World(LAN)
    late = T0 + 27.1
    effects = world.core.route(world.far.key, late)[1]
    assert EndpointsWanted("call-me-maybe") in effects
    assert world.far.calls(effects) == []
    fresh = AddrPort("203.0.113.10", 5)
    effects = world.core.set_local_endpoints([fresh, MINE], late + 0.2)
    assert world.far.calls(effects) == [(world.relay(), disco.CallMeMaybe((fresh, MINE)))]


def test_a_call_waits_for_the_refresh_no_longer_than_3_seconds() -> None:
    world = World(LAN)
    late = T0 + 27.1
    world.core.route(world.far.key, late)
    calls = [(at - late, call) for at, effect in world.advance(late + 4) for _, call in world.far.calls([effect])]
    assert [call for _, call in calls] == [disco.CallMeMaybe((MINE,))]
    assert calls[0][0] == pytest.approx(3.0)


def test_a_new_own_endpoint_is_told_to_a_peer_still_relayed() -> None:
    world = World(LAN)
    world.core.route(world.far.key, T0)
    assert world.core.set_local_endpoints([MINE], T0 + 1) == []
    assert len(world.far.calls(world.core.set_local_endpoints([MINE, WAN], T0 + 1))) == 1


def test_a_peer_without_candidates_is_called_every_5_seconds() -> None:
    world = World()
    assert len(world.far.calls(world.core.route(world.far.key, T0)[1])) == 1
    assert world.core.route(world.far.key, T0 + 4)[1] == []
    assert len(world.far.calls(world.core.route(world.far.key, T0 + 5)[1])) == 1


# ------------------------------------------------------------ strangers and junk


def test_a_stranger_is_dropped_before_any_cryptography() -> None:
    world = World()
    stranger = Far(50, world.public)
    assert reasons(world.core.receive_disco(stranger.ping(), UdpPath(WAN), T0)) == ["unknown-disco-key"]
    assert world.core.counters["unknown-disco-key"] == 1


def test_a_forged_box_under_a_known_key_is_dropped() -> None:
    world = World()
    forged = bytearray(world.far.ping())
    forged[-1] ^= 1
    assert reasons(world.core.receive_disco(bytes(forged), UdpPath(WAN), T0)) == ["disco-not-for-us"]


def test_malformed_and_unknown_messages_are_named() -> None:
    world = World()
    for plaintext, reason in [
        (b"", "disco-malformed"),
        (b"\x01\x00abc", "disco-malformed"),
        (b"\x07\0", "disco-ignored-type"),
    ]:
        assert reasons(world.core.receive_disco(world.far.seal(plaintext), UdpPath(WAN), T0)) == [reason]


# ------------------------------------------------------------ what the coordinator and the tunnel say


def test_weak_disco_key_leaves_the_peer_relayed() -> None:
    world = World(LAN)
    key = NodePublic(b"\x05" * 32)
    world.core.upsert_peer(key, DiscoPublic(bytes(32)), home=HOME, endpoints=[LAN], now=T0)
    route, effects = world.core.route(key, T0)
    assert route == Route(None, HOME)
    assert not any(isinstance(effect, SendRaw) for effect in effects)
    assert world.core.ping(key, T0)[0] is None


def test_new_disco_key_from_the_coordinator_ends_trust_and_is_used() -> None:
    world = World(LAN)
    world.go_direct()
    reborn = Far(60, world.public)
    effects = world.core.upsert_peer(world.far.key, reborn.public, home=HOME, endpoints=[LAN], now=T0 + 6)
    assert world.core.route(world.far.key, T0 + 6)[0] == Route(UdpPath(LAN), HOME)
    assert set(reborn.pings(effects)) == {UdpPath(LAN)}
    assert reasons(world.core.receive_disco(world.far.ping(), UdpPath(LAN), T0 + 7)) == ["unknown-disco-key"]


def test_disco_key_from_the_tunnel_is_accepted_beside_the_old_one() -> None:
    world = World(LAN)
    reborn = Far(60, world.public)
    world.core.set_disco_key(world.far.key, reborn.public, T0)
    assert world.far.heard(world.core.receive_disco(world.far.ping(), UdpPath(LAN), T0))
    assert set(world.far.pings(world.core.route(world.far.key, T0)[1])) == {UdpPath(LAN)}  # it spoke with the old one
    assert reborn.heard(world.core.receive_disco(reborn.ping(b"u" * 12), UdpPath(LAN), T0))
    assert set(reborn.pings(world.core.route(world.far.key, T0 + 5)[1])) == {UdpPath(LAN)}


def test_first_announcement_in_band_ends_trust_even_if_it_repeats_the_key() -> None:
    world = World(LAN)
    world.go_direct()
    world.core.set_disco_key(world.far.key, world.far.public, T0 + 1)
    assert world.core.route(world.far.key, T0 + 1)[0] == Route(UdpPath(LAN), HOME)
    ping = world.far.pings(world.core.route(world.far.key, T0 + 6)[1])[UdpPath(LAN)]
    world.core.receive_disco(world.far.pong(ping), UdpPath(LAN), T0 + 6.02)
    assert world.core.set_disco_key(world.far.key, world.far.public, T0 + 7) == []
    assert world.core.route(world.far.key, T0 + 7)[0] == Route(UdpPath(LAN), None)


def test_candidates_that_leave_the_netmap_go_and_new_ones_are_pinged_at_once() -> None:
    world = World(LAN)
    world.core.route(world.far.key, T0)
    effects = world.core.upsert_peer(world.far.key, world.far.public, home=HOME, endpoints=[WAN], now=T0 + 1)
    assert set(world.far.pings(effects)) == {UdpPath(WAN)}
    assert [one.addr for one in world.core.path(world.far.key).candidates] == [WAN]


def test_new_home_is_used_and_announced() -> None:
    world = World()
    world.core.route(world.far.key, T0)
    effects = world.core.upsert_peer(world.far.key, world.far.public, home=OTHER_REGION, endpoints=[], now=T0 + 1)
    assert updates(effects) == [(PathKind.RELAYED, "derp:2", "relay-changed")]
    assert world.core.route(world.far.key, T0 + 1)[0] == Route(None, OTHER_REGION)


def test_removed_peer_leaves_nothing_behind() -> None:
    world = World(LAN)
    world.go_direct()
    world.core.remove_peer(world.far.key)
    assert world.core.peer_for_source(LAN) is None
    assert world.core.deadline() is None
    assert reasons(world.core.receive_disco(world.far.ping(), UdpPath(LAN), T0)) == ["unknown-disco-key"]
    assert world.core.path(world.far.key).kind is PathKind.NONE


def test_two_nodes_may_share_a_disco_key() -> None:
    world = World()
    twin = NodePrivate.generate(Random(70).randbytes).public()
    world.core.upsert_peer(twin, world.far.public, home=HOME, endpoints=[], now=T0)
    world.core.receive_disco(world.far.ping(), UdpPath(WAN), T0)
    assert world.core.peer_for_source(WAN) == world.far.key  # by the hint inside the ping
    assert set(world.far.pings(world.core.route(twin, T0)[1])) == {UdpPath(WAN)}
    world.core.remove_peer(world.far.key)
    assert world.far.heard(world.core.receive_disco(world.far.ping(b"u" * 12), UdpPath(WAN), T0))


# ------------------------------------------------------------ direct paths forbidden


def test_blocked_direct_paths_mean_relay_only_in_every_respect() -> None:
    world = World(LAN, rules=NEVER)
    route, effects = world.core.route(world.far.key, T0)
    assert route == Route(None, HOME)
    assert [effect for effect in effects if isinstance(effect, SendRaw)] == []
    assert reasons(world.core.receive_disco(world.far.ping(), UdpPath(WAN), T0)) == ["direct-blocked"]
    assert reasons(world.core.receive_disco(world.far.call(WAN), world.relay(), T0)) == ["direct-blocked"]
    assert world.far.heard(world.core.receive_disco(world.far.ping(), world.relay(), T0))
    assert world.core.path(world.far.key).candidates[0].why_not == "direct paths are not allowed by the test"


def test_direct_paths_may_be_forbidden_and_permitted_while_running() -> None:
    world = World(LAN)
    world.go_direct()
    effects = world.core.set_rules(NEVER, T0 + 1, world.far.key)
    assert updates(effects) == [(PathKind.RELAYED, "derp:1", "direct-blocked")]
    assert world.core.route(world.far.key, T0 + 1)[0] == Route(None, HOME)
    said = [effect for _, effect in world.advance(T0 + 60) if not isinstance(effect, Dropped)]
    assert {effect.path for effect in said if isinstance(effect, SendRaw)} == {world.relay()}  # measured, no more
    world.core.set_rules(None, T0 + 60, world.far.key)
    assert set(world.far.pings(world.core.route(world.far.key, T0 + 60)[1])) == {UdpPath(LAN)}


# ------------------------------------------------------------ failures of our own sockets


def test_unreachable_host_clears_the_path_at_once() -> None:
    world = World(LAN)
    world.go_direct()
    effects = world.core.send_failed(UdpPath(LAN), T0 + 1)
    assert updates(effects) == [(PathKind.RELAYED, "derp:1", "unreachable")]
    assert world.core.route(world.far.key, T0 + 1)[0] == Route(None, HOME)
    assert world.core.path(world.far.key).candidates[0].why_not == "host unreachable"


def test_too_big_for_the_local_link_is_only_noted() -> None:
    world = World(LAN, WAN)
    world.go_direct()
    assert world.core.send_failed(UdpPath(WAN), T0 + 1, too_big=True) == []
    assert world.core.route(world.far.key, T0 + 1)[0] == Route(UdpPath(LAN), None)
    assert world.core.path(world.far.key).candidates[1].why_not == "packets too big for the local link"


def test_rebind_forgets_paths_and_looks_for_them_again() -> None:
    world = World(LAN)
    world.go_direct()
    effects = world.core.rebound(T0 + 1)
    assert [one for one in effects if isinstance(one, EndpointsWanted)] == [EndpointsWanted("rebind")]
    assert updates(effects) == [(PathKind.RELAYED, "derp:1", "rebind")]
    assert set(world.far.pings(effects)) == {UdpPath(LAN)}
    assert world.core.route(world.far.key, T0 + 1)[0] == Route(None, HOME)
    assert len(world.far.calls(world.core.set_local_endpoints([MINE], T0 + 1.1))) == 1


# ------------------------------------------------------------ pings for people


def test_user_ping_by_relay_measures_the_relay_and_changes_no_path() -> None:
    world = World()
    txid, effects = world.core.ping(world.far.key, T0, via="best")
    ping = world.far.pings(effects)[world.relay()]
    assert ping.txid == txid
    src = AddrPort("127.3.3.40", HOME)
    answer = world.core.receive_disco(world.far.pong(ping, src), world.relay(), T0 + 0.08)
    (pong,) = answer
    assert isinstance(pong, PongReceived)
    assert (pong.peer, pong.txid, pong.path, pong.src) == (world.far.key, txid, world.relay(), src)
    assert pong.latency == pytest.approx(0.08)
    assert world.core.path(world.far.key).latency == pytest.approx(0.08)


def test_user_ping_takes_the_direct_path_when_it_carries_data() -> None:
    world = World(LAN)
    world.go_direct()
    txid, effects = world.core.ping(world.far.key, T0 + 1)
    ping = world.far.pings(effects)[UdpPath(LAN)]
    assert ping.txid == txid
    answer = world.core.receive_disco(world.far.pong(ping), UdpPath(LAN), T0 + 1.01)
    assert [type(one) for one in answer] == [PongReceived]
    assert set(world.far.pings(world.core.ping(world.far.key, T0 + 1, via="derp")[1])) == {world.relay()}


def test_direct_user_ping_without_a_direct_path_starts_the_search() -> None:
    world = World(LAN)
    txid, effects = world.core.ping(world.far.key, T0, via="direct")
    assert txid is None
    assert set(world.far.pings(effects)) == {UdpPath(LAN)}


def test_lost_user_ping_is_reported_after_5_seconds() -> None:
    world = World()
    txid, _ = world.core.ping(world.far.key, T0, via="derp")
    assert txid is not None
    lost = [(at, one) for at, one in world.advance(T0 + 6) if isinstance(one, PingLost)]
    assert lost == [(T0 + 5, PingLost(world.far.key, txid, world.relay()))]


def test_small_user_ping_cannot_vouch_for_full_size_packets() -> None:
    world = World(LAN)
    world.go_direct()
    world.advance(T0 + 6.6)
    txid, effects = world.core.ping(world.far.key, T0 + 6.6, via="direct", size=124)
    small = next(p for p in (m for _, m in world.far.heard(effects)) if isinstance(p, disco.Ping) and p.txid == txid)
    world.core.receive_disco(world.far.pong(small), UdpPath(LAN), T0 + 6.7)
    assert world.core.route(world.far.key, T0 + 6.8)[0] == Route(UdpPath(LAN), HOME)


def test_larger_user_ping_raises_the_proven_wire_mtu() -> None:
    world = World(LAN)
    world.go_direct()
    assert world.core.path(world.far.key).wire_mtu == 1338
    _, effects = world.core.ping(world.far.key, T0 + 1, size=1472)
    assert [len(one.data) for one in effects if isinstance(one, SendRaw)] == [1472]
    world.core.receive_disco(world.far.pong(world.far.pings(effects)[UdpPath(LAN)]), UdpPath(LAN), T0 + 1.02)
    assert world.core.path(world.far.key).wire_mtu == 1500


# ------------------------------------------------------------ evidence


def test_status_tells_what_was_tried_and_why_it_is_not_used() -> None:
    world = World(LAN, WAN)
    fresh = world.core.path(world.far.key)
    assert fresh.kind is PathKind.RELAYED
    assert [one.why_not for one in fresh.candidates] == ["not tried yet", "not tried yet"]
    world.go_direct(LAN)
    status = world.core.path(world.far.key)
    assert (status.kind, status.addr, status.region, status.active) == (PathKind.DIRECT, LAN, HOME, True)
    assert status.trusted_until == pytest.approx(T0 + 0.02 + c.TRUST_DURATION)
    lan, wan = status.candidates
    assert (lan.sources, lan.sent, lan.answered, lan.why_not) == (("coordinator",), 2, 2, "")
    assert (wan.sent, wan.answered, wan.latency, wan.why_not) == (1, 0, None, "waiting for an answer")
    world.advance(T0 + 5)
    assert world.core.path(world.far.key).candidates[1].why_not == "no answer"


# ------------------------------------------------------------ rules


def test_rules_name_whose_they_are_and_the_peers_own_win() -> None:
    world = World(LAN, rules=NEVER)
    assert world.core.path(world.far.key).refused == "direct paths are not allowed by the test"
    world.core.set_rules(PathRules(set_by="workspace dev"), T0, world.far.key)
    assert world.core.path(world.far.key).refused == ""
    assert set(world.far.pings(world.core.route(world.far.key, T0)[1])) == {UdpPath(LAN)}
    world.core.set_rules(PathRules(ipv6=False, set_by="you"), T0)  # for all others
    assert world.core.path(world.far.key).refused == ""
    world.core.set_rules(None, T0, world.far.key)
    assert world.core.path(world.far.key).refused == "IPv6 is not allowed by you"


def test_direct_only_never_sends_data_by_relay_but_calls_by_it() -> None:
    world = World(LAN, rules=PathRules(direct=DirectRule.ONLY, set_by="the deployment"))
    route, effects = world.core.route(world.far.key, T0)
    assert route is None
    assert world.far.calls(effects) == [(world.relay(), disco.CallMeMaybe((MINE,)))]
    assert world.core.path(world.far.key).refused == "relayed data is not allowed by the deployment"
    effects = world.knock(effects, LAN, T0)
    answer = world.far.pong(world.far.pings(effects)[UdpPath(LAN)])
    assert updates(world.core.receive_disco(answer, UdpPath(LAN), T0 + 0.01))[0][0] is PathKind.DIRECT
    late = T0 + 30  # trust is long over
    assert world.core.route(world.far.key, late)[0] == Route(UdpPath(LAN), None)


def test_without_ipv6_no_such_address_is_tried_answered_or_told() -> None:
    six, mine_six = AddrPort("2001:db8::7", 41641), AddrPort("2001:db8::1", 41641)
    world = World(LAN, six, rules=PathRules(ipv6=False))
    world.core.set_local_endpoints([mine_six, MINE], T0)
    effects = world.core.route(world.far.key, T0)[1]
    assert set(world.far.pings(effects)) == {UdpPath(LAN)}
    assert world.far.calls(effects)[0][1] == disco.CallMeMaybe((MINE,))
    assert reasons(world.core.receive_disco(world.far.ping(), UdpPath(six), T0)) == ["ipv6-blocked"]
    assert world.core.route(world.far.key, T0 + 1)[1] == []
    whys = {one.addr: one.why_not for one in world.core.path(world.far.key).candidates}
    assert whys[six] == "IPv6 is not allowed"
    world.core.set_rules(NO_RULES, T0 + 2)
    assert UdpPath(six) in world.far.pings(world.core.route(world.far.key, T0 + 2)[1])


def test_an_ipv6_path_in_use_ends_with_the_rule() -> None:
    six = AddrPort("2001:db8::7", 41641)
    world = World(six)
    world.go_direct(six)
    assert updates(world.core.set_rules(PathRules(ipv6=False), T0 + 1)) == [(PathKind.RELAYED, "derp:1", "rules")]
    assert world.core.route(world.far.key, T0 + 1)[0] == Route(None, HOME)


def test_the_preferred_region_is_used_while_the_peer_is_connected_there() -> None:
    world = World(rules=PathRules(prefer_region=4))
    assert world.core.route(world.far.key, T0)[0] == Route(None, HOME)
    world.core.note_derp_seen(world.far.key, 4, T0 + 1)
    assert world.core.route(world.far.key, T0 + 1)[0] == Route(None, 4)
    world.core.peer_gone(world.far.key, 4, T0 + 2)
    assert world.core.route(world.far.key, T0 + 2)[0] == Route(None, HOME)


# ------------------------------------------------------------ what our own sources saw


def test_a_suggested_address_is_tried_at_once_if_packets_wait_and_else_with_the_first() -> None:
    world = World(home=0)
    assert world.core.suggest_endpoints(world.far.key, [LAN], T0) == []  # nobody wants to reach it yet
    assert set(world.far.pings(world.core.route(world.far.key, T0 + 1)[1])) == {UdpPath(LAN)}
    other = AddrPort("192.168.1.21", 41641)
    effects = world.core.suggest_endpoints(world.far.key, [LAN, other], T0 + 2)
    assert set(world.far.pings(effects)) == {UdpPath(other)}
    answer = world.knock(effects, other, T0 + 2)
    assert updates(world.knock(answer, other, T0 + 2.01)) == [(PathKind.DIRECT, str(other), "pong")]
    sources = {one.addr: one.sources for one in world.core.path(world.far.key).candidates}
    assert sources[LAN] == ("suggested",)


def test_suggestions_replace_each_other_and_neither_make_nor_break_what_others_vouch_for() -> None:
    world = World(LAN)
    world.core.suggest_endpoints(world.far.key, [LAN, WAN], T0)
    world.core.suggest_endpoints(world.far.key, [], T0)
    assert [one.addr for one in world.core.path(world.far.key).candidates] == [LAN]
    world.core.suggest_endpoints(world.far.key, [LAN], T0)
    world.core.upsert_peer(world.far.key, world.far.public, home=HOME, endpoints=[], now=T0)
    assert [one.addr for one in world.core.path(world.far.key).candidates] == [LAN]
    assert world.core.suggest_endpoints(Far(61, world.public).key, [WAN], T0) == []  # a stranger


def test_a_forged_goodbye_does_not_end_a_path_that_answers() -> None:
    world = World()
    world.core.suggest_endpoints(world.far.key, [LAN, WAN], T0)
    world.go_direct()
    assert world.core.suggest_endpoints(world.far.key, [], T0 + 1) == []
    assert world.core.route(world.far.key, T0 + 1)[0] == Route(UdpPath(LAN), None)
    assert [one.addr for one in world.core.path(world.far.key).candidates] == [LAN]
    effects = world.core.suggest_endpoints(world.far.key, [], T0 + 60)
    assert updates(effects) == [(PathKind.RELAYED, "derp:1", "candidate-gone")]


def test_suggestions_without_end_are_a_few_addresses() -> None:
    world = World()
    many = [AddrPort(f"10.0.{number >> 8}.{number & 255}", 7) for number in range(1, 3000)]
    world.core.suggest_endpoints(world.far.key, [AddrPort("0.0.0.0", 7), AddrPort("224.0.0.251", 7), *many], T0)
    assert len(world.core.path(world.far.key).candidates) == c.MAX_SUGGESTED_ENDPOINTS
    pings = world.far.pings(world.core.route(world.far.key, T0)[1])
    assert len(pings) == c.MAX_SUGGESTED_ENDPOINTS


def test_where_direct_paths_are_forbidden_suggestions_are_not_tried() -> None:
    world = World(rules=NEVER)
    world.core.suggest_endpoints(world.far.key, [LAN], T0)
    effects = world.core.route(world.far.key, T0)[1] + world.core.suggest_endpoints(world.far.key, [WAN], T0 + 1)
    assert world.far.pings(effects) == {}
