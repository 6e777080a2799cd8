"""Reports between peers: when they are told, what is in them, and what a status says with them."""

from __future__ import annotations

from itertools import pairwise

from coder_agent.base.addresses import AddrPort
from coder_agent.base.nat_facts import NatFacts
from coder_agent.base.path_rules import PathRules
from coder_agent.base.paths import PathKind, UdpPath
from coder_agent.magicsock import constants as c
from coder_agent.magicsock.prediction import next_mappings
from coder_agent.magicsock.search_state import Allowance
from coder_agent.protocols import disco
from coder_agent.testing.lab.host import SimHost
from coder_agent.testing.lab.matrix import Meeting, meet
from coder_agent.testing.lab.places import EASY, SYMMETRIC_RANDOM, UDP_BLOCKED, Pair, topology_of

PUBLIC = AddrPort("203.0.113.7", 40000)


def messages(sender: SimHost, receiver: SimHost) -> list[tuple[float, disco.Message]]:
    """What one host said to the other, opened."""
    shared = disco.precompute(receiver.disco, sender.disco.public())
    assert shared is not None
    opened = [(at, disco.open_sealed(one.data, shared)) for at, one in sender.disco_sent]
    return [(at, message) for at, plain in opened if plain is not None and (message := disco.parse(plain))]


def reports(sender: SimHost, receiver: SimHost) -> list[tuple[float, disco.Facts]]:
    return [(at, one) for at, one in messages(sender, receiver) if isinstance(one, disco.Facts)]


def stuck(limit: float = 12.0) -> Meeting:
    return meet(topology_of(Pair(UDP_BLOCKED, EASY)), limit=limit)


# ------------------------------------------------------------ what both ends know


def test_both_ends_know_both_accounts_of_a_search_that_fails() -> None:
    meeting = stuck()
    a, b = meeting.a.path(meeting.b), meeting.b.path(meeting.a)
    assert (a.kind, b.kind) == (PathKind.RELAYED, PathKind.RELAYED)
    assert a.remote is not None
    assert b.remote is not None
    assert b.remote.facts.udp is False
    assert a.remote.facts.public_v4 == meeting.b.facts.public_v4
    assert a.local.sent > 0
    assert (a.local.answered, a.local.seen, a.local.is_direct) == (0, 0, False)
    assert set(a.local.tried) <= set(meeting.b.endpoints)
    assert a.searching_since is not None


def test_a_direct_path_is_reported_with_its_counts() -> None:
    meeting = meet(topology_of(Pair(EASY, EASY)))
    status = meeting.a.path(meeting.b)
    assert status.local.is_direct
    assert status.local.sent >= status.local.answered > 0
    assert status.local.seen > 0
    assert status.addr in status.local.seen_from
    assert status.searching_since is None


def test_a_report_is_fetched_on_request_while_direct() -> None:
    meeting = meet(topology_of(Pair(EASY, EASY)))
    a, b, lab = meeting.a, meeting.b, meeting.lab
    a.carry_out(a.magicsock.ask_report(b.key, lab.now))
    lab.run(3)
    remote = a.path(b).remote
    assert remote is not None
    assert remote.is_direct
    assert remote.facts.public_v4 == b.facts.public_v4


def test_while_the_search_fails_reports_are_rare() -> None:
    meeting = stuck(60.0)
    told = [at for at, _ in reports(meeting.a, meeting.b)]
    assert 2 <= len(told) <= 5
    assert all(later - earlier >= c.REPORT_INTERVAL for earlier, later in pairwise(told))


def test_changed_facts_are_told_to_peers_that_are_relayed() -> None:
    meeting = stuck()
    a, b, lab = meeting.a, meeting.b, meeting.lab
    a.carry_out(a.magicsock.set_local_facts(NatFacts(captive_portal=True), lab.now))
    lab.run(2)
    remote = b.path(a).remote
    assert remote is not None
    assert remote.facts.captive_portal


def test_nothing_is_told_over_udp_and_an_idle_node_tells_nothing() -> None:
    meeting = meet(topology_of(Pair(EASY, EASY)))
    for host, other in ((meeting.a, meeting.b), (meeting.b, meeting.a)):
        for _, sent in host.disco_sent:
            if isinstance(sent.path, UdpPath):
                shared = disco.precompute(other.disco, host.disco.public())
                assert shared is not None
                plain = disco.open_sealed(sent.data, shared)
                assert plain is None or not isinstance(disco.parse(plain), disco.Facts | disco.GuessMyPort)
    before = len(reports(meeting.a, meeting.b))
    meeting.lab.run(300)
    assert len(reports(meeting.a, meeting.b)) == before


