"""TCP by transcript: one connection against segments written by hand. RFC numbers in the names' docstrings."""

from __future__ import annotations

from itertools import pairwise

import pytest

from coder_agent.protocols.netstack import StackConfig, State
from coder_agent.protocols.netstack import segments as wire
from coder_agent.protocols.netstack.segments import Options
from coder_agent.protocols.netstack.states import TRANSITIONS, Event, after
from coder_agent.testing.tcp_script import OUR_START, SYN_OPTIONS, TcpScript

STAMPED = wire.syn_options(Options(mss=1220, shift=8, sack_permitted=True, timestamp=(5000, 0)))
ZERO = -OUR_START & 0xFFFFFFFF
"""The absolute number 0, in the script's counting."""


def stamp(value: int, echo: int = 0, *sacks: tuple[int, int]) -> bytes:
    return wire.ack_options(Options(timestamp=(value, echo), sacks=sacks))


def sack(*blocks: tuple[int, int]) -> bytes:
    return wire.ack_options(Options(sacks=tuple((OUR_START + a, OUR_START + b) for a, b in blocks)))


# -- opening ----------------------------------------------------------------------------------------------------------


def test_we_open() -> None:
    script = TcpScript()
    connection = script.dial()
    assert connection.state == "syn-sent"
    assert script.sent() == ["S 0 win 65535 <mss 1220,sack,shift 8>"]
    script.say("S.", ack=1, options=SYN_OPTIONS)
    assert connection.state == "established"
    assert script.stack.woken() == [connection]
    assert script.sent() == [". 1 ack 1 win 2048"]


def test_data_written_before_the_handshake_leaves_after_it() -> None:
    script = TcpScript()
    connection = script.dial()
    assert connection.write(b"early") == 5
    assert script.sent() == ["S 0 win 65535 <mss 1220,sack,shift 8>"]
    script.say("S.", ack=1, options=SYN_OPTIONS)
    assert script.sent() == ["P. 1:6 ack 1 win 2048"]


def test_they_open_and_nothing_is_said_before_accept() -> None:
    script = TcpScript()
    script.knock()
    script.knock()
    assert script.sent() == []
    [request] = script.requests
    connection = request.accept(script.now)
    assert script.sent() == ["S. 0 ack 1 win 65535 <mss 1220,sack,shift 8>"]
    script.say(".", ack=1)
    assert connection.state == "established"
    assert script.sent() == [". 1 ack 1 win 2048"]  # only now can more than 64 KiB be offered


def test_options_that_they_do_not_offer_are_not_used() -> None:
    script = TcpScript(StackConfig(keepalive_idle=0, timestamps=True))
    script.knock(options=b"")
    script.requests[0].accept(script.now)
    assert script.sent() == ["S. 0 ack 1 win 65535 <mss 1220>"]
    script.say(".", ack=1, window=1000)
    [connection] = script.stack.connections()
    connection.write(b"x" * 5000)
    assert script.sent() == []  # half a segment would fit: wait a little for more
    assert script.wait(0.25) == ["0.20 . 1:1001 ack 1 win 65535"]  # window 1000 is not scaled
    script.say(".", ack=1001, window=1000)
    assert script.sent() == [". 1001:2001 ack 1 win 65535"]


def test_timestamps_they_offer_are_used_and_echoed() -> None:
    script = TcpScript()
    script.knock(options=STAMPED)
    connection = script.requests[0].accept(script.now)
    assert script.sent() == ["S. 0 ack 1 win 65535 <mss 1220,sack,stamp echo 5000,shift 8>"]
    script.say(".", ack=1, options=stamp(5001))
    script.say("P.", ack=1, data=b"hello", options=stamp(5002))
    assert script.sent() == [". 1 ack 6 win 2048 <stamp echo 5002>"]
    connection.write(b"x" * 1209)
    assert script.sent() == [
        ". 1:1209 ack 6 win 2048 <stamp echo 5002>",
        "P. 1209:1210 ack 6 win 2048 <stamp echo 5002>",
    ]


