"""TCP headers and options: golden bytes, round trips, lies and cuts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coder_agent.protocols.netstack import segments
from coder_agent.protocols.netstack.segments import ACK, SYN, Options

U32 = st.integers(0, 0xFFFFFFFF)


def test_syn_of_gvisor_is_read() -> None:
    """MSS 1220, SACK permitted, timestamps, window scale 8, in this order; window 24320."""
    raw = bytes.fromhex("c00000010000001000000000a0025f0000000000020404c40402080a000000010000000001030308")
    parsed = segments.parse(memoryview(raw), 0, len(raw))
    assert parsed is not None
    segment, head = parsed
    assert head == 40
    assert (segment.seq, segment.flags, segment.window) == (0x10, SYN, 24320)
    assert segment.options == Options(mss=1220, shift=8, sack_permitted=True, timestamp=(1, 0))


def test_our_syn_options_are_in_the_same_order() -> None:
    full = Options(mss=1220, shift=8, sack_permitted=True, timestamp=(1, 0))
    assert segments.syn_options(full).hex() == "020404c40402080a000000010000000001030308"
    assert segments.syn_options(full._replace(timestamp=None)).hex() == "020404c40101040201030308"
    assert segments.syn_options(Options(mss=1220)).hex() == "020404c4"


@given(
    st.one_of(st.none(), st.integers(0, 65535)),
    st.one_of(st.none(), st.integers(0, 14)),
    st.booleans(),
    st.one_of(st.none(), st.tuples(U32, U32)),
)
def test_syn_options_round_trip(
    mss: int | None, shift: int | None, sack: bool, timestamp: tuple[int, int] | None
) -> None:
    options = Options(mss, shift, sack, timestamp)
    raw = segments.syn_options(options)
    assert len(raw) % 4 == 0
    assert segments.parse_options(raw) == options


@given(st.one_of(st.none(), st.tuples(U32, U32)), st.lists(st.tuples(U32, U32), max_size=6))
def test_ack_options_round_trip_and_fit(timestamp: tuple[int, int] | None, sacks: list[tuple[int, int]]) -> None:
    raw = segments.ack_options(Options(timestamp=timestamp, sacks=tuple(sacks)))
    assert len(raw) <= 40
    assert len(raw) % 4 == 0
    kept = tuple(sacks[: 3 if timestamp else 4])
    assert segments.parse_options(raw) == Options(timestamp=timestamp, sacks=kept)


@given(st.binary(max_size=40))
def test_any_option_bytes_are_read_without_error(raw: bytes) -> None:
    assert isinstance(segments.parse_options(raw), Options)


def test_option_whose_length_lies_ends_the_list() -> None:
    assert segments.parse_options(bytes.fromhex("020404c40300")) == Options(mss=1220)
    assert segments.parse_options(bytes.fromhex("020404c408ff")) == Options(mss=1220)
    assert segments.parse_options(bytes.fromhex("020404c4000402")) == Options(mss=1220)


def test_window_scale_above_14_counts_as_14() -> None:
    assert segments.parse_options(bytes.fromhex("0303ff")).shift == 14


def test_segment_cut_anywhere_in_its_header_is_refused() -> None:
    options = segments.ack_options(Options(timestamp=(1, 2), sacks=((3, 4),)))
    raw = segments.build(bytes(32), bytes(4), 1, 2, ACK, 3, options)[40:]
    assert all(segments.parse(memoryview(raw), 0, size) is None for size in range(len(raw)))
    assert segments.parse(memoryview(raw), 0, len(raw)) is not None


def test_data_offset_below_five_words_is_refused() -> None:
    raw = bytearray(segments.build(bytes(32), bytes(4), 1, 2, ACK, 3)[40:])
    raw[12] = 4 << 4
    assert segments.parse(memoryview(raw), 0, len(raw)) is None
