"""Datagrams that one packet does not hold, and what strangers may make of fragments."""

from __future__ import annotations

import random
import struct
from ipaddress import IPv6Address, IPv6Network

import pytest

from coder_agent.protocols.netstack import Stack, StackConfig, ip, udp
from coder_agent.protocols.netstack.fragments import LIFETIME, MAX_INCOMPLETE, Reassembler, fragments
from coder_agent.testing.stack_link import LEFT, RIGHT, StackLink

A, B = LEFT.packed, RIGHT.packed


def body(packet: bytes) -> memoryview:
    return memoryview(packet)[ip.HEADER_SIZE :]


def piece(offset: int, data: bytes, *, more: bool = True, number: int = 7, protocol: int = ip.UDP) -> memoryview:
    return memoryview(struct.pack(">BBHI", protocol, 0, offset | more, number) + data)


@pytest.mark.parametrize("size", [1233, 1472, 9000, 65_507, 65_527])
def test_a_large_datagram_arrives_whole(size: int) -> None:
    link = StackLink()
    got: list[bytes] = []

    def listen(source: IPv6Address, port: int, local: IPv6Address, local_port: int, data: memoryview) -> bool:
        got.append(bytes(data))
        return True

    link.right.on_udp = listen
    data = random.Random(size).randbytes(size)
    assert link.left.send_udp(LEFT, 5000, RIGHT, 53, data, link.now)
    link.pause(0.5)
    assert got == [data]


@pytest.mark.parametrize("order", [0, 1, 2])
def test_the_order_of_arrival_does_not_matter(order: int) -> None:
    packet = udp.build(A, 1, B, 2, bytes(range(256)) * 20)
    pieces = fragments(packet, 1280, 99)
    assert all(len(p) <= 1280 for p in pieces)
    random.Random(order).shuffle(pieces)
    joiner = Reassembler()
    answers = [joiner.add(A, B, body(p), 0.0) for p in pieces]
    assert answers[:-1] == [None] * (len(pieces) - 1)
    assert answers[-1] == bytes(body(packet))
    assert len(joiner) == 0


def test_repeated_pieces_count_once() -> None:
    joiner = Reassembler()
    assert joiner.add(A, B, piece(0, bytes(8)), 0.0) is None
    assert joiner.add(A, B, piece(0, bytes(8)), 0.0) is None
    assert joiner.add(A, B, piece(8, b"end", more=False), 0.0) == bytes(8) + b"end"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (piece(0, bytes(16)), piece(8, bytes(16))),
        (piece(16, bytes(8)), piece(8, bytes(16))),
        (piece(16, b"end", more=False), piece(24, bytes(8))),
        (piece(24, bytes(8)), piece(8, b"end", more=False)),
        (piece(8, b"one", more=False), piece(16, b"two", more=False)),
        (piece(0, bytes(8)), piece(0, b"another!")),
    ],
    ids=["head", "tail", "beyond-the-end", "end-before", "two-ends", "other-content"],
)
def test_pieces_that_contradict_each_other_cost_the_datagram(first: memoryview, second: memoryview) -> None:
    joiner = Reassembler()
    assert joiner.add(A, B, first, 0.0) is None
    assert joiner.add(A, B, second, 0.0) == "fragments-overlap"
    assert len(joiner) == 0


@pytest.mark.parametrize(
    ("junk", "reason"),
    [
        (memoryview(b"short"), "malformed"),
        (piece(0, b"not 8n"), "malformed"),
        (piece(8, b"", more=False), "malformed"),
        (piece(65_528, bytes(8), more=False), "malformed"),
        (piece(0, bytes(8), protocol=ip.TCP), "unknown-protocol"),
    ],
    ids=["short", "odd", "empty", "too-far", "tcp"],
)
def test_junk_is_refused_with_its_reason(junk: memoryview, reason: str) -> None:
    assert Reassembler().add(A, B, junk, 0.0) == reason


def test_a_lone_fragment_is_a_whole_datagram() -> None:
    assert Reassembler().add(A, B, piece(0, b"whole", more=False), 0.0) == b"whole"


def test_memory_is_bounded_and_old_pieces_go() -> None:
    joiner = Reassembler()
    for number in range(10 * MAX_INCOMPLETE):
        joiner.add(A, B, piece(0, bytes(8), number=number), 0.0)
    assert len(joiner) == MAX_INCOMPLETE
    joiner.add(A, B, piece(0, bytes(8), number=1 << 20), LIFETIME + 1)
    assert len(joiner) == 1


def test_datagrams_leave_room_for_acknowledgements() -> None:
    stack = Stack(StackConfig(), rng=random.Random(1).randbytes)
    stack.add_address(LEFT)
    stack.set_peer("b", [IPv6Network(RIGHT)])
    taken = sum(stack.send_udp(LEFT, 1, RIGHT, 2, bytes(60_000), 0.0) for _ in range(100))
    assert 0 < taken < 100
    assert stack.counters["udp-queue-full"] == 100 - taken
    assert stack.outbox.waiting("b") <= 768


def test_whoever_sent_hears_that_nobody_listens() -> None:
    link = StackLink()
    heard: list[tuple[IPv6Address, int, int]] = []
    link.left.on_udp_error = lambda remote, port, own: heard.append((remote, port, own))
    link.left.send_udp(LEFT, 5000, RIGHT, 53, b"?", link.now)
    link.pause(0.5)
    assert heard == [(RIGHT, 53, 5000)]