def test_smaller_mss_of_theirs_is_kept() -> None:
    script = TcpScript()
    connection = script.dialled(options=wire.syn_options(Options(mss=500, sack_permitted=True)))
    connection.write(b"x" * 1200)
    assert [line.split()[1] for line in script.sent()] == ["1:501", "501:1001", "1001:1201"]


def test_syn_is_repeated_and_given_up() -> None:
    script = TcpScript(StackConfig(connect_timeout=7.0, keepalive_idle=0))
    connection = script.dial()
    lines = script.wait(20)
    assert [line.split()[0] for line in lines[1:]] == ["1.00", "3.00", "5.00"]
    assert (connection.state, connection.error) == (State.CLOSED, "timeout")


def test_syn_ack_is_repeated_for_a_repeated_syn_and_by_time() -> None:
    script = TcpScript()
    script.knock()
    script.requests[0].accept(script.now)
    answer = script.sent()
    script.knock()
    assert script.sent() == answer
    assert len(script.requests) == 1
    assert len(script.wait(2.5)) == 1


def test_simultaneous_open() -> None:
    """RFC 9293 figure 7."""
    script = TcpScript()
    connection = script.dial()
    script.sent()
    script.say("S", options=SYN_OPTIONS)
    assert connection.state == "syn-received"
    assert script.sent() == ["S. 0 ack 1 win 65535 <mss 1220,sack,shift 8>"]
    script.say("S.", seq=0, ack=1, options=SYN_OPTIONS)
    assert connection.state == "established"
    connection.write(b"hi")
    assert script.sent() == ["P. 1:3 ack 1 win 2048"]


def test_wrong_acknowledgement_of_our_syn_is_reset_and_ignored() -> None:
    script = TcpScript()
    connection = script.dial()
    script.sent()
    script.say("S.", ack=77, options=SYN_OPTIONS)
    assert script.sent() == ["R 77 win 0"]
    assert connection.state == "syn-sent"


def test_wrong_acknowledgement_of_our_syn_ack_is_reset() -> None:
    script = TcpScript()
    script.knock()
    connection = script.requests[0].accept(script.now)
    script.sent()
    script.say(".", ack=500)
    assert script.sent() == ["R 500 win 0"]
    assert connection.state == "syn-received"


def test_refused() -> None:
    script = TcpScript()
    connection = script.dial()
    script.sent()
    script.say("R", seq=0)
    assert connection.state == "syn-sent"  # a reset without acknowledgement could be anybody's
    script.say("R.", seq=0, ack=1)
    assert (connection.state, connection.error) == (State.CLOSED, "refused")
    assert script.stack.connections() == []


# -- deciding about a request -----------------------------------------------------------------------------------------


def test_reject_resets() -> None:
    script = TcpScript()
    script.knock()
    script.requests[0].reject(script.now)
    assert script.sent() == [f"R. {ZERO} ack 1 win 0"]


def test_drop_says_nothing_and_the_next_syn_asks_again() -> None:
    script = TcpScript()
    script.knock()
    script.requests[0].drop()
    assert script.sent() == []
    script.knock()
    assert len(script.requests) == 2


def test_nobody_listens() -> None:
    script = TcpScript()
    script.stack.on_syn = None
    script.knock()
    assert script.sent() == [f"R. {ZERO} ack 1 win 0"]


@pytest.mark.parametrize("how", ["reset", "timeout", "another syn"])
def test_accepting_too_late_gives_a_closed_connection(how: str) -> None:
    script = TcpScript()
    script.knock()
    if how == "reset":
        script.say("R", seq=1)
    elif how == "timeout":
        script.wait(31)
    else:
        script.say("S", seq=1000, options=SYN_OPTIONS)
    connection = script.requests[0].accept(script.now)
    assert connection.state == "closed"
    assert connection.error == ("timeout" if how == "timeout" else "reset")
    assert connection.write(b"x") == 0
    assert script.sent() == []
    assert len(script.stack.connections()) == 0


def test_backlog_is_bounded() -> None:
    script = TcpScript(StackConfig(syn_backlog=3))
    for port in range(10):
        script.knock(port)
    assert len(script.requests) == 3
    assert script.stack.counters["backlog-full"] == 7
    script.requests[0].reject(script.now)
    script.knock(99)
    assert len(script.requests) == 4


# -- data -------------------------------------------------------------------------------------------------------------


