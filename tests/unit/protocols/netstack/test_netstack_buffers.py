"""Send and receive buffers against simple models."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coder_agent.protocols.netstack.recvbuf import MAX_RANGES, ReceiveBuffer
from coder_agent.protocols.netstack.sendbuf import SMALL, SendBuffer

START = 2**32 - 10


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["write", "cut", "ack"]), st.integers(0, 3 * SMALL)), max_size=40))
def test_send_buffer_is_a_queue_of_bytes(steps: list[tuple[str, int]]) -> None:
    buffer, model, released = SendBuffer(START), bytearray(), 0
    rng = random.Random(1)
    for what, size in steps:
        if what == "write":
            block = rng.randbytes(size)
            buffer.append(memoryview(block))
            model += block
        elif what == "ack":
            released = min(released + size, len(model))
            buffer.release(START + released)
        elif len(model) > released:
            begin = released + size % (len(model) - released)
            end = min(begin + size + 1, len(model))
            assert bytes(buffer.cut(START + begin, end - begin)) == model[begin:end]
        assert len(buffer) == len(model) - released


def test_small_writes_are_copied_and_large_ones_referenced() -> None:
    buffer = SendBuffer(0)
    small, large = bytearray(b"a" * 10), bytearray(b"b" * SMALL)
    buffer.append(memoryview(small))
    buffer.append(memoryview(large))
    small[0], large[0] = ord("X"), ord("X")
    assert bytes(buffer.cut(0, 12)) == b"a" * 10 + b"Xb"


def test_a_thousand_small_writes_are_few_blocks() -> None:
    buffer = SendBuffer(0)
    for _ in range(1000):
        buffer.append(memoryview(b"0123456789"))
    assert len(buffer._chunks) == 1
    buffer.release(10_000)
    assert len(buffer._chunks) == 0


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 4000), st.integers(1, 1500)), max_size=40), st.integers(0, 100))
def test_receive_buffer_puts_any_order_right(parts: list[tuple[int, int]], seed: int) -> None:
    data = random.Random(seed).randbytes(8000)
    buffer, got, have = ReceiveBuffer(START), bytearray(), set[int]()
    limit = 5000
    for offset, size in parts:
        buffer.insert(START + offset, [data[offset : offset + size]], size, START + limit)
        have |= set(range(offset, min(offset + size, limit)))
        edge = next(i for i in range(limit + 1) if i not in have)
        assert buffer.next == START + edge
        if size % 2:
            got += b"".join(buffer.read(size))
    for start, end in buffer.sack_blocks():
        inside = set(range(start - START, end - START))
        assert inside <= have
    got += b"".join(buffer.read(None))
    assert got == data[: len(got)]
    assert len(got) == buffer.next - START


def test_newest_range_is_reported_first() -> None:
    buffer = ReceiveBuffer(0)
    for start in (100, 300, 200):
        buffer.insert(start, [b"x" * 10], 10, 10_000)
    assert buffer.sack_blocks() == ((200, 210), (300, 310), (100, 110))
    buffer.insert(310, [b"x" * 10], 10, 10_000)
    assert buffer.sack_blocks() == ((300, 320), (200, 210), (100, 110))


def test_a_duplicate_is_reported_once_and_first() -> None:
    buffer = ReceiveBuffer(0)
    buffer.append([b"x" * 50], 50)
    buffer.insert(100, [b"x" * 10], 10, 10_000)
    buffer.insert(20, [b"y" * 10], 10, 10_000)
    assert buffer.sack_blocks() == ((20, 30), (100, 110))
    assert buffer.sack_blocks() == ((100, 110),)


def test_first_copy_of_overlapping_data_wins() -> None:
    buffer = ReceiveBuffer(0)
    buffer.insert(10, [b"a" * 10], 10, 1000)
    buffer.insert(5, [b"b" * 20], 20, 1000)
    buffer.insert(0, [b"c" * 30], 30, 1000)
    assert b"".join(buffer.read(None)) == b"c" * 5 + b"b" * 5 + b"a" * 10 + b"b" * 5 + b"c" * 5


def test_ranges_are_bounded() -> None:
    buffer = ReceiveBuffer(0)
    for index in range(MAX_RANGES + 100):
        buffer.insert(10 + 3 * index, [b"x"], 1, 1 << 20)
    assert len(buffer._ranges) == MAX_RANGES


@pytest.mark.parametrize("out_of_order", [False, True])
def test_tiny_segments_do_not_cost_a_chunk_each(out_of_order: bool) -> None:
    buffer = ReceiveBuffer(0)
    for index in range(10_000):
        if out_of_order:
            buffer.insert(1 + index, [b"x"], 1, 1 << 20)
        else:
            buffer.append([b"x"], 1)
    if out_of_order:
        buffer.insert(0, [b"x"], 1, 1 << 20)
    chunks = buffer.read(None)
    assert sum(map(len, chunks)) == 10_000 + out_of_order
    assert len(chunks) < 20
