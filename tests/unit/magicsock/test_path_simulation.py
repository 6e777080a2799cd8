"""Two cores find each other in a simulated network: what becomes direct, how fast, and what survives a cut."""

from __future__ import annotations

from itertools import pairwise

import pytest

from coder_agent.base.addresses import AddrPort
from coder_agent.base.paths import DerpPath, PathKind, UdpPath
from coder_agent.protocols.effects import SendRaw
from coder_agent.testing.sim_nat import Filtering, Mapping, Nat, easy, full_cone, hard
from coder_agent.testing.sim_net import SimHost, SimNet

WAN_A, WAN_B = "198.51.100.1", "203.0.113.1"


def introduce(net: SimNet, a: SimHost, b: SimHost, *, endpoints: list[AddrPort] | None = None) -> None:
    """What the coordinator does: both know each other, and both have looked around."""
    for host in (a, b):
        host.look_around()
    a.meet(b, endpoints)
    b.meet(a, endpoints)


def two_hosts(net: SimNet, nat_a: Nat | None, nat_b: Nat | None, *, udp_b: bool = True) -> tuple[SimHost, SimHost]:
    a = net.host("a", "192.168.1.10:41641" if nat_a else "198.51.100.10:41641", nat_a)
    b = net.host("b", "192.168.2.20:41641" if nat_b else "203.0.113.20:41641", nat_b, udp=udp_b)
    return a, b


def kind(host: SimHost, other: SimHost) -> PathKind:
    return host.magicsock.path(other.key).kind


def paths_of(host: SimHost, since: float) -> set[str]:
    return {"relay" if isinstance(one.path, DerpPath) else "direct" for one in host.arrivals if one.at >= since}


def test_on_a_lan_the_path_is_direct_within_a_second_of_the_first_send() -> None:
    net = SimNet()
    lan = easy(WAN_A)
    a, b = net.host("a", "192.168.1.10:41641", lan), net.host("b", "192.168.1.20:41641", lan)
    introduce(net, a, b)
    a.send_each(b, 0.1, net.now + 2)
    net.run(1)
    assert a.magicsock.path(b.key).addr == b.addr
    assert kind(a, b) is PathKind.DIRECT
    net.run(1)
    assert paths_of(b, net.now - 0.5) == {"direct"}


def test_two_easy_nats_are_punched_by_call_me_maybe_without_any_endpoint_from_the_coordinator() -> None:
    net = SimNet()
    a, b = two_hosts(net, easy(WAN_A), easy(WAN_B))
    introduce(net, a, b, endpoints=[])
    a.send_each(b, 0.1, net.now + 2)
    b.send_each(a, 0.1, net.now + 2)  # a tunnel always has answers: they make b call, too
    net.run(1)
    assert (kind(a, b), kind(b, a)) == (PathKind.DIRECT, PathKind.DIRECT)
    net.run(1)
    assert paths_of(b, net.now - 0.5) == {"direct"}


def test_two_easy_nats_are_punched_within_a_second_even_if_only_one_side_has_something_to_say() -> None:
    net = SimNet()
    a, b = two_hosts(net, easy(WAN_A), easy(WAN_B))
    introduce(net, a, b)
    a.send_each(b, 0.1, net.now + 2)
    net.run(1)
    assert (kind(a, b), kind(b, a)) == (PathKind.DIRECT, PathKind.DIRECT)


NATS = {
    "none": lambda outside: None,
    "full cone": full_cone,
    "easy": easy,
    "hard": hard,
}
EXPECTED = [
    # who sends · who is sent to · how it ends. Hard to easy needs the easy side to have opened the hard side's new
    # port, which it cannot know: its filtering is by port, so both stay relayed. A full cone lets the new port in.
    ("none", "none", PathKind.DIRECT),
    ("none", "easy", PathKind.DIRECT),
    ("none", "hard", PathKind.DIRECT),
    ("full cone", "hard", PathKind.DIRECT),
    ("full cone", "easy", PathKind.DIRECT),
    ("easy", "none", PathKind.DIRECT),
    ("easy", "easy", PathKind.DIRECT),
    ("easy", "hard", PathKind.RELAYED),
    ("hard", "none", PathKind.DIRECT),
    ("hard", "full cone", PathKind.DIRECT),
    ("hard", "easy", PathKind.RELAYED),
    ("hard", "hard", PathKind.RELAYED),
]


@pytest.mark.parametrize(("mine", "theirs", "expected"), EXPECTED, ids=[f"{a} to {b}" for a, b, _ in EXPECTED])
def test_nat_matrix(mine: str, theirs: str, expected: PathKind) -> None:
    net = SimNet()
    a, b = two_hosts(net, NATS[mine](WAN_A), NATS[theirs](WAN_B))
    introduce(net, a, b)
    a.send_each(b, 0.1, net.now + 10)
    b.send_each(a, 0.1, net.now + 10)
    net.run(10)
    assert (kind(a, b), kind(b, a)) == (expected, expected)
    assert paths_of(b, net.now - 1) == {"direct" if expected is PathKind.DIRECT else "relay"}


def test_address_dependent_filtering_lets_a_hard_nat_through() -> None:
    net = SimNet()
    soft = Nat(WAN_B, Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_DEPENDENT)
    a, b = two_hosts(net, hard(WAN_A), soft)
    introduce(net, a, b)
    a.send_each(b, 0.1, net.now + 10)
    net.run(10)
    assert kind(a, b) is PathKind.DIRECT


def test_with_udp_blocked_everything_is_relayed_and_arrives_once() -> None:
    net = SimNet()
    a, b = two_hosts(net, easy(WAN_A), easy(WAN_B), udp_b=False)
    introduce(net, a, b)
    start = net.now
    a.send_each(b, 0.1, start + 30)
    net.run(31)
    assert kind(a, b) is PathKind.RELAYED
    assert len(b.arrivals) == 301
    assert paths_of(b, start) == {"relay"}
    assert [update.path for _, update in a.updates] == ["derp:1"]


