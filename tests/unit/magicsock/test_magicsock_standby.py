"""Two relays per node: which carries what, when both do, and that both ends pick the same second one. Fixed times."""

from __future__ import annotations

import pytest

from coder_agent.base.derp_map import DerpMap, DerpNode, DerpRegion
from coder_agent.base.flow import Flow
from coder_agent.base.keys import NodePublic
from coder_agent.magicsock import standby as s
from coder_agent.magicsock.standby import Standby, second_home

BOB = NodePublic(bytes([2]) * 32)
HOME, SECOND, OTHER = 1, 2, 3
T = 1000.0


def region(number: int, **more: bool) -> DerpRegion:
    return DerpRegion(number, f"r{number}", f"Relay {number}", nodes=(DerpNode(f"{number}a", number, "x"),), **more)


def map_of(*regions: DerpRegion) -> DerpMap:
    return DerpMap({one.region_id: one for one in regions})


@pytest.mark.parametrize(
    ("latency", "second"),
    [
        ({}, 2),
        ({"3-v4": 0.01}, 3),
        ({"2-v4": 0.02, "3-v4": 0.01}, 3),
        ({"2-v6": 0.001, "2-v4": 0.02, "3-v4": 0.01}, 2),
        ({"1-v4": 0.001, "nonsense": 0.0}, 2),
        ({"2-v4": 0.01, "3-v4": 0.01}, 2),
    ],
)
def test_the_second_region_is_the_nearest_other_by_what_was_published(latency: dict[str, float], second: int) -> None:
    assert second_home(map_of(region(1), region(2), region(3)), HOME, latency) == second


def test_no_region_that_may_not_be_home_is_second() -> None:
    regions = map_of(region(1), region(2, avoid=True), region(3, no_measure_no_home=True))
    assert second_home(regions, HOME, {"2-v4": 0.01, "3-v4": 0.01}) == 0
    assert second_home(map_of(region(1)), HOME, {}) == 0
    assert second_home(map_of(region(1), region(2)), 0, {}) == 0


def settled() -> Standby:
    """A conversation with Bob, both ends at home in HOME, has been going on."""
    standby = Standby()
    standby.home, standby.second = HOME, SECOND
    standby.set_peer(BOB, HOME, SECOND)
    standby.regions(BOB, HOME, T)
    standby.heard(BOB, HOME, T)
    return standby


def test_a_conversation_begins_by_both_and_goes_on_by_one() -> None:
    standby = Standby()
    standby.set_peer(BOB, HOME, SECOND)
    assert standby.regions(BOB, HOME, T) == (HOME, SECOND)
    assert standby.regions(BOB, HOME, T + 0.1) == (HOME, SECOND)
    standby.heard(BOB, HOME, T + 0.2)
    assert standby.regions(BOB, HOME, T + 0.3) == (HOME, 0)
    standby.regions(BOB, HOME, T + 40)
    assert standby.regions(BOB, HOME, T + 40 + s.FORGOTTEN + 1) == (HOME, SECOND)


def test_a_peer_that_never_answers_costs_twice_for_a_while_only() -> None:
    standby = Standby()
    standby.set_peer(BOB, HOME, SECOND)
    standby.regions(BOB, HOME, T)
    assert standby.regions(BOB, HOME, T + s.BEGINNING + 0.1) == (HOME, 0)


def test_while_our_connection_is_down_the_second_carries_alone() -> None:
    standby = settled()
    standby.relay_changed(HOME, False, T + 1)
    assert standby.regions(BOB, HOME, T + 1) == (SECOND, 0)
    standby.relay_changed(SECOND, False, T + 2)
    assert standby.regions(BOB, HOME, T + 2) == (HOME, 0), "with both down, the home is dialled"
    standby.relay_changed(HOME, True, T + 3)
    assert standby.regions(BOB, HOME, T + 3) == (HOME, 0)


def test_a_missing_answer_is_a_doubt_once() -> None:
    standby = settled()
    asked = Flow(unanswered_since=T + 1, rtt=0.01, patience=0.02)
    assert not standby.note_flow(BOB, asked, T + 1 + 0.9 * s.PATIENCE)
    assert standby.note_flow(BOB, asked, T + 1 + 1.1 * s.PATIENCE)
    assert standby.regions(BOB, HOME, T + 1.2) == (HOME, SECOND)
    assert not standby.note_flow(BOB, asked, T + 1.3)
    assert standby.regions(BOB, HOME, T + 1.2 + s.DOUBT) == (HOME, 0)


