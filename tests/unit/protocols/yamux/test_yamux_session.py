"""yamux: golden headers of spec.md, transcripts, and two sessions talking over a pipe cut anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coder_agent.errors import LocalProtocolError, RemoteProtocolError
from coder_agent.protocols.yamux import (
    DataReceived,
    GoAwayCode,
    GoneAway,
    PeerSilent,
    PongReceived,
    StreamEnded,
    StreamOpened,
    StreamReset,
    WindowOpened,
    YamuxEvent,
    YamuxSession,
    YamuxSettings,
)
from coder_agent.protocols.yamux.frames import (
    INITIAL_WINDOW,
    Flags,
    FrameType,
    Header,
    decode_header,
    encode_header,
)
from coder_agent.protocols.yamux.session import MAX_BACKLOG, MAX_PENDING_PONGS

SYN, ACK, FIN, RST = Flags
DATA, UPDATE, PING, AWAY = FrameType


def session(*, client: bool = False, **limits: float) -> YamuxSession:
    return YamuxSession(client=client, now=0.0, settings=YamuxSettings(**limits))  # type: ignore[arg-type]


def frame(kind: FrameType, flags: int, stream_id: int, length: int, body: bytes = b"") -> bytes:
    return encode_header(kind, flags, stream_id, length) + body


@pytest.mark.parametrize(
    ("header", "golden"),
    [
        (Header(DATA, 0, 1, 5), "000000000000000100000005"),
        (Header(DATA, FIN, 2, 0), "000000040000000200000000"),
        (Header(UPDATE, SYN, 1, 0), "000100010000000100000000"),
        (Header(UPDATE, ACK, 3, 262144), "000100020000000300040000"),
        (Header(UPDATE, RST, 0xFFFFFFFF, 0), "00010008ffffffff00000000"),
        (Header(PING, SYN, 0, 0xDEADBEEF), "0002000100000000deadbeef"),
        (Header(AWAY, 0, 0, 1), "000300000000000000000001"),
    ],
)
def test_headers_have_the_layout_of_the_specification(header: Header, golden: str) -> None:
    assert encode_header(*header).hex() == golden
    assert decode_header(bytes.fromhex(golden)) == header


@pytest.mark.parametrize("golden", ["010000000000000100000005", "000400000000000100000000"])
def test_foreign_versions_and_types_are_refused(golden: str) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_header(bytes.fromhex(golden))


def test_opening_and_accepting_a_stream() -> None:
    client, server = session(client=True), session()
    assert [client.open(), client.open()] == [1, 3]
    opened = client.take_output()
    assert opened == frame(UPDATE, SYN, 1, 0) + frame(UPDATE, SYN, 3, 0)
    assert server.receive(opened, 0.0) == [StreamOpened(1), StreamOpened(3)]
    assert server.take_output() == frame(UPDATE, ACK, 1, 0) + frame(UPDATE, ACK, 3, 0)
    assert server.open() == 2


def test_a_larger_window_is_announced_when_a_stream_begins() -> None:
    client = session(client=True, window=INITIAL_WINDOW + 1000)
    client.open()
    assert client.take_output() == frame(UPDATE, SYN, 1, 1000)
    with pytest.raises(ValueError, match="window"):
        session(window=INITIAL_WINDOW - 1)


def test_data_arrives_in_pieces_however_it_was_cut() -> None:
    whole = frame(UPDATE, SYN, 1, 0) + frame(DATA, 0, 1, 5, b"hello") + frame(DATA, FIN, 1, 1, b"!")
    for cut in range(len(whole) + 1):
        server = session()
        events = server.receive(whole[:cut], 0.0) + server.receive(whole[cut:], 0.0)
        assert events[0] == StreamOpened(1)
        assert events[-1] == StreamEnded(1)
        assert b"".join(e.data for e in events if isinstance(e, DataReceived)) == b"hello!"


def test_an_empty_data_frame_may_open_and_end_a_stream() -> None:
    assert session().receive(frame(DATA, SYN | FIN, 1, 0), 0.0) == [StreamOpened(1), StreamEnded(1)]


def test_sending_stops_at_the_window_and_goes_on_after_an_update() -> None:
    client = session(client=True)
    stream = client.open()
    assert client.send(stream, bytes(INITIAL_WINDOW + 10)) == INITIAL_WINDOW
    assert client.send(stream, b"more") == 0
    assert client.receive(frame(UPDATE, ACK, 1, 0), 0.0) == []
    assert client.receive(frame(UPDATE, 0, 1, 3), 0.0) == [WindowOpened(1)]
    client.take_output()
    assert client.send(stream, b"more") == 3
    assert client.take_output() == frame(DATA, 0, 1, 3, b"mor")


def test_the_window_reopens_when_half_of_it_is_consumed() -> None:
    server = session()
    server.receive(frame(UPDATE, SYN, 1, 0), 0.0)
    server.take_output()
    half = INITIAL_WINDOW // 2
    server.receive(frame(DATA, 0, 1, half, bytes(half)), 0.0)
    server.consumed(1, half - 1)
    assert server.take_output() == b""
    server.consumed(1, 1)
    assert server.take_output() == frame(UPDATE, 0, 1, half)


def test_more_than_the_window_is_an_error_that_is_told() -> None:
    server = session()
    server.receive(frame(UPDATE, SYN, 1, 0), 0.0)
    server.take_output()
    with pytest.raises(RemoteProtocolError, match="more than its window"):
        server.receive(encode_header(DATA, 0, 1, INITIAL_WINDOW + 1), 0.0)
    assert server.take_output() == frame(AWAY, 0, 0, GoAwayCode.PROTOCOL_ERROR)


@pytest.mark.parametrize(
    ("frames", "problem"),
    [
        (frame(UPDATE, SYN, 2, 0), "not its own"),
        (frame(UPDATE, SYN, 0, 0), "not its own"),
        (frame(UPDATE, SYN, 1, 0) * 2, "opened twice"),
        (frame(DATA, 0, 0, 0), "stream 0"),
        (frame(UPDATE, SYN, 1, 0xFFFFFFFF), "overflows"),
        (b"\x01" + bytes(11), "version 1"),
        (frame(PING, SYN, 0, 1) * (MAX_PENDING_PONGS + 1), "pings"),
    ],
)
def test_broken_rules_end_the_session(frames: bytes, problem: str) -> None:
    server = session()
    with pytest.raises(RemoteProtocolError, match=problem):
        server.receive(frames, 0.0)
    assert server.take_output().endswith(frame(AWAY, 0, 0, 1))


def test_frames_for_streams_that_are_gone_are_read_over() -> None:
    server = session()
    server.receive(frame(UPDATE, SYN, 1, 0), 0.0)
    server.reset(1)
    server.reset(1)
    assert server.take_output() == frame(UPDATE, ACK, 1, 0) + frame(UPDATE, RST, 1, 0)
    late = frame(DATA, 0, 1, 4, b"late") + frame(UPDATE, 0, 1, 9) + frame(UPDATE, FIN, 1, 0) + frame(UPDATE, RST, 1, 0)
    assert server.receive(late, 0.0) == []
    assert server.receive(frame(UPDATE, SYN, 3, 0), 0.0) == [StreamOpened(3)]


def test_half_close_lets_the_other_half_go_on() -> None:
    client = session(client=True)
    stream = client.open()
    client.take_output()
    client.close(stream, 0.0)
    client.close(stream, 0.0)
    assert client.take_output() == frame(UPDATE, FIN, 1, 0)
    with pytest.raises(LocalProtocolError):
        client.send(stream, b"x")
    assert client.receive(frame(DATA, ACK, 1, 2, b"ok"), 0.0) == [DataReceived(1, b"ok")]
    assert client.stream_count == 1
    assert client.receive(frame(UPDATE, FIN, 1, 0), 0.0) == [StreamEnded(1)]
    assert client.stream_count == 0


def test_data_after_fin_is_dropped() -> None:
    server = session()
    server.receive(frame(UPDATE, SYN | FIN, 1, 0), 0.0)
    assert server.receive(frame(DATA, FIN, 1, 1, b"x") + frame(UPDATE, FIN, 1, 0), 0.0) == []


def test_a_reset_ends_both_halves() -> None:
    client = session(client=True)
    client.open()
    assert client.receive(frame(UPDATE, RST, 1, 0), 0.0) == [StreamReset(1)]
    with pytest.raises(LocalProtocolError):
        client.send(1, b"x")


def test_too_many_streams_are_refused_one_by_one() -> None:
    server = session(max_streams=2)
    opened = server.receive(b"".join(frame(UPDATE, SYN, i, 0) for i in (1, 3, 5)), 0.0)
    assert opened == [StreamOpened(1), StreamOpened(3)]
    assert server.take_output().endswith(frame(UPDATE, RST, 5, 0))
    assert server.refused_streams == 1
    server.receive(frame(UPDATE, FIN, 1, 0), 0.0)
    server.close(1, 0.0)
    assert server.receive(frame(UPDATE, SYN, 7, 0), 0.0) == [StreamOpened(7)]


@pytest.mark.parametrize("flags", [SYN, SYN | RST])
def test_answers_that_nobody_reads_do_not_fill_memory(flags: Flags) -> None:
    server = session(max_streams=1)
    flood = b"".join(frame(UPDATE, flags, i, 0) for i in range(1, 200_000, 2))
    with pytest.raises(RemoteProtocolError, match="does not read"):
        server.receive(flood, 0.0)
    assert server.output_size < MAX_BACKLOG + 100


def test_going_away_refuses_new_streams_on_both_sides() -> None:
    server, client = session(), session(client=True)
    server.go_away()
    gone = server.take_output()
    assert client.receive(gone, 0.0) == [GoneAway(0)]
    with pytest.raises(LocalProtocolError, match="going away"):
        client.open()
    assert server.receive(frame(UPDATE, SYN, 1, 0), 0.0) == []
    assert server.take_output() == frame(UPDATE, RST, 1, 0)


def test_keepalive_transcript() -> None:
    client = session(client=True, ping_interval=30.0, ping_timeout=10.0)
    assert client.deadline() == 30.0
    assert client.on_timer(29.0) == []
    assert client.take_output() == b""
    client.on_timer(30.0)
    assert client.take_output() == frame(PING, SYN, 0, 1)
    assert client.deadline() == 40.0
    assert client.receive(frame(PING, ACK, 0, 1), 30.25) == [PongReceived(0.25)]
    assert client.deadline() == 60.0
    client.on_timer(60.0)
    assert client.receive(frame(PING, ACK, 0, 1), 61.0) == []  # an old answer is none
    assert client.on_timer(69.0) == []
    assert client.deadline() == 71.0  # something was heard at 61
    assert client.on_timer(71.0) == [PeerSilent(10.0)]


def test_pings_are_answered_with_their_number() -> None:
    server = session()
    server.receive(frame(PING, SYN, 0, 0xCAFE), 0.0)
    assert server.take_output() == frame(PING, ACK, 0, 0xCAFE)


def test_no_keepalive_means_no_deadline() -> None:
    assert session(ping_interval=0.0).deadline() is None


def test_a_stream_whose_other_half_never_ends_is_given_up() -> None:
    client = session(client=True, ping_interval=0.0, close_timeout=300.0)
    client.open()
    client.close(1, 10.0)
    client.take_output()
    assert client.deadline() == 310.0
    assert client.on_timer(309.0) == []
    assert client.on_timer(310.0) == [StreamReset(1)]
    assert client.take_output() == frame(UPDATE, RST, 1, 0)
    assert client.deadline() is None


@given(st.binary(max_size=400))
def test_junk_raises_nothing_but_our_error(junk: bytes) -> None:
    for client in (True, False):
        try:
            session(client=client).receive(junk, 0.0)
        except RemoteProtocolError:
            continue


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(["send", "close", "reset"]), st.integers(0, 300_000)), max_size=25
    ),
    st.integers(1, 70_000),
)
def test_what_one_side_sends_the_other_receives(steps: list[tuple[int, str, int]], cut: int) -> None:
    """Two sessions, every write cut into pieces of `cut` bytes, the receiver consuming at once."""
    client, server = session(client=True), session()
    streams = [client.open() for _ in range(4)]
    sent = {stream: bytearray() for stream in streams}
    received = {stream: bytearray() for stream in streams}
    ended: set[int] = set()
    live = set(streams)

    def carry(source: YamuxSession, target: YamuxSession) -> list[YamuxEvent]:
        events: list[YamuxEvent] = []
        data = source.take_output()
        for start in range(0, len(data), cut):
            events += target.receive(data[start : start + cut], 0.0)
        return events

    def exchange() -> None:
        for event in carry(client, server):
            if isinstance(event, DataReceived):
                received[event.stream_id] += event.data
                server.consumed(event.stream_id, len(event.data))
            elif isinstance(event, StreamEnded | StreamReset):
                ended.add(event.stream_id)
        carry(server, client)

    for index, step, size in steps:
        stream = streams[index]
        if stream not in live:
            continue
        if step == "send":
            data = bytes(size)
            while data:
                count = client.send(stream, data)
                sent[stream] += data[:count]
                data = data[count:]
                exchange()
        else:
            live.discard(stream)
            (client.close(stream, 0.0) if step == "close" else client.reset(stream))
    exchange()
    assert received == sent
    assert ended == set(streams) - live