def test_without_ipv6_no_ipv6_address_is_told() -> None:
    meeting = stuck()
    a, b, lab = meeting.a, meeting.b, meeting.lab
    a.carry_out(a.magicsock.set_rules(PathRules(ipv6=False), lab.now, b.key))
    a.carry_out(a.magicsock.set_local_facts(NatFacts(public_v6=AddrPort("2001:db8::1", 5)), lab.now))
    assert a.path(b).local.facts.public_v6 is None


# ------------------------------------------------------------ MTU


def test_who_answers_small_packets_only_is_named_and_not_used() -> None:
    shape = topology_of(Pair(EASY, EASY))
    meeting = meet(shape, limit=1.0)
    lab, a, b = meeting.lab, meeting.a, meeting.b
    assert a.is_direct(b)
    lab.network.set_core(mtu=1200)
    a.send_each(b, 0.2, lab.now + 60)
    lab.run(40)
    status = a.path(b)
    assert status.kind is PathKind.RELAYED
    assert status.too_small
    assert status.local.too_small
    assert any("small packets" in one.why_not for one in status.candidates)
    lab.network.set_core(mtu=1500)
    assert lab.run(20, until=lambda: a.is_direct(b))
    assert not a.path(b).too_small


def test_the_wire_mtu_of_the_path_in_use_is_measured_now_and_then() -> None:
    for mtu, found in ((1500, 1500), (1420, 1400)):
        meeting = meet(topology_of(Pair(EASY, EASY)))
        lab, a, b = meeting.lab, meeting.a, meeting.b
        lab.network.set_core(mtu=mtu)
        a.send_each(b, 0.5, lab.now + 310)
        lab.run(310)
        assert a.path(b).wire_mtu == found
        sizes = [len(one.data) for _, one in a.disco_sent if isinstance(one.path, UdpPath)]
        assert sum(size > c.PADDED_PING_SIZE for size in sizes) <= 3 * 3


# ------------------------------------------------------------ prediction


def test_the_next_mappings_of_a_nat_that_counts() -> None:
    facts = NatFacts(mapping_varies=True, port_step=2, public_v4=PUBLIC)
    predicted = next_mappings(facts)
    assert predicted[:2] == [AddrPort("203.0.113.7", 40002), AddrPort("203.0.113.7", 40004)]
    assert len(predicted) == c.PREDICTED_PORTS


def test_nothing_is_predicted_where_nothing_counts_and_never_beyond_the_ports() -> None:
    assert next_mappings(NatFacts(mapping_varies=True, public_v4=PUBLIC)) == []
    assert next_mappings(NatFacts(mapping_varies=False, port_step=1, public_v4=PUBLIC)) == []
    assert next_mappings(NatFacts(mapping_varies=True, port_step=1)) == []
    top = NatFacts(mapping_varies=True, port_step=1, public_v4=AddrPort("203.0.113.7", 65530))
    assert [addr.port for addr in next_mappings(top)] == [65531, 65532, 65533, 65534, 65535]
    down = NatFacts(mapping_varies=True, port_step=-4, public_v4=AddrPort("203.0.113.7", 1030))
    assert [addr.port for addr in next_mappings(down)] == [1026]


# ------------------------------------------------------------ allowances


def test_an_allowance_refills_with_time_and_not_when_the_clock_jumps_back() -> None:
    allowance = Allowance(burst=2, per_second=1.0)
    assert [allowance.take(10.0) for _ in range(3)] == [True, True, False]
    assert allowance.next_at(10.0) == 11.0
    assert not allowance.take(5.0)
    assert not allowance.take(5.9)
    assert allowance.take(6.1)
    assert not allowance.take(6.2)
    assert [allowance.take(1e9) for _ in range(3)] == [True, True, False]


def test_hard_ends_learn_of_each_other_that_they_are_hard() -> None:
    meeting = meet(topology_of(Pair(SYMMETRIC_RANDOM, SYMMETRIC_RANDOM)), limit=8.0)
    remote = meeting.a.path(meeting.b).remote
    assert remote is not None
    assert remote.facts.mapping_varies
    assert remote.facts.port_step == 0
