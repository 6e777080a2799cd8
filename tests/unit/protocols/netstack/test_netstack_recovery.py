"""Scoreboard, congestion window and round-trip estimate on their own."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coder_agent.protocols.netstack.cubic import BETA, Cubic
from coder_agent.protocols.netstack.rtt import INITIAL_RTO, MIN_RTO, RttEstimator
from coder_agent.protocols.netstack.scoreboard import MAX_RECORDS, Scoreboard

MSS = 1000


def detect(board: Scoreboard, now: float, *, recovering: bool = False) -> int:
    return board.detect(now, 0.04, 0.04, recovering=recovering, mss=MSS)


def check(board: Scoreboard) -> None:
    """What must hold between any two calls."""
    assert all(a.end == b.start for a, b in zip(board.records, board.records[1:], strict=False))
    assert all(record.start < record.end for record in board.records)
    if board.una < board.nxt:
        assert (board.records[0].start, board.records[-1].end) == (board.una, board.nxt)
    else:
        assert board.records == []
    assert board.sacked == sum(r.end - r.start for r in board.records if r.sacked)
    assert board.lost == sum(r.end - r.start for r in board.records if r.lost)
    assert board._retransmitted == sum(r.retransmitted for r in board.records)
    assert not any(r.lost and r.sacked for r in board.records)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2**32), st.integers(1, 60))
def test_scoreboard_stays_consistent_whatever_happens(seed: int, steps: int) -> None:
    rng = random.Random(seed)
    board, now = Scoreboard(2**32 - 500), 0.0
    for _ in range(steps):
        now += rng.choice([0.0, 0.01, 0.1])
        what = rng.randrange(9)
        if what <= 1:
            board.sent(rng.randrange(1, 5 * MSS), now)
        elif what == 2:
            board.advance(rng.randint(board.una, board.nxt), now)
        elif what == 3:
            edges = sorted(rng.randint(board.una - 100, board.nxt + 100) for _ in range(4))
            board.sack([(edges[0], edges[1]), (edges[2], edges[3])], now)
        elif what == 4:
            detect(board, now, recovering=rng.random() < 0.5)
        elif what == 5 and board.lost:
            start, end = board.resend(rng.randrange(1, 3 * MSS), now)
            assert board.una <= start < end <= board.nxt
        elif what == 6:
            board.lose_first(MSS)
        elif what == 7:
            board.lose_all()
        elif what == 8:
            board.probe(MSS, now)
        check(board)
        assert 0 <= board.in_flight <= board.nxt - board.una


def test_sends_of_one_turn_are_one_record() -> None:
    board = Scoreboard(0)
    for _ in range(16):
        board.sent(49 * MSS, 1.0)
    assert len(board.records) == 1
    board.sent(MSS, 1.1)
    assert len(board.records) == 2


def test_sampled_round_trip_is_that_of_the_newest_data_and_never_of_a_retransmission() -> None:
    board = Scoreboard(0)
    board.sent(MSS, 1.0)
    board.sent(MSS, 1.5)
    board.advance(2 * MSS, 2.0)
    assert board.take_sample() == 0.5
    assert board.take_sample() is None
    board.sent(MSS, 2.0)
    board.lose_all()
    board.resend(MSS, 3.0)
    board.advance(3 * MSS, 3.5)
    assert board.take_sample() is None


def test_three_segments_beyond_a_hole_lose_it_at_once() -> None:
    board = Scoreboard(0)
    for i in range(5):
        board.sent(MSS, 1.0 + i / 1000)
    board.sack([(MSS, 3 * MSS)], 1.04)
    assert detect(board, 1.04) == 0
    assert board.reorder_deadline == pytest.approx(1.0 + 0.038 + 0.01)
    board.sack([(3 * MSS, 4 * MSS)], 1.041)
    assert detect(board, 1.041) == MSS
    assert board.resend(10 * MSS, 1.042) == (0, MSS)


def test_after_reordering_three_segments_are_not_enough() -> None:
    board = Scoreboard(0)
    for i in range(8):
        board.sent(MSS, 1.0 + i / 1000)
    board.sack([(MSS, 2 * MSS)], 1.04)
    board.advance(2 * MSS, 1.041)  # the first came late: overtaken, not lost
    board.sack([(3 * MSS, 7 * MSS)], 1.046)
    assert detect(board, 1.046) == 0
    assert board.reorder_deadline is not None
    assert detect(board, board.reorder_deadline) == MSS


def test_duplicate_reports_make_it_more_patient_for_a_while() -> None:
    board = Scoreboard(0)
    board._reordered = True
    board._rtt = 0.04
    waits = []
    for _ in range(6):
        waits.append(board._reorder_window(0.04, 0.1, recovering=False, mss=MSS))
        board.saw_duplicate()
    assert waits == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.05, 0.06])
    for _ in range(16):
        board.recovered()
    assert board._reorder_window(0.04, 0.1, recovering=False, mss=MSS) == pytest.approx(0.01)


def test_a_burst_lost_whole_is_sent_again_in_pieces() -> None:
    board = Scoreboard(0)
    board.sent(49 * MSS, 1.0)
    board.sent(49 * MSS, 1.01)
    board.sack([(49 * MSS, 98 * MSS)], 1.05)
    assert detect(board, 1.05) == 49 * MSS
    pieces = []
    while board.lost:
        pieces.append(board.resend(16 * MSS, 1.06))
    assert [end - start for start, end in pieces] == [16 * MSS, 16 * MSS, 16 * MSS, MSS]
    board.advance(98 * MSS, 1.1)
    assert board.records == []


def test_withdrawn_sack_is_sent_again() -> None:
    """Reneging, RFC 2018 §8."""
    board = Scoreboard(0)
    board.sent(2 * MSS, 1.0)
    board.sack([(0, MSS)], 1.1)
    board.lose_all()
    assert board.lost == 2 * MSS


def test_hostile_sacks_do_not_split_without_bound() -> None:
    board = Scoreboard(0)
    board.sent(50_000, 1.0)
    for start in range(0, 50_000, 4):
        board.sack([(start, start + 1)], 1.1)
    assert len(board.records) <= MAX_RECORDS + 2
    check(board)


def test_many_small_sends_do_not_grow_the_list_without_bound() -> None:
    board = Scoreboard(0)
    for i in range(2 * MAX_RECORDS):
        board.sent(1, 1.0 + i)
    assert len(board.records) <= MAX_RECORDS
    check(board)


# -- round trips ------------------------------------------------------------------------------------------------------


def test_first_sample_and_smoothing_follow_rfc_6298() -> None:
    rtt = RttEstimator()
    assert rtt.rto == INITIAL_RTO
    rtt.sample(0.4, 1.0)
    assert (rtt.srtt, rtt.variation, rtt.rto) == pytest.approx((0.4, 0.2, 1.2))
    rtt.sample(0.8, 2.0)
    assert rtt.variation == pytest.approx(0.75 * 0.2 + 0.25 * 0.4)
    assert rtt.srtt == pytest.approx(0.875 * 0.4 + 0.125 * 0.8)


def test_time_out_has_a_floor() -> None:
    rtt = RttEstimator()
    for i in range(100):
        rtt.sample(0.001, i / 100)
    assert rtt.rto == MIN_RTO


def test_minimum_is_forgotten_after_a_while() -> None:
    rtt = RttEstimator()
    rtt.sample(0.01, 0.0)
    rtt.sample(0.05, 20.0)
    assert rtt.minimum == 0.01
    rtt.sample(0.05, 31.0)
    assert rtt.minimum == 0.05


# -- congestion window ------------------------------------------------------------------------------------------------


def acknowledge(cubic: Cubic, size: int, now: float, rtt: float = 0.05) -> None:
    cubic.on_ack(size, 0, 1 << 60, now, rtt, rtt)


def rounds(cubic: Cubic, rtts: list[float]) -> None:
    """Whole windows, each acknowledged in four pieces after its round trip."""
    una = 0
    for turn, rtt in enumerate(rtts):
        end, piece = una + cubic.cwnd, cubic.cwnd // 4
        while una < end:
            una += piece
            cubic.on_ack(piece, una, una + cubic.cwnd, float(turn), rtt, rtt)


def test_slow_start_doubles_per_round_trip() -> None:
    cubic = Cubic(MSS)
    assert cubic.cwnd == 10 * MSS
    for _ in range(3):
        acknowledge(cubic, cubic.cwnd, 1.0)
    assert cubic.cwnd == 80 * MSS


def test_loss_takes_three_tenths() -> None:
    cubic = Cubic(MSS)
    cubic.cwnd = 1000 * MSS
    cubic.on_loss(1.0)
    assert cubic.cwnd == 1000 * MSS * BETA
    assert not cubic.in_slow_start


def test_window_returns_along_the_cubic_curve() -> None:
    """K = cbrt(W_max * 0.3 / 0.4) seconds to come back to where the loss was (RFC 9438 §4.2)."""
    cubic = Cubic(MSS)
    cubic.cwnd = 1000 * MSS
    cubic.on_loss(0.0)
    k = (1000 * 0.3 / 0.4) ** (1 / 3)
    now, seen = 0.0, {}
    while now < 1.5 * k:
        acknowledge(cubic, cubic.cwnd, now, 0.1)
        seen[round(now, 1)] = cubic.cwnd / MSS
        now += 0.1
    assert seen[round(k / 2, 1)] == pytest.approx(1000 - 0.4 * (k / 2) ** 3, rel=0.03)
    assert seen[round(k, 1)] == pytest.approx(1000, rel=0.02)
    assert seen[round(1.4 * k, 1)] > 1010


def test_short_round_trips_grow_at_least_like_reno() -> None:
    cubic = Cubic(MSS)
    cubic.cwnd = 20 * MSS
    cubic.on_loss(0.0)
    start = cubic.cwnd
    for i in range(50):
        acknowledge(cubic, cubic.cwnd, i * 0.002, 0.002)
    assert cubic.cwnd >= start + 20 * MSS


def test_time_out_starts_from_one_segment_and_remembers_half_the_way() -> None:
    cubic = Cubic(MSS)
    cubic.cwnd = 100 * MSS
    cubic.on_timeout(100 * MSS, first=True)
    assert (cubic.cwnd, cubic.ssthresh) == (MSS, 70 * MSS)
    cubic.on_timeout(MSS, first=False)
    assert cubic.ssthresh == 70 * MSS


def test_a_growing_queue_ends_slow_start() -> None:
    """HyStart++: round trips that grow by more than an eighth lead to a slower start, then to avoidance."""
    cubic = Cubic(MSS)
    rounds(cubic, [0.04 + max(0, turn - 3) * 0.01 for turn in range(20)])
    assert not cubic.in_slow_start
    assert cubic.ssthresh < 10 * MSS * 2**10


def test_steady_round_trips_do_not_end_slow_start() -> None:
    cubic = Cubic(MSS)
    rounds(cubic, [0.04] * 10)
    assert cubic.cwnd == 10 * MSS * 2**10
