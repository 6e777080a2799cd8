"""One round of asking, step by step with a fixed clock; and the memory behind it."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from coder_agent_nat_traversal.interfaces import Family
from coder_agent_nat_traversal.plan import Probe
from coder_agent_nat_traversal.report import Answer, StunRound
from coder_agent_nat_traversal.tracker import EndpointTracker
from hypothesis import given
from hypothesis import strategies as st

from coder_agent.base.addresses import AddrPort
from coder_agent.base.derp_map import DerpNode
from coder_agent.base.nat_facts import NatFacts
from coder_agent.protocols.stun import encode_response

US = AddrPort("203.0.113.7", 41641)
US_ELSEWHERE = AddrPort("203.0.113.7", 50000)
US_V6 = AddrPort("2001:db8::7", 41641)
TRIES = (0.0, 0.1, 0.2)


def counter_rng() -> Callable[[int], bytes]:
    numbers = itertools.count(1)
    return lambda size: next(numbers).to_bytes(size, "big")


def tries(region: int, family: Family = "v4", delays: tuple[float, ...] = TRIES) -> tuple[Probe, ...]:
    return tuple(Probe(region, DerpNode(str(region), region, "stun.example"), family, delay) for delay in delays)


def server(region: int, family: Family) -> AddrPort:
    return AddrPort(f"192.0.2.{region}" if family == "v4" else f"2001:db8:5::{region}", 3478)


class Script:
    """A round, and a way to ask and answer in one step."""

    def __init__(self, *sets: tuple[Probe, ...], full: bool = True) -> None:
        self.round = StunRound(sets, counter_rng(), 100.0, full)

    def ask(self, now: float) -> dict[tuple[int, str], bytes]:
        """Send what is due; the requests by region and family."""
        return {
            (probe.region, probe.family): self.round.request(probe, server(probe.region, probe.family), now)
            for probe in self.round.due(now)
        }

    def answer(self, request: bytes, mapped: AddrPort, now: float) -> Answer | None:
        return self.round.receive(encode_response(request[8:20], mapped), now)


def test_an_answer_gives_latency_and_address_and_ends_its_set() -> None:
    script = Script(tries(1))
    (request,) = script.ask(100.0).values()
    assert script.round.deadline() == 100.1
    assert script.answer(request, US, 100.030) == Answer(1, "v4", US, script.round.latency[1, "v4"])
    assert abs(script.round.latency[1, "v4"] - 0.030) < 1e-9
    assert script.round.finished(100.030)
    assert script.ask(100.3) == {}
    assert script.round.endpoints() == [US]


def test_a_silent_server_is_asked_again_and_given_up_after_three_seconds() -> None:
    script = Script(tries(1))
    assert [len(script.ask(100.0 + step)) for step in (0.0, 0.05, 0.1, 0.2, 1.0)] == [1, 0, 1, 1, 0]
    assert script.round.deadline() == 103.0
    assert not script.round.finished(102.9)
    assert script.round.finished(103.0)
    assert not script.round.answered


def test_the_latency_is_the_best_of_all_answers_and_never_zero() -> None:
    script = Script(tries(1))
    (first,), (second,) = script.ask(100.0).values(), script.ask(100.1).values()
    script.answer(second, US, 100.150)
    script.answer(first, US, 100.160)
    assert abs(script.round.latency[1, "v4"] - 0.050) < 1e-9
    script = Script(tries(1))
    (request,) = script.ask(100.0).values()
    answer = script.answer(request, US, 100.0)
    assert answer is not None
    assert answer.latency > 0


def test_answers_that_nobody_asked_for_are_dropped_and_counted() -> None:
    script = Script(tries(1))
    (request,) = script.ask(100.0).values()
    assert script.answer(bytes(20), US, 100.1) is None
    assert script.round.receive(request, 100.1) is None  # a stray request
    assert script.round.receive(b"junk", 100.1) is None
    assert script.answer(request, US, 100.1) is not None
    assert script.answer(request, US, 100.2) is None  # a duplicate
    assert script.round.dropped == {"stun-unknown-txid": 2, "stun-wrong-type": 1, "stun-not-stun": 1}


def test_one_server_alone_does_not_tell_the_kind_of_nat() -> None:
    script = Script(tries(1))
    (first,), (second,) = script.ask(100.0).values(), script.ask(100.1).values()
    script.answer(first, US, 100.2)
    script.answer(second, US, 100.2)
    assert script.round.mapping_varies is None


def test_two_servers_that_see_the_same_address_mean_an_easy_nat() -> None:
    script = Script(tries(1), tries(2))
    asked = script.ask(100.0)
    script.answer(asked[1, "v4"], US, 100.1)
    script.answer(asked[2, "v4"], US, 100.1)
    assert script.round.mapping_varies is False


def test_another_port_per_server_means_a_hard_nat_for_good() -> None:
    script = Script(tries(1), tries(2), tries(3))
    asked = script.ask(100.0)
    script.answer(asked[1, "v4"], US, 100.1)
    script.answer(asked[2, "v4"], US_ELSEWHERE, 100.1)
    script.answer(asked[3, "v4"], AddrPort(US.host, 60000), 100.1)
    assert script.round.mapping_varies is True
    assert script.round.endpoints() == [US]  # the one-off ports are of no use to anybody


def test_ipv6_says_nothing_about_the_nat_and_is_offered_after_ipv4() -> None:
    script = Script(tries(1, "v6"), tries(2, "v6"), tries(2, "v4"))
    asked = script.ask(100.0)
    script.answer(asked[1, "v6"], US_V6, 100.1)
    script.answer(asked[2, "v6"], AddrPort(US_V6.host, 1), 100.1)
    script.answer(asked[2, "v4"], US, 100.1)
    assert script.round.mapping_varies is None
    assert script.round.endpoints() == [US, US_V6]


def test_what_two_servers_saw_outvotes_the_third() -> None:
    script = Script(tries(1), tries(2), tries(3))
    asked = script.ask(100.0)
    for number, mapped in ((1, US), (2, US_ELSEWHERE), (3, US_ELSEWHERE)):
        script.answer(asked[number, "v4"], mapped, 100.1)
    assert script.round.endpoints() == [US_ELSEWHERE]
    assert script.round.mapping_varies is False
    assert script.round.mappings.refuted() == [US]


def test_tries_that_teach_nothing_more_are_not_made() -> None:
    script = Script(tries(1, "v4"), tries(1, "v6"), tries(2, "v4"), tries(2, "v6"))
    asked = script.ask(100.0)
    script.answer(asked[1, "v4"], US, 100.05)
    script.answer(asked[2, "v4"], US, 100.05)
    assert set(script.ask(100.1)) == {(1, "v6"), (2, "v6")}
    script.answer(asked[1, "v6"], US_V6, 100.15)
    assert script.ask(100.2) == {}


def test_three_regions_are_enough_and_the_rest_gets_twice_the_slowests_time() -> None:
    for full, end in ((True, 100.120), (False, 100.080)):
        script = Script(*(tries(number, "v4", (0.0,)) for number in (1, 2, 3, 4)), full=full)
        asked = script.ask(100.0)
        for number, at in ((1, 100.010), (2, 100.020), (3, 100.040)):
            script.answer(asked[number, "v4"], US, at)
        assert abs(script.round.deadline() - end) < 1e-6
        assert not script.round.finished(end - 0.001)
        assert script.round.finished(end + 0.001)


def test_what_a_round_says_of_the_network() -> None:
    script = Script(tries(1, "v4"), tries(2, "v4"), tries(1, "v6"))
    assert script.round.facts(over=False) == NatFacts()
    asked = script.ask(100.0)
    script.answer(asked[1, "v4"], US, 100.1)
    assert script.round.facts(over=False) == NatFacts(udp=True, ipv4=True, public_v4=US)
    script.answer(asked[2, "v4"], US, 100.1)
    over = NatFacts(udp=True, ipv4=True, ipv6=False, mapping_varies=False, public_v4=US)
    assert script.round.facts(over=True) == over
    silent = Script(tries(1, "v4"))
    silent.ask(100.0)
    assert silent.round.facts(over=True) == NatFacts(udp=False, ipv4=False)
    assert Script().round.facts(over=True) == NatFacts()  # nobody was asked


@pytest.mark.parametrize(
    ("mapped", "reason"),
    [
        ("203.0.113.7:0", "stun-port-zero"),
        ("0.0.0.0:9", "stun-no-host-address"),
        ("255.255.255.255:9", "stun-no-host-address"),
        ("224.0.0.251:5353", "stun-no-host-address"),
        ("127.0.0.1:9", "stun-loopback-address"),
        ("192.168.1.1:9", "stun-private-address"),
        ("100.64.0.1:9", "stun-private-address"),
        ("[2001:db8::7]:9", "stun-wrong-family"),
    ],
)
def test_an_address_that_no_server_can_have_seen_is_dropped_and_counted(mapped: str, reason: str) -> None:
    script = Script(tries(1))
    (request,) = script.ask(100.0).values()
    assert script.answer(request, AddrPort.parse(mapped), 100.1) is None
    assert script.round.dropped == {reason: 1}
    assert not script.round.answered
    assert script.round.endpoints() == []


@pytest.mark.parametrize("moment", [pytest.param(99.9, id="backwards"), pytest.param(3700.0, id="an-hour-ahead")])
def test_a_clock_that_jumps_gives_no_latency(moment: float) -> None:
    script = Script(tries(1))
    (request,) = script.ask(100.0).values()
    assert script.answer(request, US, moment) is None
    assert script.round.latency == {}
    assert script.round.dropped == {"stun-clock-jumped": 1}


def test_a_flood_of_answers_to_one_question_counts_once() -> None:
    script = Script(tries(1), tries(2))
    asked = script.ask(100.0)
    for port in range(1, 1001):
        script.answer(asked[1, "v4"], AddrPort("203.0.113.7", port), 100.01)
    assert len(script.round.endpoints()) == 1
    assert script.round.dropped == {"stun-unknown-txid": 999}
    assert script.round.mapping_varies is None


@given(st.binary(max_size=100))
def test_junk_never_raises(junk: bytes) -> None:
    script = Script(tries(1))
    script.ask(100.0)
    for packet in (junk, bytes.fromhex("010100142112a442") + junk):
        assert script.round.receive(packet, 100.1) is None


def test_endpoints_stay_on_offer_for_five_minutes_and_ten_seconds() -> None:
    tracker = EndpointTracker()
    tracker.note(US, 0.0)
    tracker.note(US_V6, 100.0)
    assert tracker.recent(310.0) == [US_V6, US]
    assert tracker.recent(310.1) == [US_V6]
    tracker.note(US_V6, 400.0)
    assert tracker.recent(700.0) == [US_V6]
    assert tracker.recent(711.0) == []


def test_a_nat_that_changes_ports_fills_neither_list_nor_memory() -> None:
    tracker = EndpointTracker()
    for port in range(1, 100):
        tracker.note(AddrPort("203.0.113.7", port), float(port))
    assert [addr.port for addr in tracker.recent(100.0)] == [99, 98, 97, 96, 95, 94]
    for number in range(1000):
        tracker.note(AddrPort(f"10.0.{number // 250}.{number % 250}", 1), 100.0)
    assert len(tracker.recent(100.0)) == 16
