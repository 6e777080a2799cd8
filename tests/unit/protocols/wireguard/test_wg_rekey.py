"""Minutes of virtual time with traffic across rekeys: nothing may be lost, whatever the wire does meanwhile."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from coder_agent.testing.sim_wireguard import LATENCY, SimWireGuard

Ways = tuple[tuple[str, str], ...]
BOTH: Ways = (("a", "b"), ("b", "a"))


def numbered(n: int) -> bytes:
    return n.to_bytes(16, "big")


def talk(sim: SimWireGuard, *, seconds: int, per_second: int, first: int = 0, ways: Ways = BOTH) -> int:
    """Send numbered packets each way, `per_second` of them spread over each second. Returns the next number."""
    n = first
    for _ in range(seconds * per_second):
        for sender, to in ways:
            sim.send(sender, to, numbered(n))
        n += 1
        sim.run(1.0 / per_second)
    return n


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("ways", [BOTH[:1], BOTH[1:], BOTH])
def test_traffic_through_rekeys_loses_nothing(vector: bool, ways: Ways) -> None:
    sim = SimWireGuard(vector=vector)
    sim.carry_out("a", sim.devices["a"].initiate(sim.keys["b"], 0.0))
    sim.run(0.1)
    count = talk(sim, seconds=400, per_second=5, ways=ways)
    sim.run(1.0)
    for _, to in ways:
        assert [packet for _, packet in sim.delivered[to]] == [numbered(n) for n in range(count)]
    handshakes = sim.sent("a", 1) + sim.sent("b", 1)
    # a asks for a new session with the first thing it sends after 120 s; be that a keepalive for what it receives.
    assert [seen.time // 120 for seen in handshakes] == [0, 1, 2, 3]
    assert {seen.sender for seen in handshakes} == {"a"}


def test_each_side_rekeys_the_session_it_initiated() -> None:
    sim = SimWireGuard()
    sim.send("a", "b", numbered(0))
    sim.send("b", "a", numbered(0))  # simultaneous: each ends up with a session of its own making
    sim.run(0.5)
    count = talk(sim, seconds=300, per_second=2, first=1)
    sim.run(1.0)
    for name in "ab":
        assert [packet for _, packet in sim.delivered[name]] == [numbered(n) for n in range(count)]
    assert len(sim.sent("a", 1)) + len(sim.sent("b", 1)) <= 8


def test_packets_in_flight_under_the_old_key_still_arrive() -> None:
    delays = random.Random(3)
    sim = SimWireGuard(fate=lambda _sender, data: [delays.uniform(0.0, 2.0)] if data[0] == 4 else [LATENCY])
    sim.carry_out("a", sim.devices["a"].initiate(sim.keys["b"], 0.0))
    sim.run(3.0)
    count = talk(sim, seconds=260, per_second=10)
    sim.run(5.0)
    for name in "ab":
        assert sorted(packet for _, packet in sim.delivered[name]) == [numbered(n) for n in range(count)]
    assert len(sim.sent("a", 1)) == 3


@pytest.mark.parametrize("seed", range(4))
def test_bad_wire_loses_only_what_it_drops(seed: int) -> None:
    """10 % loss, 10 % duplicates, delays up to half a second, on data and on handshakes alike.

    Only one side initiates: when both do at once, packets under way may find their session displaced from all slots.
    """
    rng = random.Random(seed)
    dropped: Counter[str] = Counter()

    def fate(sender: str, data: bytes) -> list[float]:
        if rng.random() < 0.1:
            dropped[sender] += data[0] == 4 and len(data) > 32
            return []
        return [rng.uniform(0.0, 0.5) for _ in range(1 + (rng.random() < 0.1))]

    sim = SimWireGuard(fate=fate)
    sim.carry_out("a", sim.devices["a"].initiate(sim.keys["b"], 0.0))
    sim.run(20.0)
    count = talk(sim, seconds=400, per_second=5)
    sim.run(2.0)
    for sender, name in BOTH:
        arrived = [packet for _, packet in sim.delivered[name]]
        assert len(set(arrived)) == len(arrived) == count - dropped[sender]
    assert not any(device.counters["queue-full"] for device in sim.devices.values())


def test_outage_of_minutes_heals_by_itself() -> None:
    sim = SimWireGuard()
    sim.send("a", "b", numbered(0))
    sim.run(1.0)
    sim.fate = lambda _sender, _data: []
    talk(sim, seconds=200, per_second=1, first=1000)
    sim.fate = None
    sim.delivered["a"].clear()
    sim.delivered["b"].clear()
    sim.run(6.0)
    count = talk(sim, seconds=10, per_second=1, first=5000)
    sim.run(1.0)
    for name in "ab":
        assert [packet for _, packet in sim.delivered[name]][-10:] == [numbered(n) for n in range(count - 10, count)]