def test_data_in_order_is_read_and_acknowledged_once_per_turn() -> None:
    script = TcpScript()
    connection = script.dialled()
    script.stack.woken()
    script.say("P.", seq=1, ack=1, data=b"abc")
    script.say("P.", seq=4, ack=1, data=b"def")
    assert script.stack.woken() == [connection]
    assert connection.readable == 6
    assert b"".join(connection.read()) == b"abcdef"
    assert script.sent() == [". 1 ack 7 win 2048"]
    assert script.sent() == []


def test_acknowledgement_rides_on_an_answer() -> None:
    script = TcpScript()
    connection = script.dialled()
    script.say("P.", seq=1, ack=1, data=b"question")
    connection.write(b"answer")
    assert script.sent() == ["P. 1:7 ack 9 win 2048"]


def test_out_of_order_data_is_reported_by_sack_and_held() -> None:
    script = TcpScript()
    connection = script.dialled()
    script.say(".", seq=4, ack=1, data=b"def")
    assert script.sent() == [". 1 ack 1 win 2048 <4-7>"]
    script.say(".", seq=10, ack=1, data=b"jkl")
    assert script.sent() == [". 1 ack 1 win 2048 <10-13,4-7>"]
    assert connection.readable == 0
    script.say(".", seq=1, ack=1, data=b"abc")
    assert b"".join(connection.read()) == b"abcdef"
    assert script.sent() == [". 1 ack 7 win 2048 <10-13>"]


def test_duplicate_data_is_reported() -> None:
    """RFC 2883."""
    script = TcpScript()
    script.dialled()
    script.say(".", seq=1, ack=1, data=b"abc")
    script.sent()
    script.say(".", seq=1, ack=1, data=b"abc")
    assert script.sent() == [". 1 ack 4 win 2048 <1-4>"]
    script.say(".", seq=4, ack=1, data=b"d")
    assert script.sent() == [". 1 ack 5 win 2048"]


def test_partly_new_data_is_taken_from_where_it_is_new() -> None:
    script = TcpScript()
    connection = script.dialled()
    script.say(".", seq=1, ack=1, data=b"abc")
    script.say(".", seq=2, ack=1, data=b"bcdef")
    assert b"".join(connection.read()) == b"abcdef"


def test_data_beyond_the_window_is_cut_off() -> None:
    script = TcpScript(StackConfig(receive_window=1024, initial_window=1024, keepalive_idle=0))
    connection = script.dialled()
    for start in range(0, 1500, 500):
        script.say(".", seq=1 + start, ack=1, data=bytes(500))
    assert connection.readable == 1024
    assert script.sent()[-1].startswith(". 1 ack 1025 win 0")
    connection.read()
    assert script.sent() == [". 1 ack 1025 win 4"]


def test_urgent_data_is_ordinary_data() -> None:
    script = TcpScript()
    connection = script.dialled()
    script.say("P.", seq=1, ack=1, data=b"urgent?")
    assert b"".join(connection.read()) == b"urgent?"


def test_segment_without_ack_is_ignored() -> None:
    script = TcpScript()
    connection = script.dialled()
    script.say("P", seq=1, data=b"no ack")
    assert connection.readable == 0
    assert script.sent() == []


def test_write_is_cut_into_segments_and_the_last_is_pushed() -> None:
    script = TcpScript()
    connection = script.dialled()
    data = bytes(range(256)) * 10
    assert connection.write(data) == 2560
    assert script.sent() == [
        ". 1:1221 ack 1 win 2048",
        ". 1221:2441 ack 1 win 2048",
        "P. 2441:2561 ack 1 win 2048",
    ]
    assert script.payload == data


def test_window_of_ten_segments_at_first_then_it_doubles() -> None:
    script = TcpScript()
    connection = script.dialled()
    connection.write(bytes(100 * 1220))
    assert len(script.sent()) == 10
    script.now += 0.01
    script.say(".", ack=1 + 10 * 1220)
    assert len(script.sent()) == 20


