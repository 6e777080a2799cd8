"""Segmenting and merging of bursts: both back ends make the same bytes and find the same runs."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coder_agent.base.burst import Burst
from coder_agent.protocols.netstack import checksums, ip, segments
from coder_agent.protocols.netstack.merger import Merger, ScalarMerger, VectorMerger, payload_size
from coder_agent.protocols.netstack.segmenter import ScalarSegmenter, VectorSegmenter, make_segmenter
from coder_agent.protocols.netstack.segments import ACK, FIN, PSH, Segment

A, B = b"\xfd" + bytes(15), b"\xfd" + b"\x01" * 15
MERGERS: list[Merger] = [VectorMerger(), ScalarMerger()]


def header(*, stamped: bool = False, ack: int = 77, window: int = 2048) -> bytearray:
    head = bytearray(ip.header(0, ip.TCP, A, B)) + b"\x00\x09\xc0\x00"
    head += struct.pack(">IIHHHH", 0, ack, (8 if stamped else 5) << 12 | ACK, window, 0, 0)
    if stamped:
        head += struct.pack(">III", segments.TIMESTAMP_LEAD, 1000, 2000)
    return head


def rows_of(burst: Burst) -> list[bytes]:
    return [bytes(row) for row in burst.rows()]


def runs_of(burst: Burst, merger: Merger) -> list[tuple[int, bytes, int, int]]:
    """All runs in a burst: (seq, payload, rows, echoed timestamp)."""
    out, index = [], 0
    while index < burst.count:
        at = burst.base + index * burst.stride
        parsed = segments.parse(burst.buffer, at + 40, payload_size(burst, index))
        assert parsed is not None
        segment, head = parsed
        taken = merger.take(burst, index, segment, head)
        assert taken == segment.count
        assert sum(map(len, segment.chunks)) == segment.size
        stamp = segment.options.timestamp
        out.append((segment.seq, b"".join(segment.chunks), taken, stamp[1] if stamp else 0))
        index += taken
    return out


@settings(deadline=None)
@given(
    mss=st.integers(64, 1208),
    size=st.integers(1, 40_000),
    seq=st.integers(0, 1 << 33),
    stamped=st.booleans(),
    last=st.sampled_from([ACK, ACK | PSH, ACK | PSH | FIN]),
    seed=st.integers(0, 1000),
)
def test_both_segmenters_make_the_same_correct_packets(
    mss: int, size: int, seq: int, stamped: bool, last: int, seed: int
) -> None:
    payload = random.Random(seed).randbytes(min(size, 49 * mss))
    one, two = VectorSegmenter(1280), ScalarSegmenter(1280)
    one.build(header(stamped=True), 5, memoryview(b"\xff" * 40_000), 1208, ACK)  # leave something in the scratch
    a = rows_of(one.build(header(stamped=stamped), seq, memoryview(payload), mss, last))
    b = rows_of(two.build(header(stamped=stamped), seq, memoryview(payload), mss, last))
    assert a == b
    skip = 72 if stamped else 60
    assert b"".join(row[skip:] for row in a) == payload
    assert all(ip.verify(row, len(row) - 40, ip.TCP) for row in a)
    assert [int.from_bytes(row[44:48], "big") for row in a] == [(seq + i * mss) % 2**32 for i in range(len(a))]
    assert [row[53] for row in a] == [ACK] * (len(a) - 1) + [last]


@pytest.mark.parametrize("vector", [True, False])
def test_a_checksum_is_never_the_zero_that_no_complement_makes(vector: bool) -> None:
    """0xFFFF verifies as 0 does, but nobody who follows RFC 1071 sends it; Wireshark marks it as wrong."""
    segmenter = make_segmenter(1280, vector=vector)
    found = set()
    for begin in range(0, 1 << 16, 49):  # every sum there is, by one word of the payload
        payload = b"".join(struct.pack("<H62x", begin + i & 0xFFFF) for i in range(49))
        burst = segmenter.build(header(), 1, memoryview(payload), 64, ACK)
        found |= {row[56:58] for row in rows_of(burst)}
    assert b"\0\0" in found
    assert b"\xff\xff" not in found


@pytest.mark.parametrize("vector", [True, False])
@pytest.mark.parametrize(("mtu", "rows"), [(1000, 224), (1280, 215), (1440, 190), (4000, 67), (32_000, 9), (65_475, 5)])
def test_a_burst_takes_what_a_program_writes_at_once(mtu: int, rows: int, vector: bool) -> None:
    segmenter = make_segmenter(mtu, vector=vector)
    assert segmenter.max_rows == rows
    mss = mtu - 60
    burst = segmenter.build(header(), 1, memoryview(bytes(rows * mss)), mss, ACK)
    assert burst.count == rows
    assert all(ip.verify(row, mss + 20, ip.TCP) for row in burst.rows())


def test_the_scratch_is_the_same_object_each_time() -> None:
    segmenter = VectorSegmenter(1280)
    first = segmenter.build(header(), 1, memoryview(bytes(5000)), 1220, ACK)
    second = segmenter.build(header(), 1, memoryview(bytes(9000)), 1220, ACK)
    assert first.buffer is second.buffer
    assert first.stride == second.stride == 1280


@pytest.mark.parametrize("merger", MERGERS)
@pytest.mark.parametrize("stamped", [False, True])
@pytest.mark.parametrize("size", [49 * 1208, 49 * 1208 - 1, 30 * 1208 + 7, 13 * 1208, 3 * 1208, 1208, 5])
def test_a_burst_is_one_run(merger: Merger, stamped: bool, size: int) -> None:
    payload = random.Random(size).randbytes(size)
    burst = VectorSegmenter(1280).build(header(stamped=stamped), 2**32 - 5000, memoryview(payload), 1208, ACK | PSH)
    assert runs_of(burst, merger) == [(2**32 - 5000, payload, burst.count, 2000 if stamped else 0)]


def padded(rows: list[bytes], base: int = 3) -> Burst:
    """Rows at a stride of their own behind some foreign bytes, each padded with junk as WireGuard's may be."""
    size = max(map(len, rows)) + 9
    buffer = b"\xee" * base + b"".join(row.ljust(size, b"\xaa") for row in rows[:-1]) + rows[-1] + b"\xaa" * 5
    return Burst(memoryview(buffer), base, size, len(rows), size, len(rows[-1]) + 5)


