"""Ports guessed and predicted in the laboratory: how often, how fast, and what stays relayed."""

from __future__ import annotations

import statistics
from dataclasses import replace

import pytest

from coder_agent.base.paths import PathKind, UdpPath
from coder_agent.magicsock import constants as c
from coder_agent.testing.lab.host import SimHost
from coder_agent.testing.lab.laboratory import Lab
from coder_agent.testing.lab.matrix import Meeting, meet
from coder_agent.testing.lab.places import EASY, SYMMETRIC_PRESERVING, SYMMETRIC_RANDOM, Pair, topology_of
from coder_agent.testing.lab.topology import LinkRules, Topology


def easy_and_hard(seed: int = 1, *, limit: float = 30.0) -> Meeting:
    return meet(topology_of(Pair(EASY, SYMMETRIC_RANDOM)), seed=seed, limit=limit)


def udp_sent(host: SimHost) -> int:
    return sum(isinstance(one.path, UdpPath) for _, one in host.disco_sent)


def test_at_least_95_of_100_runs_are_direct_within_20_seconds() -> None:
    times = [easy_and_hard(seed).seconds for seed in range(100)]
    found = [seconds for seconds in times if seconds is not None and seconds <= 20.0]
    assert len(found) >= 95
    assert statistics.median(found) < 8.0


@pytest.mark.parametrize("loss", [0.02, 0.1])
def test_a_lossy_network_only_takes_longer(loss: float) -> None:
    shape = topology_of(Pair(EASY, SYMMETRIC_RANDOM))
    lossy = replace(shape, core=LinkRules(latency=0.05, loss=loss))
    assert sum(meet(lossy, seed=seed, limit=25.0).seconds is not None for seed in range(5)) >= 4


def test_the_hard_end_keeps_the_socket_that_got_through_and_closes_the_others() -> None:
    meeting = easy_and_hard(3)
    socket = meeting.b.path(meeting.a).socket
    assert socket != 0
    assert meeting.a.path(meeting.b).socket == 0
    assert meeting.b.sockets.port(socket) is not None
    assert len(meeting.b.sockets) <= 1 + 3
    meeting.lab.run(60)  # the mapping is kept open by heartbeats as long as there is traffic
    assert not meeting.b.path(meeting.a).birthday


def test_a_path_through_a_guessed_port_stays_up_while_it_is_used() -> None:
    meeting = easy_and_hard(4)
    lab, a, b = meeting.lab, meeting.a, meeting.b
    a.send_each(b, 0.2, lab.now + 120)
    before = len(b.updates)
    lab.run(120)
    assert a.is_direct(b)
    assert b.is_direct(a)
    assert len(b.updates) == before


def test_when_the_hard_nat_forgets_the_attempt_is_repeated_after_a_pause() -> None:
    meeting = easy_and_hard(5)
    lab, a, b = meeting.lab, meeting.a, meeting.b
    began = lab.now
    lab.network.nat("home-b").restart()
    a.send_each(b, 0.2, lab.now + 130)
    assert lab.run(30, until=lambda: a.path(b).kind is PathKind.RELAYED)
    assert lab.run(100, until=lambda: a.is_direct(b) and b.is_direct(a))
    assert lab.now - began >= 30  # not at once: an attempt a minute
    assert b.path(a).socket != 0


def test_two_unpredictable_ends_stay_relayed_and_nobody_guesses() -> None:
    meeting = meet(topology_of(Pair(SYMMETRIC_RANDOM, SYMMETRIC_RANDOM)), limit=25.0)
    assert meeting.seconds is None
    for one, other in ((meeting.a, meeting.b), (meeting.b, meeting.a)):
        status = one.path(other)
        assert status.local.facts.mapping_varies
        assert status.remote is not None
        assert status.remote.facts.mapping_varies  # both ends know why
        assert len(one.sockets) == 1
        assert udp_sent(one) < 100


def test_a_nat_that_counts_is_predicted_within_a_second() -> None:
    meeting = meet(topology_of(Pair(EASY, SYMMETRIC_PRESERVING)))
    assert meeting.seconds is not None
    assert meeting.seconds < 1.0
    assert meeting.b.path(meeting.a).socket == 0


def test_the_off_switch_holds_at_either_end() -> None:
    for off in ("a", "b"):
        shape = topology_of(Pair(EASY, SYMMETRIC_RANDOM))
        meeting = _meet_with(shape, off)
        assert meeting.seconds is None
        assert len(meeting.b.sockets) == 1 or off == "a"
        guesses = udp_sent(meeting.a)
        assert guesses < 100


def _meet_with(shape: Topology, off: str) -> Meeting:
    lab = Lab(shape, 1)
    a, b = lab.host("a"), lab.host("b")
    lab.host(off).magicsock.set_birthday(False)
    b.answers = True
    lab.start("b")
    lab.run(3.0)
    lab.introduce("a", "b")
    a.send_each(b, 0.1, lab.now + 30)
    direct = lab.run(30, until=lambda: a.is_direct(b) and b.is_direct(a))
    return Meeting(lab, a, b, lab.now if direct else None)


def test_no_more_is_sent_than_the_bounds_say() -> None:
    meeting = _meet_with(topology_of(Pair(EASY, SYMMETRIC_RANDOM)), "b")  # the hard end never begins
    assert meeting.seconds is None
    meeting = easy_and_hard(7)
    guesses = [at for at, one in meeting.a.disco_sent if isinstance(one.path, UdpPath)]
    per_second = max(sum(start <= at < start + 1 for at in guesses) for start in guesses)
    assert per_second <= c.BIRTHDAY_GUESSES_PER_TICK / c.BIRTHDAY_TICK + c.PROBE_BURST + 16
    assert len(guesses) <= c.BIRTHDAY_GUESSES + 100
