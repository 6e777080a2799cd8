"""The laboratory's network: what its links, firewalls and routers do to datagrams."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from coder_agent.base.addresses import AddrPort
from coder_agent.testing.lab import (
    LAN,
    STATEFUL,
    Cut,
    Firewall,
    Host,
    Interface,
    LinkRules,
    Mapping,
    NatRules,
    Network,
    Pair,
    Ports,
    Region,
    Router,
    Topology,
    all_pairs,
    topology_of,
    with_ipv6,
)
from coder_agent.testing.lab.clock import Clock
from coder_agent.testing.lab.encoding import from_document, to_document
from coder_agent.testing.lab.laboratory import Lab

A, B = AddrPort("198.51.100.10", 1), AddrPort("203.0.113.10", 2)


class Net:
    """A network whose hosts write down what they get."""

    def __init__(self, topology: Topology, seed: int = 1) -> None:
        self.clock = Clock(seed)
        self.network = Network(topology, self.clock)
        self.got: dict[str, list[tuple[float, bytes, AddrPort]]] = {}
        for host in topology.hosts:
            self.got[host.name] = []
            self.network.attach(host.name, self._ear(host.name))

    def _ear(self, name: str) -> Callable[[list[bytes], AddrPort, int], None]:
        def note(rows: list[bytes], source: AddrPort, port: int) -> None:
            self.got[name] += [(self.clock.now, row, source) for row in rows]

        return note

    def send(self, name: str, target: AddrPort, *rows: bytes, port: int = 1) -> None:
        self.network.send(name, rows or (b"x",), target, port)

    def data(self, name: str) -> list[bytes]:
        return [row for _, row, _ in self.got[name]]


def open_hosts(core: LinkRules, **changes: object) -> Net:
    hosts = Host("a", (Interface(A.host),)), Host("b", (Interface(B.host),))
    return Net(Topology(hosts, core=core, **changes))  # type: ignore[arg-type]


def pair(a: str, b: str, hairpin: bool | None = None) -> Topology:
    return topology_of(Pair(a, b, hairpin))


# ------------------------------------------------------------ links


def test_latency_is_what_passes_before_arrival() -> None:
    net = open_hosts(LinkRules(latency=0.025))
    net.send("a", B, b"one", b"two")
    net.clock.run(0.0249)
    assert net.data("b") == []
    net.clock.run(0.001)
    assert net.got["b"] == [(0.025, b"one", A), (0.025, b"two", A)]


def test_loss_duplication_and_jitter_come_at_their_rates_and_reorder() -> None:
    net = open_hosts(LinkRules(loss=0.2, duplicate=0.1, jitter=0.005))
    numbers = range(4000)
    for number in numbers:
        net.clock.call_at(number / 1000, lambda number=number: net.send("a", B, number.to_bytes(2)))  # type: ignore[misc]
    net.clock.run(10)
    got = [int.from_bytes(row) for row in net.data("b")]
    assert 3350 < len(got) < 3700  # 4000 × 1.1 × 0.8 = 3520
    assert 0.10 < 1 - len(set(got)) / len(numbers) < 0.25  # both copies lost, or the only one: 0.9 × 0.2 + 0.1 × 0.04
    assert got != sorted(got)


def test_reordered_packets_are_held_back() -> None:
    net = open_hosts(LinkRules(reorder=0.3, reorder_delay=0.5))
    net.send("a", B, *(bytes([number]) for number in range(100)))
    net.clock.run(1)
    at_once = [row for at, row, _ in net.got["b"] if at == 0]
    assert 50 < len(at_once) < 90
    assert len(net.data("b")) == 100


@pytest.mark.parametrize(("size", "arrives"), [(1372, True), (1373, False)])
def test_what_is_larger_than_the_mtu_vanishes(size: int, arrives: bool) -> None:
    net = open_hosts(LinkRules(mtu=1400))
    net.send("a", B, bytes(size), b"small")
    net.clock.run(1)
    assert (bytes(size) in net.data("b")) is arrives
    assert b"small" in net.data("b")
    assert net.network.counters["too-big"] == (0 if arrives else 1)


@pytest.mark.parametrize("queue", [0, 30_000])
def test_a_token_bucket_lets_its_rate_through(queue: int) -> None:
    net = open_hosts(LinkRules(rate=1e6, burst=15_000, queue=queue))
    for number in range(10_000):  # 10 Mbit/s for 10 s
        net.clock.call_at(number / 1000, lambda: net.send("a", B, bytes(1222)))  # 1250 with headers
    net.clock.run(20)
    arrived = len(net.data("b")) * 1250
    last = net.got["b"][-1][0]
    assert arrived == pytest.approx(1e6 / 8 * 10 + 15_000 + queue, rel=0.01)
    assert last == pytest.approx(10 + queue * 8 / 1e6, abs=0.02)  # what waits comes late, a policer keeps nothing back


def test_a_cut_for_udp_leaves_the_relay_and_a_full_cut_does_not() -> None:
    net = open_hosts(LinkRules())
    heard: list[str] = []
    for cut in (Cut.UDP, Cut.ALL, Cut.NONE):
        net.network.set_core(cut=cut)
        net.send("a", B, cut.encode())
        net.network.relay("a", [b"x"], 1, "b", lambda cut=cut: heard.append(cut))  # type: ignore[misc]
        net.clock.run(1)
    assert net.data("b") == [b"none"]
    assert heard == [Cut.UDP, Cut.NONE]


def test_a_relay_has_a_distance_from_each_host_and_a_rate() -> None:
    far = Region(2, latency=0.010, latency_from=(("b", 0.040),), rate=1e6)
    net = open_hosts(LinkRules(), regions=(Region(), far))
    arrivals: list[float] = []
    for _ in range(3):
        assert net.network.relay("a", [bytes(12_500)], 2, "b", lambda: arrivals.append(net.clock.now))
    assert not net.network.relay("a", [b"x"], 9, "b", lambda: arrivals.append(0))
    net.clock.run(1)
    assert arrivals == pytest.approx([0.15, 0.25, 0.35])


# ------------------------------------------------------------ routers


def test_double_nat_translates_twice_and_back() -> None:
    net = Net(pair("double-nat", "open"))
    net.send("a", B, b"hello", port=7777)
    net.clock.run(1)
    source = net.got["b"][0][2]
    assert source == AddrPort("198.51.100.1", 7777)
    assert net.network.nat("home-a").mappings(1) == {7777: AddrPort("192.168.1.10", 7777)}
    assert net.network.nat("carrier-a").mappings(1) == {7777: AddrPort("100.64.0.2", 7777)}
    net.send("b", source, b"back", port=B.port)
    net.clock.run(1)
    assert net.data("a") == [b"back"]


@pytest.mark.parametrize("hairpin", [True, False])
def test_hairpin(hairpin: bool) -> None:
    nat = NatRules(hairpin=hairpin)
    hosts = tuple(Host(name, (Interface(f"192.168.1.{last}", "lan", LAN),)) for name, last in (("a", 10), ("b", 20)))
    net = Net(Topology(hosts, (Router("home", "lan", "198.51.100.1", nat=nat),), isolated=("lan",)))
    out_a, out_b = AddrPort("198.51.100.1", 1111), AddrPort("198.51.100.1", 2222)
    net.send("a", out_b, b"to b", port=1111)
    net.clock.run(1)
    net.send("b", out_a, b"to a", port=2222)
    net.clock.run(1)
    assert net.data("b") == [], "b had not sent to a yet"
    assert net.got["a"] == ([(1.001, b"to a", out_b)] if hairpin else [])
    assert net.network.counters["no-hairpin"] == (0 if hairpin else 2)


def test_neighbours_hear_each_other_unless_the_network_isolates_them() -> None:
    topology = pair("easy", "same-nat")
    for isolated, heard in (((), [b"x"]), (("lan-a",), [])):
        net = Net(replace(topology, isolated=isolated))
        net.send("a", AddrPort("192.168.1.20", 5))
        net.clock.run(1)
        assert net.data("b") == heard


def test_a_blocked_network_lets_no_udp_out_or_in() -> None:
    net = Net(pair("udp-blocked", "open"))
    net.send("a", B)
    net.send("b", AddrPort("198.51.100.1", 1))
    net.clock.run(1)
    assert net.data("a") == net.data("b") == []
    assert net.network.counters["router-firewall"] == 1
    assert net.network.counters["nat-filtered"] == 1


def test_a_stateful_host_firewall_lets_answers_in_and_forgets() -> None:
    net = open_hosts(LinkRules())
    shut = net.network.topology.with_host("b", lambda host: replace(host, firewall=replace(STATEFUL, lifetime=30)))
    net.network.reshape(shut)
    net.send("a", B, b"unsolicited")
    net.clock.run(1)
    net.send("b", A, b"question", port=B.port)
    net.clock.run(1)
    net.send("a", B, b"answer")
    net.clock.run(40)
    net.send("a", B, b"too late")
    net.clock.run(1)
    assert net.data("b") == [b"answer"]
    opened = Firewall(unsolicited=False, open_ports=(B.port,))
    net.network.reshape(shut.with_host("b", lambda host: replace(host, firewall=opened)))
    net.send("a", B, b"unsolicited, but welcome")
    net.clock.run(1)
    assert net.data("b")[-1] == b"unsolicited, but welcome"


def test_ipv6_is_routed_through_stateful_firewalls_without_translation() -> None:
    net = Net(with_ipv6(with_ipv6(pair("symmetric-random", "double-nat"), "a"), "b"))
    in_a, in_b = AddrPort("2001:db8:1::10", 1), AddrPort("2001:db8:2::10", 2)
    net.send("a", in_b, b"unsolicited")
    net.clock.run(1)
    net.send("b", in_a, b"answer", port=2)
    net.clock.run(1)
    assert net.data("b") == []
    assert [(row, source) for _, row, source in net.got["a"]] == [(b"answer", in_b)]


def test_hosts_with_two_feet_leave_by_the_one_nearest_to_the_target() -> None:
    hosts = (
        Host("a", (Interface("198.51.100.10"), Interface("10.1.0.1", "cable"))),
        Host("b", (Interface("10.1.0.2", "cable"),)),
        Host("c", (Interface("203.0.113.10"),)),
    )
    net = Net(Topology(hosts))
    net.send("a", AddrPort("10.1.0.2", 1))
    net.send("a", AddrPort("203.0.113.10", 1))
    net.clock.run(1)
    assert net.got["b"][0][2].host == "10.1.0.1"
    assert net.got["c"][0][2].host == "198.51.100.10"
    net.send("b", AddrPort("203.0.113.10", 1))
    net.clock.run(1)
    assert net.network.counters["unreachable"] == 1, "an island has no way out"


def test_a_port_that_the_router_opened_is_reachable_for_strangers() -> None:
    topology = pair("symmetric-random", "open")
    net = Net(topology.with_router("home-a", lambda router: replace(router, port_mapping=("pcp",))))
    opened = net.network.ask_port("a", 9)
    assert opened == AddrPort("198.51.100.1", 9)
    net.send("b", opened)
    net.clock.run(1)
    assert net.data("a") == [b"x"]
    assert net.network.ask_port("b", 9) is None


# ------------------------------------------------------------ as a whole


def test_the_same_seed_gives_the_same_trace_and_another_one_another() -> None:
    def trace(seed: int) -> list[object]:
        lab = Lab(replace(pair("easy", "easy"), core=LinkRules(latency=0.02, jitter=0.01, loss=0.1)), seed)
        lab.network.trace = []
        lab.introduce()
        a, b = lab.host("a"), lab.host("b")
        a.send_each(b, 0.1, lab.now + 10)
        lab.run(10)
        return list(lab.network.trace)

    first = trace(4)
    assert len(first) > 50
    assert first == trace(4)
    assert first != trace(5)


def test_stun_tells_the_kind_of_nat() -> None:
    seen: dict[str, tuple[bool | None, bool | None, int]] = {}
    sequential = NatRules(mapping=Mapping.ADDRESS_AND_PORT_DEPENDENT, ports=Ports.SEQUENTIAL, step=2)
    for place in ("open", "easy", "symmetric-random", "symmetric-preserving", "udp-blocked", "sequential by 2"):
        topology = pair("easy" if place.startswith("seq") else place, "open")
        if place.startswith("seq"):
            topology = topology.with_router("home-a", lambda router: replace(router, nat=sequential))
        lab = Lab(topology)
        lab.start()
        lab.run(2)
        facts = lab.host("a").facts
        seen[place] = (facts.udp, facts.mapping_varies, facts.port_step)
    assert seen == {
        "open": (True, False, 0),
        "easy": (True, False, 0),
        "symmetric-random": (True, True, 0),
        "symmetric-preserving": (True, True, 1),
        "udp-blocked": (False, None, 0),
        "sequential by 2": (True, True, 2),
    }


@pytest.mark.parametrize("pair", all_pairs(), ids=lambda pair: pair.name)
def test_a_topology_survives_being_written_down(pair: Pair) -> None:
    topology = topology_of(pair)
    assert from_document(json.loads(json.dumps(to_document(topology)))) == topology


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hosts": [{"name": "a"}]}, r"topology.hosts\[0\]: interfaces is missing"),
        ({"hosts": 5}, r"topology.hosts: expected a list"),
        ({"core": {"latency": "fast"}}, r"topology.core.latency: expected float, not 'fast'"),
        ({"core": {"latency": float("nan")}}, r"topology.core.latency: nan is no amount"),
        ({"core": {"rate": -1}}, r"topology.core.rate: -1 is no amount"),
        ({"core": {"cut": "some"}}, r"topology.core.cut: 'some' is not a valid Cut"),
        ({"stun": ["nowhere"]}, r"topology.stun\[0\]: "),
        ({"colour": 1}, r"topology: unknown field 'colour'"),
        ({"isolated": ["x"] * 1000}, r"at most 256 items"),
        ({"hosts": [{"name": "a", "interfaces": []}]}, r"host 'a' has no interface"),
        ({"hosts": [{"name": "a", "interfaces": [{"address": "home"}]}]}, r"'a': 'home' is no IP address"),
        ({"routers": [{"name": "r", "inside": "internet", "address": "192.0.2.1"}]}, r"has the Internet inside"),
        ({"routers": [{"name": "r", "inside": "l", "address": "192.0.2.1", "nat": {"step": 0}}]}, r"0 apart"),
        ({"routers": [{"name": "r", "inside": "l", "address": "192.0.2.1"}] * 2}, r"two things are called 'r'"),
    ],
)
def test_a_bad_document_is_refused_with_the_place(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_document({**to_document(Topology()), **change})