def test_their_window_is_respected_and_its_opening_used() -> None:
    script = TcpScript()
    connection = script.dialled(window=2000, options=wire.syn_options(Options(mss=1220)))
    connection.write(bytes(6000))
    assert script.sent() == [". 1:1221 ack 1 win 65535"]  # no slivers: 780 bytes more would fit
    script.say(".", ack=1221, window=5000)
    assert [line.split()[1] for line in script.sent()] == ["1221:2441", "2441:3661", "3661:4881", "4881:6001"]


def test_older_window_does_not_replace_a_newer() -> None:
    script = TcpScript()
    connection = script.dialled()
    script.say("P.", seq=1, ack=1, data=b"new", window=9)
    script.say(".", seq=1, ack=1, window=2000)
    assert connection.sender.window == 9 << 8


def test_high_water_and_low_water() -> None:
    script = TcpScript(StackConfig(send_buffer=10_000, keepalive_idle=0))
    connection = script.dialled()
    assert connection.write(bytes(30_000)) == 10_000
    assert not connection.writable
    assert connection.write(b"x") == 0
    script.sent()
    script.stack.woken()
    script.now += 0.01
    script.say(".", ack=1 + 4880)
    assert script.stack.woken() == []
    script.say(".", ack=1 + 6100)
    assert script.stack.woken() == [connection]
    assert connection.writable


def test_write_takes_any_buffer() -> None:
    script = TcpScript()
    connection = script.dialled()
    connection.write(memoryview(b"12345678").cast("I"))
    connection.write(bytearray(b"!"))
    script.sent()
    assert script.payload == b"12345678!"


def test_read_with_a_limit() -> None:
    script = TcpScript()
    connection = script.dialled()
    script.say("P.", seq=1, ack=1, data=b"abcdefgh")
    assert [bytes(c) for c in connection.read(3)] == [b"abc"]
    assert connection.readable == 5
    assert [bytes(c) for c in connection.read(100)] == [b"defgh"]
    assert connection.read(1) == []


# -- closing ----------------------------------------------------------------------------------------------------------


def test_we_close_first() -> None:
    script = TcpScript(StackConfig(time_wait=2.0, keepalive_idle=0))
    connection = script.dialled()
    connection.shutdown_write()
    assert connection.state == "fin-wait-1"
    assert script.sent() == ["F. 1 ack 1 win 2048"]
    script.say(".", ack=2)
    assert connection.state == "fin-wait-2"
    script.say("F.", seq=1, ack=2)
    assert connection.state == "time-wait"
    assert connection.eof
    assert script.sent() == [". 2 ack 2 win 2048"]
    script.say("F.", seq=1, ack=2)  # our ACK was lost
    assert script.sent() == [". 2 ack 2 win 2048"]
    script.wait(2.1)
    assert (connection.state, connection.error) == (State.CLOSED, None)
    assert script.stack.connections() == []


def test_they_close_first() -> None:
    script = TcpScript()
    connection = script.dialled()
    script.say("PF.", seq=1, ack=1, data=b"bye")
    assert connection.state == "close-wait"
    assert script.sent() == [". 1 ack 5 win 2048"]
    ended = [connection.eof]
    connection.read()
    assert [*ended, connection.eof] == [False, True]
    connection.write(b"last words")
    connection.close(script.now)
    assert connection.state == "last-ack"
    assert script.sent() == ["FP. 1:11 ack 5 win 2048"]
    script.say(".", seq=5, ack=12)
    assert (connection.state, connection.error) == (State.CLOSED, None)


def test_both_close_at_once() -> None:
    """RFC 9293 figure 13."""
    script = TcpScript()
    connection = script.dialled()
    connection.shutdown_write()
    assert script.sent() == ["F. 1 ack 1 win 2048"]
    script.say("F.", seq=1, ack=1)
    assert connection.state == "closing"
    assert script.sent() == [". 2 ack 2 win 2048"]
    script.say(".", seq=2, ack=2)
    assert connection.state == "time-wait"


def test_fin_and_its_acknowledgement_in_one_segment() -> None:
    script = TcpScript()
    connection = script.dialled()
    connection.shutdown_write()
    script.sent()
    script.say("F.", seq=1, ack=2)
    assert connection.state == "time-wait"