def test_a_far_relay_has_longer_and_jitter_is_believed_within_limits() -> None:
    standby = settled()
    far = Flow(unanswered_since=T + 1, rtt=0.4, patience=60.0)
    assert not standby.note_flow(BOB, far, T + 1 + 0.4 + s.JITTER - 0.01)
    assert standby.note_flow(BOB, far, T + 1 + 0.4 + s.JITTER + 0.01)


def test_nothing_due_and_nobody_known_is_no_doubt() -> None:
    standby = settled()
    assert not standby.note_flow(BOB, Flow(), T + 50)
    assert not standby.note_flow(NodePublic(bytes(32)), Flow(unanswered_since=0.0), T)
    assert standby.regions(NodePublic(bytes(32)), OTHER, T) == (OTHER, 0)
    assert not standby.heard(NodePublic(bytes(32)), SECOND, T)


def test_who_hears_a_peer_by_the_second_region_answers_by_both_and_looks_to_its_home() -> None:
    standby = settled()
    assert standby.heard(BOB, SECOND, T + 1)
    assert standby.regions(BOB, HOME, T + 1.1) == (HOME, SECOND)
    assert not standby.heard(BOB, SECOND, T + 1.2), "once"
    assert standby.regions(BOB, HOME, T + 1.3 + s.ANSWER) == (HOME, 0)


def test_two_ends_do_not_keep_each_other_sending_twice() -> None:
    """A copy by the second region is no news while others come by the home."""
    standby = settled()
    standby.seen(BOB, HOME, T + 1)
    assert not standby.heard(BOB, SECOND, T + 1.05)
    assert standby.regions(BOB, HOME, T + 1.06) == (HOME, 0)


def test_a_peer_that_is_at_home_in_our_second_region_gives_no_reason() -> None:
    """It is answered by the region where it is, once."""
    standby = settled()
    standby.set_peer(BOB, SECOND, HOME)
    standby.heard(BOB, SECOND, T + 1)
    assert standby.regions(BOB, SECOND, T + 1.1) == (SECOND, 0)


def test_a_peer_that_is_not_at_its_second_region_is_tried_there_ever_more_rarely() -> None:
    standby = settled()
    standby.relay_changed(HOME, False, T)
    now = T + 1
    for pause in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 64.0):
        assert standby.regions(BOB, HOME, now) == (SECOND, 0)
        assert standby.gone(BOB, SECOND, now) == now + pause
        assert standby.gone(BOB, SECOND, now + 0.1) is None, "one packet more that was under way"
        assert standby.regions(BOB, HOME, now + pause - 0.1) == (HOME, 0)
        assert not standby.note_flow(BOB, Flow(unanswered_since=T), now + pause - 0.1)
        now += pause


def test_one_that_is_heard_there_is_tried_there_at_once() -> None:
    standby = settled()
    standby.relay_changed(HOME, False, T)
    for _ in range(3):
        standby.gone(BOB, SECOND, T + 1)
        standby.heard(BOB, SECOND, T + 1.1)
        assert standby.regions(BOB, HOME, T + 1.1) == (SECOND, 0)


def test_while_the_home_works_nothing_hangs_on_the_second() -> None:
    standby = settled()
    assert standby.gone(BOB, SECOND, T + 1) is None
    assert standby.gone(BOB, HOME, T + 1) is None
    assert standby.gone(NodePublic(bytes(32)), SECOND, T + 1) is None


def test_looks_stop_when_nothing_moves_and_when_the_peer_goes() -> None:
    standby = settled()
    assert standby.deadline() == T + s.PULSE
    assert standby.due(T + s.PULSE) == [BOB]
    assert standby.deadline() == T + s.PULSE + s.PULSE
    assert standby.due(T + 2) == [BOB]
    assert standby.deadline() is None
    standby.regions(BOB, HOME, T + 3)
    standby.remove_peer(BOB)
    assert standby.deadline() is None
    assert standby.due(T + 9) == []


def test_a_home_is_given_up_after_a_while_and_not_for_a_restart() -> None:
    standby = settled()
    standby.relay_changed(HOME, False, T)
    standby.relay_changed(HOME, False, T + 1.5)
    assert standby.given_up(T + s.DOWN_BEFORE_MOVE - 0.1) == frozenset()
    assert standby.given_up(T + s.DOWN_BEFORE_MOVE) == {HOME}
    standby.relay_changed(HOME, True, T + 9)
    assert standby.given_up(T + 9) == frozenset()


def test_peers_whose_packets_are_under_way() -> None:
    standby = settled()
    assert standby.peers_by_relay(T + 0.5) == [BOB]
    assert standby.peers_by_relay(T + 2) == []
