"""Two cores find each other in a simulated network: how fast, and what survives a cut. Which pairs of networks become
direct at all is the matter of tests/unit/testing/test_nat_matrix.py."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from coder_agent.base.addresses import AddrPort
from coder_agent.base.paths import DerpPath, PathKind, UdpPath
from coder_agent.protocols.effects import SendRaw
from coder_agent.testing.lab import (
    LAN,
    Cut,
    Filtering,
    Firewall,
    Host,
    Interface,
    Lab,
    LinkRules,
    Mapping,
    NatRules,
    Router,
    SimHost,
    Topology,
)

LATENCY = 0.010
RELAY_LATENCY = 0.030
"""Seconds one way, from host to host."""
EASY = NatRules()
HARD = NatRules(mapping=Mapping.ADDRESS_AND_PORT_DEPENDENT)


def lab_of(nat_a: NatRules | None, nat_b: NatRules | None, *, seed: int = 1, core: LinkRules | None = None) -> Lab:
    """Hosts a and b, each with a public address or behind a router."""
    hosts: list[Host] = []
    routers: list[Router] = []
    for name, wan, lan, nat in (("a", "198.51.100", "192.168.1", nat_a), ("b", "203.0.113", "192.168.2", nat_b)):
        if nat is None:
            hosts.append(Host(name, (Interface(f"{wan}.10"),)))
        else:
            hosts.append(Host(name, (Interface(f"{lan}.10", f"lan-{name}"),)))
            routers.append(Router(f"home-{name}", f"lan-{name}", f"{wan}.1", nat=nat))
    return Lab(Topology(tuple(hosts), tuple(routers), core=core or LinkRules(latency=LATENCY)), seed)


def two(lab: Lab, *, endpoints: bool = True) -> tuple[SimHost, SimHost]:
    """Both have looked around and know each other."""
    lab.start()
    lab.run(1)
    lab.introduce(endpoints=endpoints)
    return lab.host("a"), lab.host("b")


def kind(host: SimHost, other: SimHost) -> PathKind:
    return host.magicsock.path(other.key).kind


def paths_of(host: SimHost, since: float) -> set[str]:
    return {"relay" if isinstance(one.path, DerpPath) else "direct" for one in host.arrivals if one.at >= since}


def test_on_a_lan_the_path_is_direct_within_a_second_of_the_first_send() -> None:
    hosts = tuple(Host(name, (Interface(f"192.168.1.{last}", "lan", LAN),)) for name, last in (("a", 10), ("b", 20)))
    net = Lab(Topology(hosts, (Router("home", "lan", "198.51.100.1"),)))
    a, b = two(net)
    a.send_each(b, 0.1, net.now + 2)
    net.run(1)
    assert a.magicsock.path(b.key).addr == b.endpoints[-1]
    assert kind(a, b) is PathKind.DIRECT
    net.run(1)
    assert paths_of(b, net.now - 0.5) == {"direct"}


def test_two_easy_nats_are_punched_by_call_me_maybe_without_any_endpoint_from_the_coordinator() -> None:
    net = lab_of(EASY, EASY)
    a, b = two(net, endpoints=False)
    a.send_each(b, 0.1, net.now + 2)
    b.send_each(a, 0.1, net.now + 2)  # a tunnel always has answers: they make b call, too
    net.run(1)
    assert (kind(a, b), kind(b, a)) == (PathKind.DIRECT, PathKind.DIRECT)
    net.run(1)
    assert paths_of(b, net.now - 0.5) == {"direct"}


def test_two_easy_nats_are_punched_within_a_second_even_if_only_one_side_has_something_to_say() -> None:
    net = lab_of(EASY, EASY)
    a, b = two(net)
    a.send_each(b, 0.1, net.now + 2)
    net.run(1)
    assert (kind(a, b), kind(b, a)) == (PathKind.DIRECT, PathKind.DIRECT)


def test_address_dependent_filtering_lets_a_hard_nat_through() -> None:
    net = lab_of(HARD, NatRules(filtering=Filtering.ADDRESS_DEPENDENT))
    a, b = two(net)
    a.send_each(b, 0.1, net.now + 10)
    net.run(10)
    assert kind(a, b) is PathKind.DIRECT


def test_with_udp_blocked_everything_is_relayed_and_arrives_once() -> None:
    topology = lab_of(EASY, EASY).network.topology
    net = Lab(topology.with_host("b", lambda host: replace(host, firewall=Firewall(udp=False))))
    a, b = two(net)
    start = net.now
    a.send_each(b, 0.1, start + 30)
    net.run(31)
    assert kind(a, b) is PathKind.RELAYED
    assert len(b.arrivals) == 301
    assert paths_of(b, start) == {"relay"}
    assert [update.path for _, update in a.updates] == ["derp:1"]


def test_a_cut_path_spills_to_the_relay_after_6_5_seconds_and_returns_when_cured() -> None:
    net = lab_of(EASY, EASY)
    a, b = two(net)
    a.send_each(b, 0.05, net.now + 60)
    net.run(10)
    assert kind(a, b) is PathKind.DIRECT
    last_pong = a.magicsock.path(b.key).trusted_until - 6.5
    cut = net.now
    net.network.set_core(cut=Cut.UDP)
    net.run(20)
    through = [one.at for one in b.arrivals if one.at > cut + LATENCY]
    assert last_pong + 6.5 < through[0] < last_pong + 6.5 + 0.05 + 2 * RELAY_LATENCY
    # …and from then on nothing is missing
    assert all(later - earlier < 0.06 for earlier, later in pairwise(through))
    assert kind(a, b) is PathKind.RELAYED
    cured = net.now
    net.network.set_core(cut=Cut.NONE)
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
    net = lab_of(None, None, core=LinkRules(latency=LATENCY, mtu=1300))  # full-size WireGuard packets need 1340
    a, b = two(net)
    a.send_each(b, 0.1, net.now + 20)
    net.run(20)
    assert kind(a, b) is PathKind.RELAYED
    assert paths_of(b, 0) == {"relay"}


def test_a_path_whose_mtu_shrinks_is_left() -> None:
    net = lab_of(None, None)
    a, b = two(net)
    a.send_each(b, 0.1, net.now + 40)
    net.run(10)
    assert kind(a, b) is PathKind.DIRECT
    net.network.set_core(mtu=1300)
    net.run(10)
    assert kind(a, b) is PathKind.RELAYED


def test_an_idle_session_sends_nothing_and_wakes_direct() -> None:
    net = lab_of(None, None)
    a, b = two(net)
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
    short = replace(EASY, lifetime=4.0)
    net = lab_of(short, short)
    a, b = two(net)
    a.send_each(b, 20.0, net.now + 100)
    net.run(100)
    relayed = [at for at, update in a.updates if update.kind is PathKind.RELAYED]
    assert kind(a, b) is PathKind.DIRECT
    assert len(relayed) == 1


def test_roaming_to_another_network_comes_back_to_direct() -> None:
    net = lab_of(None, None)
    a, b = two(net)
    a.send_each(b, 0.1, net.now + 60)
    net.run(5)
    assert kind(a, b) is PathKind.DIRECT
    elsewhere = (Interface("198.51.100.77"),)
    net.network.reshape(net.network.topology.with_host("a", lambda host: replace(host, interfaces=elsewhere)))
    a.roam()
    net.run(1)
    assert kind(a, b) is PathKind.DIRECT
    b.send(a)
    assert b.magicsock.path(a.key).candidates
    b.send_each(a, 0.1, net.now + 20)
    net.run(15)
    assert b.magicsock.path(a.key).addr == AddrPort("198.51.100.77", 41641)
    assert paths_of(a, net.now - 1) == {"direct"}


@pytest.mark.parametrize("seed", range(5))
def test_a_lossy_path_stays_usable_and_nothing_sent_by_both_ways_is_lost(seed: int) -> None:
    net = lab_of(EASY, EASY, seed=seed, core=LinkRules(latency=LATENCY, loss=0.1))
    a, b = two(net)
    a.send_each(b, 0.1, net.now + 120)
    net.run(120)
    direct = sum(isinstance(one.path, UdpPath) for one in b.arrivals)
    assert direct > 900  # of 1200, less 10 % loss and the times without trust


def test_the_whole_simulation_is_reproducible() -> None:
    def transcript() -> list[tuple[float, bytes]]:
        net = lab_of(EASY, HARD, seed=4, core=LinkRules(latency=LATENCY, loss=0.2))
        a, b = two(net)
        a.send_each(b, 0.1, net.now + 30)
        net.run(30)
        return [(at, effect.data) for at, effect in a.disco_sent if isinstance(effect, SendRaw)]

    first = transcript()
    assert len(first) > 10
    assert first == transcript()