def test_half_closed_connection_still_receives() -> None:
    script = TcpScript()
    connection = script.dialled()
    connection.shutdown_write()
    assert connection.write(b"x") == 0
    script.sent()
    script.say(".", ack=2)
    script.say("P.", seq=1, ack=2, data=b"still here")
    assert b"".join(connection.read()) == b"still here"
    assert script.sent() == [". 2 ack 11 win 2048"]


def test_fin_ahead_of_missing_data_waits_for_it() -> None:
    script = TcpScript()
    connection = script.dialled()
    script.say("F.", seq=4, ack=1, data=b"def")
    assert connection.state == "established"
    script.say(".", seq=1, ack=1, data=b"abc")
    assert connection.state == "close-wait"
    assert b"".join(connection.read()) == b"abcdef"
    assert connection.eof
    assert script.sent()[-1] == ". 1 ack 8 win 2048"


def test_fin_is_sent_again() -> None:
    script = TcpScript()
    connection = script.dialled()
    connection.write(b"abc")
    connection.close(script.now)
    assert script.sent() == ["FP. 1:4 ack 1 win 2048"]
    lines = script.wait(1.0)
    assert lines
    assert {line.split(" ", 1)[1] for line in lines} == {"FP. 1:4 ack 1 win 2048"}


def test_close_before_the_handshake_is_silent() -> None:
    script = TcpScript()
    connection = script.dial()
    script.sent()
    connection.close(script.now)
    assert connection.state == "closed"
    script.say("S.", ack=1, options=SYN_OPTIONS)
    assert script.sent() == ["R 1 win 0"]


def test_shutdown_before_the_handshake_sends_the_fin_after_it() -> None:
    script = TcpScript()
    connection = script.dial()
    connection.write(b"x")
    connection.shutdown_write()
    script.sent()
    script.say("S.", ack=1, options=SYN_OPTIONS)
    assert connection.state == "fin-wait-1"
    assert script.sent() == ["FP. 1:2 ack 1 win 2048"]


def test_data_after_close_is_discarded_until_ours_is_delivered_then_reset() -> None:
    """RFC 2525 §2.17."""
    script = TcpScript()
    connection = script.dialled()
    connection.write(b"ours")
    connection.close(script.now)
    script.sent()
    script.say("P.", seq=1, ack=1, data=b"theirs")
    assert connection.readable == 0
    assert script.sent() == [". 6 ack 7 win 2048"]
    script.say("P.", seq=7, ack=6, data=b"more")
    assert script.sent() == ["R. 6 ack 7 win 2048"]
    assert connection.state == "closed"


def test_close_gives_up_after_the_linger_time() -> None:
    script = TcpScript(StackConfig(linger=5.0, keepalive_idle=0))
    connection = script.dialled()
    connection.close(script.now)
    script.sent()
    script.say(".", ack=2)
    assert script.wait(6) == ["5.00 R. 2 ack 1 win 2048"]
    assert connection.state == "closed"


def test_abort_resets() -> None:
    script = TcpScript()
    connection = script.dialled()
    connection.abort(script.now)
    assert script.sent() == ["R. 1 ack 1 win 2048"]
    assert connection.error == "aborted"
    assert connection in script.stack.woken()


# -- resets and junk --------------------------------------------------------------------------------------------------


def test_reset_counts_only_at_the_exact_number() -> None:
    """RFC 5961 §3."""
    script = TcpScript()
    connection = script.dialled()
    script.say("R", seq=100)
    assert script.sent() == [". 1 ack 1 win 2048"]
    script.say("R", seq=0)
    assert script.sent() == []
    assert connection.state == "established"
    script.say("R", seq=1)
    assert (connection.state, connection.error) == (State.CLOSED, "reset")


def test_what_arrived_before_a_reset_can_be_read() -> None:
    script = TcpScript()
    connection = script.dialled()
    script.say("P.", seq=1, ack=1, data=b"before")
    script.say("R", seq=7)
    assert b"".join(connection.read()) == b"before"
    assert not connection.eof


def test_syn_in_the_window_is_challenged() -> None:
    """RFC 5961 §4."""
    script = TcpScript()
    connection = script.dialled()
    script.say("S", seq=50)
    assert script.sent() == [". 1 ack 1 win 2048"]
    assert connection.state == "established"