@settings(deadline=None, max_examples=200)
@given(st.data(), st.booleans(), st.integers(60, 1208))
def test_both_mergers_find_the_same_runs_after_loss_and_reordering(
    data: st.DataObject, stamped: bool, mss: int
) -> None:
    payload = random.Random(mss).randbytes(data.draw(st.integers(14 * mss, 49 * mss)))
    burst = VectorSegmenter(1280).build(header(stamped=stamped), 2**32 - 9000, memoryview(payload), mss, ACK | PSH)
    rows = rows_of(burst)
    for _ in range(data.draw(st.integers(0, 4))):
        where = data.draw(st.integers(0, 48))
        where %= len(rows) - 1
        change = data.draw(st.sampled_from(["drop", "swap", "ack", "psh", "fin", "window", "port", "stamp", "lead"]))
        rows = changed(rows, where, change, stamped=stamped)
    one, two = (runs_of(padded(rows), merger) for merger in MERGERS)
    assert one == two
    assert sum(count for _, _, count, _ in one) == len(rows)


def changed(rows: list[bytes], where: int, change: str, *, stamped: bool) -> list[bytes]:
    row = bytearray(rows[where])
    if change == "drop":
        return rows[:where] + rows[where + 1 :] if len(rows) > 2 else rows
    if change == "swap":
        return [*rows[:where], rows[where + 1], rows[where], *rows[where + 2 :]] if where + 2 < len(rows) else rows
    if change in ("stamp", "lead") and not stamped:
        return rows
    at, bit = {
        "ack": (51, 1), "psh": (53, PSH), "fin": (53, FIN), "window": (55, 1), "port": (41, 1), "stamp": (71, 1),
        "lead": (60, 1),
    }[change]  # fmt: skip
    row[at] ^= bit
    return [*rows[:where], bytes(row), *rows[where + 1 :]]


@pytest.mark.parametrize("merger", MERGERS)
def test_rows_that_differ_are_not_merged(merger: Merger) -> None:
    burst = VectorSegmenter(1280).build(header(), 1000, memoryview(bytes(30 * 100)), 100, ACK)
    for change in ("drop", "ack", "fin", "window", "port"):
        runs = runs_of(padded(changed(rows_of(burst), 20, change, stamped=False)), merger)
        assert runs[0][2] == 20, change
        assert len(runs) > 1


@pytest.mark.parametrize("merger", MERGERS)
def test_push_in_the_middle_does_not_end_a_run_but_fin_does(merger: Merger) -> None:
    rows = rows_of(VectorSegmenter(1280).build(header(), 1000, memoryview(bytes(8 * 100)), 100, ACK))
    assert len(runs_of(padded(changed(rows, 4, "psh", stamped=False)), ScalarMerger())) == 1
    assert len(runs_of(padded(changed(rows, 4, "fin", stamped=False)), merger)) == 3


@pytest.mark.parametrize("merger", MERGERS)
def test_row_shorter_than_its_header_says_is_not_merged(merger: Merger) -> None:
    burst = VectorSegmenter(1280).build(header(), 1000, memoryview(bytes(20 * 100)), 100, ACK)
    for last in (0, 39, 40, 59, 60, 159):
        cut = Burst(burst.buffer, burst.base, burst.stride, burst.count, burst.length, last)
        assert payload_size(cut, 19) == -1
        segment = Segment(1000, 77, ACK, 2048)
        assert merger.take(cut, 0, segment, 20) == 19
        assert segment.size == 1900


@settings(deadline=None)
@given(st.integers(61, 1208), st.integers(12, 49), st.integers(0, 48), st.integers(8, 70), st.integers(1, 255))
def test_both_verifiers_agree(mss: int, count: int, row: int, at: int, change: int) -> None:
    segmenter = ScalarSegmenter(1280)
    burst = segmenter.build(header(), 9, memoryview(random.Random(mss).randbytes(count * mss - mss // 2)), mss, ACK)
    assert checksums.verify_vector(burst, 0, burst.count)
    assert checksums.verify_scalar(burst, 0, burst.count)
    burst.buffer[(row % burst.count) * burst.stride + at] ^= change
    assert not checksums.verify_vector(burst, 0, burst.count)
    assert not checksums.verify_scalar(burst, 0, burst.count)
