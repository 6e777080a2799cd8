"""Bytes in any pieces give the same frames and runs; nothing a peer sends is more than refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coder_agent.base.burst import Burst
from coder_agent.errors import RemoteProtocolError
from coder_agent.protocols.derp import frames, runs
from coder_agent.protocols.derp.frames import FrameType
from coder_agent.protocols.derp.stream import Arena, ControlFrame, FrameStream, PacketRun

LIMITS = {int(FrameType.PING): (8, 1000), int(FrameType.KEEP_ALIVE): (0, 10)}
KEYS = [bytes([n]) * 32 for n in range(3)]


def stream(*, strict: bool = False, arena: Arena | None = None) -> FrameStream:
    return FrameStream(FrameType.RECV_PACKET, LIMITS, strict=strict, arena=arena)


def collect(decoder: FrameStream, data: bytes) -> list[tuple[int, bytes]]:
    """(type, payload) per frame, runs taken apart, copied while they are valid."""
    found: list[tuple[int, bytes]] = []
    for item in decoder.feed(data):
        if isinstance(item, ControlFrame):
            found.append((item.kind, item.payload))
        else:
            found += [(int(FrameType.RECV_PACKET), item.key + bytes(row)) for row in item.burst.rows()]
    return found


frame_lists = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(KEYS), st.binary(max_size=60), st.integers(1, 40)).map(
            lambda t: frames.recv_packet(t[0], t[1]) * t[2]
        ),
        st.binary(min_size=8, max_size=1000).map(lambda data: frames.frame(FrameType.PING, data)),
        st.just(frames.keep_alive()),
        st.binary(max_size=50).map(lambda data: b"\x77" + len(data).to_bytes(4, "big") + data),
    ),
    max_size=12,
)


def reference(data: bytes) -> list[tuple[int, bytes]]:
    """The plainest decoder there is."""
    found = []
    while data:
        size = int.from_bytes(data[1:5], "big")
        if data[0] in (FrameType.RECV_PACKET, FrameType.PING, FrameType.KEEP_ALIVE):
            found.append((data[0], data[5 : 5 + size]))
        data = data[5 + size :]
    return found


@given(frame_lists.map(b"".join), st.lists(st.integers(1, 3000), max_size=30))
def test_any_cut_gives_the_same_frames(data: bytes, cuts: list[int]) -> None:
    decoder, found, rest = stream(), [], data
    for cut in cuts:
        found += collect(decoder, rest[:cut])
        rest = rest[cut:]
    found += collect(decoder, rest)
    assert found == reference(data)


def test_every_single_cut_of_a_small_transcript() -> None:
    data = (
        frames.recv_packet(KEYS[1], b"abc") * 3 + frames.ping(b"12345678") + b"\x77\0\0\0\x03xyz" + frames.keep_alive()
    )
    for cut in range(len(data) + 1):
        decoder = stream()
        assert collect(decoder, data[:cut]) + collect(decoder, data[cut:]) == reference(data)


@pytest.mark.parametrize("count", [1, 2, 23, 24, 25, 100, 195])
@pytest.mark.parametrize("vector", [True, False])
def test_equal_frames_are_one_run(count: int, vector: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not vector:
        monkeypatch.setattr(runs, "has_numpy", lambda: False)
    data = b"".join(frames.recv_packet(KEYS[1], bytes([i]) * 1312) for i in range(count))
    data += frames.recv_packet(KEYS[2], b"x" * 1312)
    found = [
        (item.key, item.burst.count, item.burst.headroom) for item in stream().feed(data) if type(item) is PacketRun
    ]
    assert found == [(KEYS[1], count, 37), (KEYS[2], 1, 37)]


@pytest.mark.parametrize("vector", [True, False])
def test_a_run_ends_where_the_size_changes(vector: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not vector:
        monkeypatch.setattr(runs, "has_numpy", lambda: False)
    data = frames.recv_packet(KEYS[1], b"x" * 100) * 30 + frames.recv_packet(KEYS[1], b"y" * 99) * 30
    found = [item.burst.count for item in stream().feed(data) if isinstance(item, PacketRun)]
    assert found == [30, 30]


def test_bytes_left_from_an_earlier_read_are_not_part_of_a_run() -> None:
    arena = Arena()
    one = frames.recv_packet(KEYS[1], b"x" * 100)
    assert len(collect(stream(arena=arena), one * 50)) == 50
    decoder = stream(arena=arena)
    assert len(collect(decoder, one * 2 + one[:-1])) == 2


def test_streams_that_share_an_arena_keep_their_own_remainders() -> None:
    arena = Arena()
    first, second = stream(arena=arena), stream(arena=arena)
    a, b = frames.recv_packet(KEYS[1], b"a" * 50), frames.recv_packet(KEYS[2], b"b" * 70)
    assert collect(first, a[:40]) == collect(second, b[:60]) == []
    assert collect(first, a[40:]) == reference(a)
    assert collect(second, b[60:]) == reference(b)


def test_a_wrong_size_is_skipped_and_counted_or_refused() -> None:
    bad = frames.frame(FrameType.PING, b"abc") + frames.frame(FrameType.RECV_PACKET, b"short") + frames.keep_alive()
    lenient = stream()
    assert collect(lenient, bad) == [(FrameType.KEEP_ALIVE, b"")]
    assert lenient.malformed == 2
    with pytest.raises(RemoteProtocolError):
        collect(stream(strict=True), bad)


def test_packets_up_to_64_kib_pass_and_longer_ones_do_not() -> None:
    largest = frames.recv_packet(KEYS[1], bytes(65536))
    assert len(collect(stream(strict=True), largest * 9)) == 9
    with pytest.raises(RemoteProtocolError):
        collect(stream(strict=True), frames.recv_packet(KEYS[1], bytes(65537)))


def test_a_huge_frame_of_an_unknown_type_ends_the_connection() -> None:
    with pytest.raises(RemoteProtocolError):
        collect(stream(), b"\x77\xff\xff\xff\xff")


def test_an_unknown_frame_larger_than_the_arena_is_skipped() -> None:
    data = b"\x77" + (1 << 20).to_bytes(4, "big") + bytes(1 << 20) + frames.keep_alive()
    assert collect(stream(), data) == [(FrameType.KEEP_ALIVE, b"")]


@given(st.binary(max_size=3000))
def test_junk_is_refused_or_skipped(data: bytes) -> None:
    for strict in (True, False):
        try:
            collect(stream(strict=strict), data)
        except RemoteProtocolError:
            pass


# ---------------------------------------------------------------- writing runs


def strided(count: int, length: int, last: int, headroom: int, gap: int = 0) -> Burst:
    stride = headroom + length + gap
    buffer = bytearray(b"\xee" * (count * stride + headroom))
    burst = Burst(memoryview(buffer), headroom, stride, count, length, last, headroom)
    for i in range(count):
        row = burst.row(i)
        row[:] = bytes([i % 256]) * len(row)
    return burst


@given(
    count=st.integers(1, 60),
    length=st.integers(1, 200),
    short=st.integers(0, 199),
    headroom=st.sampled_from([0, 16, 37, 64]),
    gap=st.sampled_from([0, 3]),
)
def test_a_burst_becomes_the_frames_that_the_plain_encoder_makes(
    count: int, length: int, short: int, headroom: int, gap: int
) -> None:
    burst = strided(count, length, max(1, length - short), headroom, gap)
    expected = b"".join(frames.send_packet(KEYS[2], bytes(row)) for row in burst.rows())
    assert bytes(runs.frame_burst(burst, FrameType.SEND_PACKET, KEYS[2])) == expected


def test_a_burst_with_headroom_is_framed_in_place() -> None:
    burst = strided(40, 1312, 1312, 37)
    assert runs.frame_burst(burst, FrameType.SEND_PACKET, KEYS[1]).obj is burst.buffer.obj


def test_a_read_only_burst_is_copied() -> None:
    packet = bytes(37) + b"data"
    burst = Burst(memoryview(packet), 37, 4, 1, 4, 4, 37)
    assert bytes(runs.frame_burst(burst, FrameType.SEND_PACKET, KEYS[1])) == frames.send_packet(KEYS[1], b"data")


def test_filling_headers_is_the_same_with_and_without_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    header = frames.packet_header(FrameType.RECV_PACKET, KEYS[1], 100)
    fast, slow = bytearray(137 * 50), bytearray(137 * 50)
    runs.fill_headers(memoryview(fast), 0, 137, 50, header)
    monkeypatch.setattr(runs, "has_numpy", lambda: False)
    runs.fill_headers(memoryview(slow), 0, 137, 50, header)
    assert fast == slow
    assert bytes(slow[137 * 49 :][:37]) == header