def test_acknowledgement_of_what_was_never_sent_is_challenged() -> None:
    """RFC 5961 §5."""
    script = TcpScript()
    connection = script.dialled()
    script.say("P.", seq=1, ack=1000, data=b"evil")
    assert script.sent() == [". 1 ack 1 win 2048"]
    assert connection.readable == 0


def test_challenges_are_limited() -> None:
    script = TcpScript()
    script.dialled()
    answers = 0
    for _ in range(100):
        script.say("R", seq=100)
        answers += len(script.sent())
    assert answers == 10
    script.now += 1.0
    script.say("R", seq=100)
    assert len(script.sent()) == 1


def test_segment_for_nobody_is_reset() -> None:
    script = TcpScript()
    script.port = 4242
    script.say(".", seq=5, ack=9)
    assert script.sent() == ["R 9 win 0"]
    script.say("P", seq=5, data=b"abc")
    assert script.sent() == [f"R. {ZERO} ack 8 win 0"]
    script.say("R", seq=5)
    assert script.sent() == []


def test_stale_timestamp_is_refused() -> None:
    """PAWS, RFC 7323 §5."""
    script = TcpScript()
    script.knock(options=STAMPED)
    connection = script.requests[0].accept(script.now)
    script.sent()
    script.say(".", ack=1, options=stamp(5001))
    script.say("P.", ack=1, data=b"old", options=stamp(4999))
    assert connection.readable == 0
    assert script.sent() == [". 1 ack 1 win 2048 <stamp echo 5001>"]
    script.say("P.", ack=1, data=b"none")
    assert connection.readable == 0
    script.say("P.", ack=1, data=b"new", options=stamp(5001))
    assert connection.readable == 3


def test_new_syn_in_time_wait_opens_again() -> None:
    script = TcpScript()
    script.knock()
    script.requests[0].accept(script.now)
    script.sent()
    script.say(".", ack=1)
    [old] = script.stack.connections()
    old.close(script.now)
    script.sent()
    script.say("F.", seq=1, ack=2)
    assert old.state == "time-wait"
    script.say("S", seq=5000, options=SYN_OPTIONS)
    assert old.state == "closed"
    assert len(script.requests) == 2


def test_reset_in_time_wait_is_ignored() -> None:
    """RFC 1337."""
    script = TcpScript()
    connection = script.dialled()
    connection.shutdown_write()
    script.sent()
    script.say("F.", seq=1, ack=2)
    script.say("R", seq=2)
    assert connection.state == "time-wait"


# -- loss -------------------------------------------------------------------------------------------------------------


def lossy(script: TcpScript, segments: int = 10) -> None:
    """A connection with a round trip of 40 ms and `segments` full segments just sent."""
    connection = script.dial()
    script.sent()
    script.now += 0.04
    script.say("S.", ack=1, options=SYN_OPTIONS)
    connection.write(bytes(segments * 1220))
    assert len(script.sent()) == min(segments, 10)


def at(index: int) -> int:
    """The number of the first byte of segment `index`."""
    return 1 + index * 1220


def test_hole_with_three_segments_behind_it_is_sent_again_at_once() -> None:
    script = TcpScript()
    lossy(script)
    script.now += 0.04
    script.say(".", ack=at(2), options=sack((at(3), at(4))))
    assert script.sent() == []
    script.say(".", ack=at(2), options=sack((at(3), at(6))))
    assert script.sent() == [". 2441:3661 ack 1 win 2048"]
    assert script.stack.connections()[0].info()["retransmits"] == 1


def test_hole_with_one_segment_behind_it_waits_a_quarter_of_a_round_trip() -> None:
    """RACK's reordering window (RFC 8985 §6.2)."""
    script = TcpScript()
    lossy(script)
    script.now += 0.04
    script.say(".", ack=at(8), options=sack((at(9), at(10))))
    assert script.wait(0.03) == ["0.01 . 9761:10981 ack 1 win 2048"]


def test_late_original_saves_the_retransmission() -> None:
    script = TcpScript()
    lossy(script)
    script.now += 0.04
    script.say(".", ack=at(8), options=sack((at(9), at(10))))
    script.now += 0.006
    script.say(".", ack=at(10))
    assert script.wait(1.0) == []