def test_a_cut_path_spills_to_the_relay_after_6_5_seconds_and_returns_when_cured() -> None:
    net = SimNet()
    a, b = two_hosts(net, easy(WAN_A), easy(WAN_B))
    introduce(net, a, b)
    a.send_each(b, 0.05, net.now + 60)
    net.run(10)
    assert kind(a, b) is PathKind.DIRECT
    last_pong = a.magicsock.path(b.key).trusted_until - 6.5
    cut = net.now
    net.wire.blocked = lambda source, target: True
    net.run(20)
    through = [one.at for one in b.arrivals if one.at > cut + net.wire.direct_latency]
    assert last_pong + 6.5 < through[0] < last_pong + 6.5 + 0.05 + 2 * net.wire.relay_latency
    # …and from then on nothing is missing
    assert all(later - earlier < 0.06 for earlier, later in pairwise(through))
    assert kind(a, b) is PathKind.RELAYED
    cured = net.now
    net.wire.blocked = lambda source, target: False
    net.run(6)
    assert kind(a, b) is PathKind.DIRECT
    back = next(at for at, update in a.updates if at > cured and update.kind is PathKind.DIRECT)
    assert back - cured <= 5.5  # the next search is at most 5 s away
    net.run(2)
    assert paths_of(b, net.now - 1) == {"direct"}
    assert [update.kind for _, update in a.updates] == [
        PathKind.RELAYED, PathKind.DIRECT, PathKind.RELAYED, PathKind.DIRECT,
    ]  # fmt: skip


def test_a_path_that_carries_only_small_packets_is_not_chosen() -> None:
    net = SimNet()
    net.wire.mtu = 1300  # full-size WireGuard packets need 1340
    a, b = two_hosts(net, None, None)
    introduce(net, a, b)
    a.send_each(b, 0.1, net.now + 20)
    net.run(20)
    assert kind(a, b) is PathKind.RELAYED
    assert paths_of(b, 0) == {"relay"}


def test_a_path_whose_mtu_shrinks_is_left() -> None:
    net = SimNet()
    a, b = two_hosts(net, None, None)
    introduce(net, a, b)
    a.send_each(b, 0.1, net.now + 40)
    net.run(10)
    assert kind(a, b) is PathKind.DIRECT
    net.wire.mtu = 1300
    net.run(10)
    assert kind(a, b) is PathKind.RELAYED


def test_an_idle_session_sends_nothing_and_wakes_direct() -> None:
    net = SimNet()
    a, b = two_hosts(net, None, None)
    introduce(net, a, b)
    a.send(b)
    net.run(60)
    asleep = net.now
    net.run(600)
    assert [effect for at, effect in a.disco_sent + b.disco_sent if at > asleep] == []
    a.send_each(b, 0.1, net.now + 1)
    net.run(2)
    assert paths_of(b, asleep) == {"direct", "relay"}  # the first packets both ways, until the pong
    assert paths_of(b, net.now - 1.5) == {"direct"}
    assert kind(a, b) is PathKind.DIRECT


def test_a_nat_that_forgets_is_kept_open_by_heartbeats() -> None:
    net = SimNet()
    nat_a, nat_b = easy(WAN_A), easy(WAN_B)
    nat_a.lifetime = nat_b.lifetime = 4.0
    a, b = two_hosts(net, nat_a, nat_b)
    introduce(net, a, b)
    a.send_each(b, 20.0, net.now + 100)
    net.run(100)
    relayed = [at for at, update in a.updates if update.kind is PathKind.RELAYED]
    assert kind(a, b) is PathKind.DIRECT
    assert len(relayed) == 1


def test_roaming_to_another_network_comes_back_to_direct() -> None:
    net = SimNet()
    a, b = two_hosts(net, None, None)
    introduce(net, a, b)
    a.send_each(b, 0.1, net.now + 60)
    net.run(5)
    assert kind(a, b) is PathKind.DIRECT
    a.addr = AddrPort("198.51.100.77", 41641)
    a.carry_out(a.magicsock.rebound(net.now))
    net.run(1)
    assert kind(a, b) is PathKind.DIRECT
    b.send(a)
    assert b.magicsock.path(a.key).candidates
    b.send_each(a, 0.1, net.now + 20)
    net.run(15)
    assert b.magicsock.path(a.key).addr == a.addr
    assert paths_of(a, net.now - 1) == {"direct"}


@pytest.mark.parametrize("seed", range(5))
def test_a_lossy_path_stays_usable_and_nothing_sent_by_both_ways_is_lost(seed: int) -> None:
    net = SimNet(seed=seed)
    net.wire.loss = 0.1
    a, b = two_hosts(net, easy(WAN_A), easy(WAN_B))
    introduce(net, a, b)
    a.send_each(b, 0.1, net.now + 120)
    net.run(120)
    direct = sum(isinstance(one.path, UdpPath) for one in b.arrivals)
    assert direct > 900  # of 1200, less 10 % loss and the times without trust


def test_the_whole_simulation_is_reproducible() -> None:
    def transcript() -> list[tuple[float, bytes]]:
        net = SimNet(seed=4)
        net.wire.loss = 0.2
        a, b = two_hosts(net, easy(WAN_A), hard(WAN_B))
        introduce(net, a, b)
        a.send_each(b, 0.1, net.now + 30)
        net.run(30)
        return [(at, effect.data) for at, effect in a.disco_sent if isinstance(effect, SendRaw)]

    first = transcript()
    assert len(first) > 10
    assert first == transcript()
