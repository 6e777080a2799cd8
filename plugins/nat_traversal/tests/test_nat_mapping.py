"""What answers of several servers say together: votes, liars, and NATs that count."""

from __future__ import annotations

import random

import pytest
from coder_agent_nat_traversal.mapping import ENDPOINTS_PER_FAMILY, Mappings, impossible
from hypothesis import given
from hypothesis import strategies as st

from coder_agent.base.addresses import AddrPort

HOST = "203.0.113.7"
US = AddrPort(HOST, 41641)
VICTIM = AddrPort("198.51.100.66", 53)


def servers(count: int) -> list[AddrPort]:
    return [AddrPort(f"192.0.2.{number}", 3478) for number in range(1, count + 1)]


def seen(*mapped: AddrPort) -> Mappings:
    """One answer per server, in the order of asking."""
    mappings = Mappings()
    for order, (server, addr) in enumerate(zip(servers(len(mapped)), mapped, strict=True)):
        mappings.add(server, addr, order)
    return mappings


def ports(*numbers: int) -> Mappings:
    return seen(*(AddrPort(HOST, number) for number in numbers))


@pytest.mark.parametrize("liar", range(3))
def test_one_liar_among_honest_servers_changes_nothing(liar: int) -> None:
    answers = [US, US, US]
    answers[liar] = VICTIM
    mappings = seen(*answers)
    assert mappings.varies() is False
    assert mappings.endpoints() == [US]
    assert mappings.refuted() == [VICTIM]
    assert mappings.public(is_ipv6=False) == US


def test_one_liar_beside_one_honest_server_cannot_hide_what_that_one_saw() -> None:
    mappings = seen(VICTIM, US)
    assert mappings.varies() is True
    assert mappings.endpoints() == [VICTIM, US]


def test_a_server_that_contradicts_itself_has_no_vote() -> None:
    mappings = Mappings()
    (one, two, three) = servers(3)
    mappings.add(one, VICTIM, 0)
    mappings.add(two, US, 1)
    mappings.add(one, AddrPort("198.51.100.67", 53), 0)
    assert mappings.varies() is None
    assert mappings.endpoints() == [US]
    mappings.add(three, US, 2)
    assert mappings.varies() is False


def test_two_ports_of_one_host_do_not_outvote_another_host() -> None:
    mappings = Mappings()
    for order, (server, port) in enumerate((("192.0.2.1", 1), ("192.0.2.1", 2), ("192.0.2.2", 1))):
        mappings.add(AddrPort(server, port), AddrPort(HOST, 1000 if server == "192.0.2.1" else 2000), order)
    assert mappings.varies() is True  # a NAT with a mapping per destination address looks like this


@given(st.lists(st.tuples(st.integers(1, 255), st.integers(1, 65535)), max_size=200))
def test_liars_cannot_make_us_offer_more_than_a_few(said: list[tuple[int, int]]) -> None:
    mappings = Mappings()
    for order, (number, port) in enumerate(said):
        mappings.add(AddrPort(f"192.0.2.{number}", 3478), AddrPort(f"198.51.100.{number}", port), order)
        mappings.add(AddrPort(f"2001:db8::{number}", 3478), AddrPort(f"2001:db8:1::{number}", port), order)
    assert len(mappings.endpoints()) <= 2 * ENDPOINTS_PER_FAMILY
    assert mappings.port_step() in range(-65536, 65536)


@pytest.mark.parametrize(
    ("numbers", "step"),
    [
        pytest.param((5000, 5001, 5002), 1, id="counts-up"),
        pytest.param((5000, 5002, 5004, 5006), 2, id="by-two"),
        pytest.param((5006, 5004, 5002), -2, id="counts-down"),
        pytest.param((5000, 5002, 5001, 5003), 1, id="packets-overtook"),
        pytest.param((5000, 5003, 5004, 5009), 1, id="other-traffic-in-between"),
        pytest.param((41641, 5000, 5002, 5004), 2, id="first-port-preserved"),
        pytest.param((5000, 5002, 60000, 5004, 5006), 2, id="one-lies"),
        pytest.param((5000, 5001), 1, id="two-servers"),
        pytest.param((5000, 5030), 0, id="two-servers-too-far-apart"),
        pytest.param((5000, 23111, 60000, 41000), 0, id="random"),
        pytest.param((5000, 5000, 5000), 0, id="easy"),
        pytest.param((5000,), 0, id="one-server"),
        pytest.param((), 0, id="nobody"),
    ],
)
def test_the_step_of_a_nat_that_counts(numbers: tuple[int, ...], step: int) -> None:
    assert ports(*numbers).port_step() == step


def test_the_newest_mapping_of_a_nat_that_counts_is_its_public_address() -> None:
    assert ports(5000, 5001, 5002).public(is_ipv6=False) == AddrPort(HOST, 5002)
    assert ports(5000, 23111, 60000).public(is_ipv6=False) == AddrPort(HOST, 5000)


def test_random_ports_hardly_ever_look_sequential() -> None:
    chance = random.Random(7)
    found = sum(ports(*chance.sample(range(1024, 65536), 3)).port_step() != 0 for _ in range(2000))
    assert found <= 8


def test_a_server_in_a_private_network_may_see_private_addresses_and_ours_always() -> None:
    private, public = AddrPort("10.0.0.1", 3478), AddrPort("192.0.2.1", 3478)
    ours = AddrPort("192.168.1.5", 41641)
    assert impossible(ours, private) is None
    assert impossible(ours, public) == "stun-private-address"
    assert impossible(ours, public, own=[ours.ip]) is None
    assert impossible(AddrPort("127.0.0.1", 9), AddrPort("127.0.0.1", 3478)) is None
    assert impossible(AddrPort("fd7a:115c:a1e0::1", 9), AddrPort("2001:db8::1", 9)) == "stun-overlay-address"