def test_lost_retransmission_is_noticed_without_a_time_out() -> None:
    script = TcpScript()
    lossy(script, 30)
    script.now += 0.04
    script.say(".", ack=1, options=sack((at(1), at(10))))
    assert script.sent()[0].startswith(". 1:1221 ")
    script.now += 0.01
    connection = script.stack.connections()[0]
    script.sent()
    nxt = connection.sender.board.nxt - OUR_START
    assert nxt > at(10)  # new data went out behind the retransmission
    script.now += 0.04
    script.say(".", ack=1, options=sack((at(1), nxt)))
    assert script.sent()[0].split()[1] == "1:1221"
    assert connection.sender.timeouts == 0


def test_tail_loss_is_probed_before_the_time_out() -> None:
    """RFC 8985 §7: the last segment again, after two round trips."""
    script = TcpScript()
    lossy(script)
    script.now += 0.04
    script.say(".", ack=at(7))
    assert script.wait(0.1) == ["0.08 P. 10981:12201 ack 1 win 2048"]
    script.say(".", ack=at(7), options=sack((at(9), at(10))))
    assert [line.split()[1] for line in script.sent()] == ["8541:9761", "9761:10981"]


def test_probe_that_repaired_a_loss_slows_us_down() -> None:
    script = TcpScript()
    lossy(script, 10)
    script.now += 0.04
    script.say(".", ack=at(9))
    connection = script.stack.connections()[0]
    before = connection.sender.cubic.cwnd
    script.wait(0.15)
    assert connection.sender.probes == 1
    script.say(".", ack=at(10))
    connection.write(b"x")
    script.sent()
    script.now += 0.04
    script.say(".", ack=at(10) + 1)
    assert connection.sender.cubic.cwnd < before


def test_probe_reported_as_duplicate_does_not() -> None:
    script = TcpScript()
    lossy(script, 10)
    script.now += 0.04
    script.say(".", ack=at(9))
    connection = script.stack.connections()[0]
    before = connection.sender.cubic.cwnd
    script.wait(0.15)
    script.say(".", ack=at(10))
    script.say(".", ack=at(10), options=sack((at(9), at(10))))
    connection.write(b"x")
    script.sent()
    script.now += 0.04
    script.say(".", ack=at(10) + 1)
    assert connection.sender.cubic.cwnd >= before


def test_time_out_sends_one_segment_then_doubles_up_to_the_cap() -> None:
    script = TcpScript()
    lossy(script)
    lines = script.wait(10)
    times = [float(line.split()[0]) for line in lines]
    steps = [round(b - a, 1) for a, b in pairwise(times)]
    assert steps == [0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]
    assert {line.split()[2] for line in lines[1:]} == {"1:1221"}
    script.say(".", ack=at(10))
    assert not script.stack.connections()[0].sender.outstanding


def test_changed_path_is_tried_at_once() -> None:
    script = TcpScript()
    lossy(script)
    script.wait(7)
    script.stack.path_changed("them", script.now)
    assert script.sent() == [". 1:1221 ack 1 win 2048"]
    script.stack.path_changed("nobody", script.now)
    assert script.sent() == []


def test_silence_fails_the_connection_after_the_user_timeout() -> None:
    script = TcpScript(StackConfig(user_timeout=20.0, keepalive_idle=0))
    lossy(script)
    lines = script.wait(30)
    connection_error = script.stack.connections()
    assert connection_error == []
    assert lines[-1].split()[1] == "R."
    assert 20 <= float(lines[-1].split()[0]) < 23


def test_without_sack_three_duplicates_resend_the_first_segment() -> None:
    """RFC 6582."""
    script = TcpScript()
    connection = script.dialled(options=wire.syn_options(Options(mss=1220, shift=8)))
    script.say(".", ack=1)
    connection.write(bytes(10 * 1220))
    script.sent()
    script.now += 0.04
    for _ in range(2):
        script.say(".", ack=1)
        assert script.sent() == []
    script.say(".", ack=1)
    assert script.sent() == [". 1:1221 ack 1 win 2048"]
    script.now += 0.04
    script.say(".", ack=at(4))  # partial: the next hole
    assert script.sent()[0] == ". 4881:6101 ack 1 win 2048"
    script.now += 0.04
    script.say(".", ack=at(10))
    assert not connection.sender.outstanding


