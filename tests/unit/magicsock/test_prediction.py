"""Which ports a NAT that counts opens next, and the order in which two such NATs meet."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coder_agent.base.addresses import AddrPort
from coder_agent.base.nat_facts import NatFacts
from coder_agent.magicsock.constants import PREDICTED_PORTS
from coder_agent.magicsock.prediction import crossing_order, next_mappings

COUNTING = NatFacts(mapping_varies=True, port_step=2, public_v4=AddrPort("198.51.100.1", 5000))


def test_the_next_ports_follow_the_step() -> None:
    found = next_mappings(COUNTING)
    assert found[:3] == [AddrPort("198.51.100.1", port) for port in (5002, 5004, 5006)]
    assert len(found) == PREDICTED_PORTS


@pytest.mark.parametrize(
    "change", [{"mapping_varies": False}, {"mapping_varies": None}, {"port_step": 0}, {"public_v4": None}], ids=str
)
def test_without_a_pattern_nothing_is_predicted(change: dict[str, object]) -> None:
    assert next_mappings(replace(COUNTING, **change)) == []  # type: ignore[arg-type]


def test_no_port_beyond_the_last_is_predicted() -> None:
    near_the_end = replace(COUNTING, public_v4=AddrPort("198.51.100.1", 65533))
    assert next_mappings(near_the_end) == [AddrPort("198.51.100.1", 65535)]


def test_crossing_changes_the_order_only() -> None:
    assert sorted(next_mappings(COUNTING, crossing=True)) == next_mappings(COUNTING)
    assert next_mappings(COUNTING, crossing=True) != next_mappings(COUNTING)


@given(st.integers(5, 64))
def test_the_crossing_order_has_every_number_and_covers_every_distance(count: int) -> None:
    order = crossing_order(count)
    assert sorted(order) == list(range(1, count + 1))
    distances = {value - place for place, value in enumerate(order, 1)}
    assert distances >= set(range(1, 2 * ((count - 2) // 3) + 2))


@given(st.integers(0, 8), st.integers(0, 8))
def test_two_walks_meet_whatever_was_sent_meanwhile(here: int, there: int) -> None:
    """`here` and `there`: ports taken since the lists were published. The k-th ping leaves from port k plus that."""
    distance = here + there
    plain, crossed = range(1, PREDICTED_PORTS + 1), crossing_order(PREDICTED_PORTS)
    ours = {(here + place, target) for place, target in enumerate(crossed, 1)}
    theirs = {(target, there + place) for place, target in enumerate(plain, 1)}
    if 1 <= distance <= 9:
        assert ours & theirs
