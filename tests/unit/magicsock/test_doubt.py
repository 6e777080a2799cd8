"""Doubts about a direct path, as tables: no clock but the one that is passed."""

from __future__ import annotations

from itertools import pairwise

import pytest

from coder_agent.base.flow import Flow
from coder_agent.magicsock import constants as c
from coder_agent.magicsock.candidates import NEVER
from coder_agent.magicsock.doubt import Doubt, patience


@pytest.mark.parametrize(
    ("rtt", "jitter_bound", "expected"),
    [
        (0.0, 0.0, 0.15),  # nothing measured: longer than any delayed ACK
        (0.001, 0.0, 0.15),
        (0.05, 0.0, 0.15),  # three round trips
        (0.08, 0.0, 0.18),  # one, and the margin
        (0.3, 0.0, 0.4),
        (0.01, 0.2, 0.2),  # what its own jitter explains
        (0.01, 3.0, 0.26),  # of which no more than that is believed
        (0.3, 1.0, 0.55),
    ],
)
def test_patience(rtt: float, jitter_bound: float, expected: float) -> None:
    assert patience(rtt, jitter_bound) == pytest.approx(expected)


def pulsed(heard: str, *, start: float = 10.0) -> tuple[Doubt, float]:
    """A doubt that saw a pulse per letter: x = something was heard since the one before. And the time of the last."""
    doubt, received, now = Doubt(), start - 1, start
    doubt.arm(now)
    for letter in heard:
        now += c.PULSE
        received = now if letter == "x" else received
        doubt.pulse(now, now, received)
    return doubt, now


STEADY = "x" * c.INFLOW_PULSES
STOP = "." * 4


@pytest.mark.parametrize(
    ("heard", "due"),
    [
        (STEADY + STOP, True),
        (STEADY + STOP[:-1], False),  # not yet
        (STEADY + STOP + ".", False),  # it is told once
        ("x" * (c.INFLOW_PULSES - 2) + STOP, False),  # no steady flow (the first pulse hears all that was before)
        ("x." * c.INFLOW_PULSES + "x" + STOP, True),
        (STEADY, False),
        (STOP, False),
    ],
)
def test_a_steady_flow_that_stops_dead(heard: str, due: bool) -> None:
    doubt, now = pulsed("." + heard)
    assert doubt.is_due(Flow(), 0.01, now) is due
    assert not doubt.is_due(Flow(), 0.01, now, direct=False)


def test_a_long_round_trip_lets_a_flow_pause_longer() -> None:
    doubt, now = pulsed("." + STEADY + STOP)
    assert not doubt.is_due(Flow(), 0.3, now)
    doubt, now = pulsed("." + STEADY + "." * 8)
    assert doubt.is_due(Flow(), 0.3, now)


@pytest.mark.parametrize(
    ("missing_for", "rtt", "patient", "ended", "due"),
    [
        (0.14, 0.0, 0.0, None, False),
        (0.16, 0.0, 0.0, None, True),
        (0.16, 0.1, 0.0, None, False),
        (0.21, 0.1, 0.0, None, True),
        (0.16, 0.01, 0.25, None, False),
        (0.16, 0.0, 0.0, 0.1, False),  # a doubt ended since: the same missing answer …
        (1.5, 0.0, 0.0, 0.9, False),
        (1.5, 0.0, 0.0, 1.1, True),  # … counts again after a pause
        (0.16, 0.0, 0.0, 0.2, True),  # asked after the last doubt
    ],
)
def test_a_missing_answer(missing_for: float, rtt: float, patient: float, ended: float | None, due: bool) -> None:
    now, doubt = 100.0, Doubt()
    if ended is not None:
        doubt.end(now - ended)
    flow = Flow(rtt=rtt, patience=patient, unanswered_since=now - missing_for)
    assert doubt.is_due(flow, 0.0, now) is due


def test_a_late_pulse_judges_nothing_but_only_once() -> None:
    flow, doubt = Flow(unanswered_since=9.0), Doubt()
    doubt.arm(10.0)
    at = 10.0 + c.PULSE + c.LATE_PULSE + 0.01
    doubt.pulse(at, at, 0.0)
    assert not doubt.is_due(flow, 0.0, at)
    at += c.PULSE + c.LATE_PULSE + 0.01
    doubt.pulse(at, at, 0.0)
    assert doubt.is_due(flow, 0.0, at)


def test_pulses_end_when_nothing_moves_for_a_second() -> None:
    doubt, now = Doubt(), 5.0
    doubt.arm(now)
    pulses = 0
    while doubt.pulse_at is not None:
        now, pulses = doubt.pulse_at, pulses + 1
        doubt.pulse(now, 1.0, 1.0)
    # The first one counts as a change: nothing was looked at before.
    assert pulses == c.IDLE_PULSES + 1
    assert doubt.deadline() == float("inf")


@pytest.mark.parametrize(
    ("since", "hastened"), [(9.95, 10.1), (9.99, 10.14), (9.5, 10.15), (10.2, 10.15), (None, 10.15)]
)
def test_haste(since: float | None, hastened: float) -> None:
    doubt = Doubt()
    doubt.pulse_at = 10.1
    doubt.pulse(10.1, 10.1, 10.1)
    doubt.pulse_at, doubt._pulsed_at = 10.15, 10.05
    doubt.hasten(Flow(unanswered_since=since), 0.0)
    assert doubt.pulse_at == pytest.approx(hastened)


def test_only_the_pong_to_a_ping_of_the_doubt_ends_it() -> None:
    doubt = Doubt()
    doubt.begin(10.0)
    doubt.answered(9.99, 10.1)
    assert (doubt.since, doubt.ended_at) == (10.0, NEVER)
    doubt.answered(10.0, 10.1)
    assert (doubt.since, doubt.ended_at) == (None, 10.1)


def test_hints_are_believed_at_once_and_then_ever_more_seldom() -> None:
    doubt, now, believed = Doubt(), 100.0, []
    while now < 220.0:
        if doubt.is_hinted(0.0, now):
            believed.append(now)
        now += 0.25
    gaps = [after - before for before, after in pairwise(believed)]
    assert believed[0] == 100.0
    assert gaps[:6] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    assert doubt.is_hinted(0.0, now + 300)
    assert doubt.is_hinted(0.0, now + 301), "after a silence it begins again"


@pytest.mark.parametrize(("pong_age", "hinted"), [(0.1, False), (0.2, True)])
def test_a_fresh_pong_outweighs_a_hint(pong_age: float, hinted: bool) -> None:
    assert Doubt().is_hinted(100.0 - pong_age, 100.0) is hinted


def test_a_session_rests_when_data_no_longer_moves() -> None:
    doubt = Doubt()
    assert not doubt.is_resting(1000.0)
    doubt.note_use(Flow(sent=10), 100.0)
    doubt.note_use(Flow(sent=10), 120.0)
    assert not doubt.is_resting(100.0 + c.RESTING_AFTER)
    assert doubt.is_resting(100.1 + c.RESTING_AFTER)
    doubt.note_use(Flow(sent=11), 200.0)
    assert not doubt.is_resting(200.0 + c.RESTING_AFTER)