def test_sack_of_what_was_not_sent_is_ignored() -> None:
    script = TcpScript()
    lossy(script)
    connection = script.stack.connections()[0]
    script.say(".", ack=1, options=sack((at(5), at(50)), (at(4), at(2)), (-5000, -4000)))
    assert connection.sender.board.sacked == 0
    assert script.sent() == []


# -- zero window, keepalive -------------------------------------------------------------------------------------------


def test_shut_window_is_probed_and_its_opening_noticed() -> None:
    """RFC 9293 §3.8.6.1. The probe lies just outside the window, so it must be answered."""
    script = TcpScript()
    connection = script.dialled(window=0)
    connection.write(b"waiting")
    assert script.sent() == []
    lines = script.wait(5)
    assert {line.split(" ", 1)[1] for line in lines} == {". 0 ack 1 win 2048"}
    times = [float(line.split()[0]) for line in lines]
    assert times == [0.2, 0.6, 1.4, 3.0, 5.0]
    script.say(".", ack=1, window=10)
    assert script.sent() == ["P. 1:8 ack 1 win 2048"]


def test_shut_window_that_is_answered_lasts_for_ever() -> None:
    script = TcpScript(StackConfig(user_timeout=10.0, keepalive_idle=0))
    connection = script.dialled(window=0)
    connection.write(b"waiting")
    for _ in range(60):
        script.wait(1.0)
        script.say(".", ack=1, window=0)
    assert connection.state == "established"


def test_shut_window_and_silence_fail() -> None:
    script = TcpScript(StackConfig(user_timeout=10.0, keepalive_idle=0))
    connection = script.dialled(window=0)
    connection.write(b"waiting")
    script.wait(15.0)
    assert connection.error == "timeout"


def test_their_window_probe_is_answered() -> None:
    script = TcpScript(StackConfig(receive_window=1024, initial_window=1024, keepalive_idle=0))
    script.dialled()
    script.say(".", seq=1, ack=1, data=bytes(1024))
    script.sent()
    script.say(".", seq=0, ack=1)
    assert script.sent() == [". 1 ack 1025 win 0"]
    script.say(".", seq=1025, ack=1, data=b"x")
    assert script.sent() == [". 1 ack 1025 win 0"]


def test_keepalive_probes_then_gives_up() -> None:
    config = StackConfig(keepalive_idle=10.0, keepalive_interval=2.0, keepalive_count=3, keepalive_limit=0.0)
    script = TcpScript(config)
    connection = script.dialled()
    lines = script.wait(30)
    assert [line.split()[0] for line in lines] == ["10.00", "12.00", "14.00", "16.00"]
    assert lines[0].endswith(". 0 ack 1 win 2048")
    assert lines[-1].split()[1] == "R."
    assert connection.error == "timeout"


def test_a_peer_may_sleep_for_an_hour() -> None:
    script = TcpScript(StackConfig())
    connection = script.dialled()
    assert len(script.wait(3600)) == 6 + 30  # a minute of quick probes, then one every other minute
    assert connection.state == "established"
    script.wait(3700)
    assert connection.error == "timeout"


def test_answered_keepalive_starts_again() -> None:
    script = TcpScript(StackConfig(keepalive_idle=10.0, keepalive_interval=2.0, keepalive_count=3, keepalive_limit=0.0))
    connection = script.dialled()
    for _ in range(5):
        assert len(script.wait(11)) == 1
        script.say(".", ack=1)
    assert connection.state == "established"


def test_their_keepalive_is_answered() -> None:
    script = TcpScript()
    script.dialled()
    script.say(".", seq=0, ack=1)
    assert script.sent() == [". 1 ack 1 win 2048"]


# -- the table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("event", list(Event))
def test_pairs_that_are_not_in_the_table_change_nothing(state: State, event: Event) -> None:
    assert after(state, event) == TRANSITIONS.get((state, event), state)


def test_every_state_is_reachable() -> None:
    assert {*TRANSITIONS.values(), State.SYN_SENT} == set(State)
