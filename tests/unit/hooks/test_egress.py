"""The door outwards: what is asked, what is told, and how often."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from coder_agent.base.derp_map import DerpMap, DerpNode, DerpRegion
from coder_agent.base.egress import Purpose, Verdict
from coder_agent.errors import EgressRefused, TransportBroken
from coder_agent.hooks.egress import MEMORY, OPEN, REPEAT_AFTER, TOLD_PER_MINUTE, Egress
from coder_agent.hooks.events import Event, OutsideRefused


class Inside:
    """Allows names that end in .in and addresses that begin with 10."""

    name = "inside"

    def __init__(self) -> None:
        self.trusted: list[tuple[str, str]] = []

    def judge(self, host: str, address: str | None, port: int, purpose: Purpose) -> Verdict:
        text = host if host.endswith(".in") else address or host
        return Verdict(text.endswith(".in") or text.startswith("10."), f"rule for {purpose}")

    def trust(self, host: str, reason: str) -> None:
        self.trusted.append((host, reason))


class Case:
    """A door with a clock that stands still."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.events: list[Event] = []
        self.policy = Inside()
        self.egress = Egress(self.policy, self.events.append, lambda: self.now)

    def knock(self, host: str, port: int = 443) -> bool:
        return self.egress.allows(host, port, Purpose.CONNECT, who="peer x")


def test_without_a_policy_everything_is_allowed_and_nothing_counted() -> None:
    assert OPEN.allows("example.com", 443, Purpose.CONNECT)
    OPEN.require("example.com", 443, Purpose.CONNECT)
    OPEN.trust("https://example.com")
    assert OPEN.found("example.com", 443, Purpose.LOOKUP, ["192.0.2.1"]) == ["192.0.2.1"]
    assert OPEN.judge("example.com", 443, Purpose.CONNECT).allowed
    assert not OPEN.refused


def test_a_refusal_is_told_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    case = Case()
    with caplog.at_level(logging.WARNING):
        assert not case.knock("example.com")
    assert case.events == [OutsideRefused("connect", "example.com:443", "peer x", "rule for connect", 1)]
    assert caplog.messages == ["refused: connect to example.com:443 for peer x: rule for connect"]
    assert case.egress.refused == {"connect": 1}
    assert case.knock("a.in")
    assert case.egress.refused == {"connect": 1}


def test_what_is_required_and_refused_says_what_and_why() -> None:
    case = Case()
    sentence = r"^\[2001:db8::1\]:80 may not be reached from here: rule for proxy$"
    with pytest.raises(EgressRefused, match=sentence) as told:
        case.egress.require("2001:db8::1", 80, Purpose.PROXY)
    assert isinstance(told.value, TransportBroken)
    assert told.value.hint is not None
    with pytest.raises(EgressRefused, match=r"^x\.out:80 \(192\.0\.2\.1\) may not"):
        case.egress.require("x.out", 80, Purpose.CONNECT, address="192.0.2.1")
    case.egress.require("x.in", 80, Purpose.CONNECT)


def test_the_same_refusal_is_told_once_a_minute_with_the_number_of_attempts() -> None:
    case = Case()
    for _ in range(12):
        case.knock("example.com")
        case.now += 5
    case.now = 1000.0 + REPEAT_AFTER
    case.knock("example.com")
    assert [event.count for event in case.events if isinstance(event, OutsideRefused)] == [1, 12]
    assert case.egress.refused == {"connect": 13}


def test_a_flood_of_different_refusals_is_counted_but_not_told(caplog: pytest.LogCaptureFixture) -> None:
    case = Case()
    with caplog.at_level(logging.WARNING):
        for number in range(3 * MEMORY):
            case.knock(f"host{number}.example")
    assert len(case.events) == TOLD_PER_MINUTE == len(caplog.messages)
    assert case.egress.refused == {"connect": 3 * MEMORY}
    assert len(case.egress._told) == MEMORY
    case.now += 61
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        case.knock("another.example")
    assert caplog.messages[0] == f"refused: {3 * MEMORY - TOLD_PER_MINUTE} more in the last minute"
    assert len(case.events) == TOLD_PER_MINUTE + 1


def test_what_was_found_for_an_allowed_name_may_be_used_by_address() -> None:
    case = Case()
    assert not case.egress.allows_address("192.0.2.1", 3478, Purpose.STUN)
    assert case.egress.found("relay.in", 3478, Purpose.LOOKUP, ["192.0.2.1"]) == ["192.0.2.1"]
    assert case.egress.allows_address("192.0.2.1", 3478, Purpose.STUN)
    assert not case.egress.allows_address("192.0.2.1", 3479, Purpose.STUN)
    assert case.egress.found("relay.out", 3478, Purpose.LOOKUP, ["192.0.2.2", "10.0.0.1"]) == ["10.0.0.1"]
    assert not case.egress.allows_address("192.0.2.2", 3478, Purpose.STUN)
    case.egress.found("relay.in", 1, Purpose.LOOKUP, [f"198.51.{n // 256}.{n % 256}" for n in range(MEMORY)])
    assert not case.egress.allows_address("192.0.2.1", 3478, Purpose.STUN)  # bounded


def test_the_servers_url_is_trusted_by_its_host() -> None:
    case = Case()
    for url in ("https://Coder.example:8443/path", "http://[2001:db8::1]:80", "", "nonsense", "https://[broken"):
        case.egress.trust(url)
    reason = "the address of the coder server"
    assert case.policy.trusted == [("coder.example", reason), ("2001:db8::1", reason)]


NODE = DerpNode("1a", 1, "relay.in")


@pytest.mark.parametrize(
    ("node", "allowed"),
    [
        (NODE, True),
        (replace(NODE, host_name="relay.out"), False),
        (replace(NODE, host_name="relay.out", ipv4="10.0.0.1"), True),
        (replace(NODE, host_name="relay.out", ipv4="10.0.0.1", ipv6="none"), True),
        (replace(NODE, host_name="relay.out", ipv4="192.0.2.1", ipv6="none"), False),
        (replace(NODE, ipv4="192.0.2.1"), True),  # its IPv6 address is the name's
        (replace(NODE, ipv4="192.0.2.1", ipv6="2001:db8::1"), False),  # no name is looked up
        (replace(NODE, ipv4="192.0.2.1", ipv6="none"), False),
        (replace(NODE, ipv4="none", ipv6="none"), False),
        (replace(NODE, host_name="relay.out", stun_test_ip="10.0.0.1"), True),
    ],
)
def test_a_relay_is_inside_if_any_address_that_would_be_used_is(node: DerpNode, allowed: bool) -> None:
    case = Case()
    assert case.egress.permits_node(node) is allowed
    assert bool(case.events) is not allowed


def test_a_map_keeps_what_is_inside() -> None:
    case = Case()
    out = replace(NODE, name="1b", host_name="relay.out")
    whole = DerpMap({1: DerpRegion(1, nodes=(NODE, out)), 2: DerpRegion(2, nodes=(replace(out, region_id=2),))})
    kept = case.egress.inside(whole)
    assert kept == DerpMap({1: DerpRegion(1, nodes=(NODE,))})
    assert case.egress.inside(kept) is kept
    assert [event.who for event in case.events if isinstance(event, OutsideRefused)] == ["relay map, region 1"]
    assert case.egress.refused == {"relay": 2}
    assert OPEN.inside(whole) is whole
