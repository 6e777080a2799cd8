"""A device that slept: the first packet shall not wait for WireGuard's timers, nor look like a flood."""

from __future__ import annotations

from itertools import pairwise

import pytest

from coder_agent.protocols.wireguard.handshakes import INITIATION_INTERVAL
from coder_agent.protocols.wireguard.timers import HASTY_TIMEOUT, JITTER_MAX, REKEY_TIMEOUT, WAKE_PAUSE
from coder_agent.testing.sim_wireguard import LATENCY, SimWireGuard

PACKET = bytes(range(60)) + b"\x45"
ROUND_TRIP = 2 * LATENCY


def connected() -> SimWireGuard:
    sim = SimWireGuard()
    sim.send("a", "b", PACKET)
    sim.run(30.0)
    assert sim.devices["a"].can_send(sim.keys["b"])
    sim.wire.clear()
    sim.delivered["b"].clear()
    return sim


def wake(sim: SimWireGuard, name: str) -> None:
    sim.carry_out(name, sim.devices[name].forget_sessions(sim.now))


def test_a_session_is_made_anew_at_once_without_a_packet_to_send() -> None:
    sim = connected()
    wake(sim, "a")
    assert [seen.kind for seen in sim.wire] == [1]
    sim.run(3 * LATENCY)
    assert sim.devices["a"].can_send(sim.keys["b"])
    assert sim.devices["b"].can_send(sim.keys["a"])


def test_what_is_sent_on_waking_waits_for_a_round_trip_only() -> None:
    sim = connected()
    wake(sim, "a")
    sim.send("a", "b", PACKET)
    sim.run(ROUND_TRIP + 1.5 * LATENCY)
    assert [packet[: len(PACKET)] for _, packet in sim.delivered["b"]] == [PACKET]


def test_a_peer_that_did_not_sleep_reaches_us_without_waiting_for_its_own_timer() -> None:
    sim = connected()
    wake(sim, "b")
    sim.send("a", "b", PACKET)  # still under the old keys: lost
    sim.run(ROUND_TRIP + 1.5 * LATENCY)
    assert sim.delivered["b"] == []
    sim.send("a", "b", PACKET)
    sim.run(2 * LATENCY)
    assert [packet[: len(PACKET)] for _, packet in sim.delivered["b"]] == [PACKET]


def test_with_whom_we_had_no_session_we_make_none() -> None:
    sim = SimWireGuard()
    wake(sim, "a")
    sim.run(100.0)
    assert sim.wire == []


@pytest.mark.parametrize("answer", ["comes", "is lost"])
@pytest.mark.parametrize("since", [0.0, 0.001, 0.011, INITIATION_INTERVAL, 0.15, 3.0])
def test_an_initiation_of_the_first_timers_is_not_followed_by_another_too_soon(since: float, answer: str) -> None:
    sim = connected()
    sim.run(200.0)
    start = sim.now
    if answer == "is lost":
        sim.fate = lambda sender, data: [] if sender == "b" and sim.now < start + since + 0.05 else [LATENCY]
    sim.wire.clear()
    sim.send("a", "b", PACKET)
    sim.run(since)
    wake(sim, "a")
    sim.send("a", "b", PACKET)
    sim.run(WAKE_PAUSE + HASTY_TIMEOUT + JITTER_MAX + 4 * LATENCY)
    times = [seen.time for seen in sim.sent("a", 1)]
    assert all(after - before > INITIATION_INTERVAL for before, after in pairwise(times))
    assert sim.devices["b"].counters["initiation-flood"] == 0
    assert sim.devices["a"].can_send(sim.keys["b"])
    assert len(sim.delivered["b"]) >= 1


def test_initiations_are_repeated_soon_three_times_and_then_as_ever() -> None:
    sim = connected()
    sim.fate = lambda _sender, _data: []
    wake(sim, "a")
    sim.run(20.0)
    gaps = [after.time - before.time for before, after in pairwise(sim.sent("a", 1))]
    for gap in gaps[:3]:
        assert HASTY_TIMEOUT <= gap <= HASTY_TIMEOUT + JITTER_MAX + 0.05
    for gap in gaps[3:]:
        assert REKEY_TIMEOUT <= gap <= REKEY_TIMEOUT + JITTER_MAX + 0.05
    assert len(gaps) >= 5


def test_the_haste_ends_with_the_handshake() -> None:
    sim = connected()
    wake(sim, "a")
    sim.run(10.0)
    sim.fate = lambda _sender, _data: []
    sim.carry_out("a", sim.devices["a"].initiate(sim.keys["b"], sim.now))
    sim.run(4.9)
    assert len(sim.sent("a", 1)) == 2  # on waking, and now


@pytest.mark.parametrize("lag", [0.0, 0.005, 0.03, 0.5])
def test_both_ends_slept(lag: float) -> None:
    sim = connected()
    sim.run(300.0)
    wake(sim, "a")
    sim.run(lag)
    wake(sim, "b")
    sim.run(0.5)
    for sender, to in ("ab", "ba"):
        sim.send(sender, to, PACKET)
        sim.run(2 * LATENCY)
        assert [packet[: len(PACKET)] for _, packet in sim.delivered[to]] == [PACKET]


def test_a_handshake_that_did_not_arrive_is_hastened_three_times_and_then_goes_its_own_pace() -> None:
    sim = SimWireGuard(fate=lambda _sender, _data: [])
    a, key = sim.devices["a"], sim.keys["b"]
    a.hasten(key, sim.now)
    assert not sim.wire, "there is none in progress"
    sim.send("a", "b", PACKET)
    for _ in range(3):
        began = len(sim.wire)
        a.hasten(key, sim.now + 1.0)
        sim.run(1.0 + LATENCY)
        assert len(sim.wire) == began + 1
    began = len(sim.wire)
    a.hasten(key, sim.now + 1.0)
    sim.run(REKEY_TIMEOUT - 2 * LATENCY - 1.0)
    assert len(sim.wire) == began
    sim.run(2.0)
    assert len(sim.wire) == began + 1


def test_a_handshake_is_not_hastened_to_a_later_time() -> None:
    sim = SimWireGuard()
    sim.send("a", "b", PACKET)
    sim.devices["a"].hasten(sim.keys["b"], sim.now + 60)
    sim.run(3 * LATENCY)
    assert sim.devices["a"].can_send(sim.keys["b"])
