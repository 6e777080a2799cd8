"""The wire form and the bookkeeping of speed tests, with the reference traces of the stock protocol."""

from __future__ import annotations

import pytest
from coder_agent_speedtest.protocol import (
    BLOCK_SIZE,
    MAX_LINE,
    Direction,
    Interval,
    LineReader,
    Meter,
    Request,
    encode_reply,
    parse_reply,
)
from hypothesis import given
from hypothesis import strategies as st

from coder_agent.errors import RemoteProtocolError


def test_requests_are_written_as_a_go_client_writes_them() -> None:
    assert Request(Direction.DOWNLOAD, 5).encode() == b'{"version":2,"time":5000000000,"direction":0}\n'
    assert Request(Direction.UPLOAD, 30).encode() == b'{"version":2,"time":30000000000,"direction":1}\n'
    assert len(Request(Direction.DOWNLOAD, 5).encode()) == 46


@given(st.sampled_from(Direction), st.floats(0.001, 600))
def test_requests_round_trip(direction: Direction, seconds: float) -> None:
    parsed = Request.parse(Request(direction, seconds).encode().rstrip(b"\n"))
    assert parsed.direction is direction
    assert parsed.seconds == pytest.approx(seconds, abs=1e-9)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"", "bad JSON"),
        (b"[]", "not a JSON object"),
        (b'{"version":1,"time":5000000000,"direction":0}', "Server is version 2, client is version 1"),
        (b'{"version":2,"time":0,"direction":0}', "positive"),
        (b'{"version":2,"time":5.5,"direction":0}', "nanoseconds"),
        (b'{"version":2,"time":9000000000000,"direction":0}', "ten minutes"),
        (b'{"version":2,"time":5000000000,"direction":2}', "direction"),
        (b"\xff\xfe", "bad JSON"),
    ],
)
def test_bad_requests_are_refused_with_a_reason(line: bytes, complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=complaint):
        Request.parse(line)


def test_replies() -> None:
    assert encode_reply() == b"{}\n"
    assert encode_reply("no") == b'{"error":"no"}\n'
    parse_reply(b"{}")
    with pytest.raises(RemoteProtocolError, match="refused the speed test: no"):
        parse_reply(b'{"error":"no"}')


def test_payload_behind_the_line_is_counted() -> None:
    reader = LineReader()
    assert reader.feed(b'{"a"') is None
    assert reader.feed(b":1}\nxyz") == b'{"a":1}'
    assert reader.rest == 3


def test_an_endless_line_is_refused() -> None:
    reader = LineReader()
    with pytest.raises(RemoteProtocolError, match="too long"):
        reader.feed(b"x" * (MAX_LINE + 1))


def test_the_meter_cuts_as_the_reference_timeline_says() -> None:
    """A block each 0.4 s: cuts at 1.2 and 2.4 s, no tail, a total of 6 blocks at 41.94304 Mbit/s."""
    meter = Meter(100.0)
    cuts = [meter.add(BLOCK_SIZE, 100.0 + 0.4 * i) for i in range(1, 7)]
    found = [cut for cut in cuts if cut is not None]
    assert [(cut.size, round(cut.start, 3), round(cut.end, 3)) for cut in found] == [
        (3 * BLOCK_SIZE, 0.0, 1.2),
        (3 * BLOCK_SIZE, 1.2, 2.4),
    ]
    assert meter.finish() is None
    total = meter.total()
    assert (total.size, round(total.end, 3)) == (12582912, 2.4)
    assert total.megabits_per_second == pytest.approx(41.94304)


def test_the_tail_is_reported_unless_it_is_too_short() -> None:
    meter = Meter(0.0)
    assert meter.add(1000, 0.5) is None
    tail = meter.finish()
    assert tail == Interval(1000, 0.0, 0.5)
    assert meter.finish() is None


def test_a_test_without_bytes_has_a_total_of_zero() -> None:
    assert Meter(5.0).total().megabits_per_second == 0.0


def test_rates_are_decimal() -> None:
    assert Interval(20971520, 0.0, 1.6).megabits == pytest.approx(167.77216)
    assert Interval(20971520, 0.0, 1.6).megabits_per_second == pytest.approx(104.8576)
