"""Receiving, against a socket that hands out exactly what the kernel might: stacking, GRO reads, faults, fairness."""

from __future__ import annotations

import socket
import struct
from collections import deque
from dataclasses import dataclass
from typing import Any, cast

import pytest
from coder_agent_transport_udp.addresses import AddressBook
from coder_agent_transport_udp.counters import Counters
from coder_agent_transport_udp.receiver import MAX_ROWS, PACKETS_PER_WAKE, Receiver
from coder_agent_transport_udp.sockets import SOL_UDP, UDP_GRO
from hypothesis import given
from hypothesis import strategies as st

from coder_agent.base.addresses import AddrPort
from coder_agent.base.burst import Burst
from coder_agent.base.paths import UdpPath

A = ("192.0.2.1", 1000)
B = ("192.0.2.2", 2000)


@dataclass
class Read:
    """One read's worth: several datagrams only as GRO would join them (equal sizes, the last may be shorter)."""

    source: tuple[str, int]
    datagrams: list[bytes]
    flags: int = 0

    @property
    def segment(self) -> int:
        return len(self.datagrams[0])


class FakeSocket:
    """The receiving half of a UDP socket, from a script of reads and errors."""

    def __init__(self, script: list[Read | OSError]) -> None:
        self.script = deque(script)

    def _next(self) -> Read:
        if not self.script:
            raise BlockingIOError
        item = self.script.popleft()
        if isinstance(item, OSError):
            raise item
        return item

    def recvfrom_into(self, room: memoryview) -> tuple[int, tuple[str, int]]:
        item = self._next()
        (payload,) = item.datagrams
        room[: len(payload)] = payload
        return len(payload), item.source

    def recvmsg_into(self, rooms: list[memoryview], space: int) -> tuple[int, list[Any], int, tuple[str, int]]:
        assert space >= socket.CMSG_LEN(4)
        item = self._next()
        payload = b"".join(item.datagrams)
        assert len(rooms[0]) >= 65536
        rooms[0][: len(payload)] = payload
        control = [(SOL_UDP, UDP_GRO, struct.pack("i", item.segment))]
        return len(payload), control if len(item.datagrams) > 1 else [], item.flags, item.source


class Bench:
    """A receiver on a scripted socket, and what it delivered."""

    def __init__(self, script: list[Read | OSError], *, gro: bool = True) -> None:
        self.sock = FakeSocket(script)
        self.counters = Counters()
        self.bursts: list[tuple[list[bytes], UdpPath]] = []
        self.receiver = Receiver(cast(socket.socket, self.sock), self.deliver, AddressBook(), self.counters, gro=gro)

    def deliver(self, burst: Burst, path: UdpPath) -> None:
        assert burst.contiguous
        self.bursts.append(([bytes(row) for row in burst.rows()], path))

    def drain_all(self) -> list[tuple[bytes, UdpPath]]:
        while self.receiver.drain():
            pass
        return [(row, path) for rows, path in self.bursts for row in rows]


def packet(number: int, size: int) -> bytes:
    return number.to_bytes(4, "big") * (size // 4) + bytes(size % 4)


@pytest.mark.parametrize("gro", [True, False])
def test_single_datagrams_of_one_size_become_one_burst(gro: bool) -> None:
    sent = [packet(i, 1312) for i in range(49)]
    bench = Bench([Read(A, [one]) for one in sent], gro=gro)
    assert not bench.receiver.drain()
    assert bench.bursts == [(sent, UdpPath(AddrPort(*A)))]


def test_a_gro_read_is_one_burst_with_its_shorter_last_row() -> None:
    sent = [packet(i, 1312) for i in range(48)] + [b"tail"]
    bench = Bench([Read(A, sent)])
    bench.receiver.drain()
    assert bench.bursts == [(sent, UdpPath(AddrPort(*A)))]


def test_a_shorter_datagram_ends_a_burst_and_a_longer_one_starts_the_next() -> None:
    sizes = [100, 100, 40, 100, 200, 200, 8, 8]
    sent = [packet(i, size) for i, size in enumerate(sizes)]
    bench = Bench([Read(A, [one]) for one in sent])
    bench.receiver.drain()
    assert [[len(row) for row in rows] for rows, _ in bench.bursts] == [[100, 100, 40], [100], [200, 200, 8], [8]]
    assert [row for rows, _ in bench.bursts for row in rows] == sent


def test_senders_are_not_mixed_and_order_is_kept_around_gro_reads() -> None:
    script: list[Read | OSError] = [
        Read(A, [packet(1, 64)]),
        Read(A, [packet(2, 64)]),
        Read(B, [packet(3, 64)]),
        Read(B, [packet(4, 64), packet(5, 64)]),
        Read(B, [packet(6, 64)]),
        Read(A, [packet(7, 32)]),
    ]
    bench = Bench(script)
    bench.receiver.drain()
    a, b = UdpPath(AddrPort(*A)), UdpPath(AddrPort(*B))
    shape = [([int.from_bytes(row[:4], "big") for row in rows], path) for rows, path in bench.bursts]
    assert shape == [([1, 2], a), ([3, 4, 5, 6], b), ([7], a)]


def test_a_burst_of_single_packets_has_a_limit() -> None:
    bench = Bench([Read(A, [packet(i, 32)]) for i in range(2 * MAX_ROWS + 1)])
    assert len(bench.drain_all()) == 2 * MAX_ROWS + 1
    assert [len(rows) for rows, _ in bench.bursts] == [MAX_ROWS, MAX_ROWS, 1]


def test_full_gro_reads_go_on_with_a_burst_up_to_its_limit() -> None:
    reads = [[packet(10 * read + i, 1312) for i in range(49)] for read in range(6)]
    bench = Bench([Read(A, rows) for rows in reads])
    bench.receiver.drain()
    assert [len(rows) for rows, _ in bench.bursts] == [4 * 49, 2 * 49]
    assert [row for rows, _ in bench.bursts for row in rows] == [row for rows in reads for row in rows]


def test_a_gro_read_with_a_shorter_last_row_ends_the_burst() -> None:
    bench = Bench(
        [Read(A, [packet(1, 64), packet(2, 64)]), Read(A, [packet(3, 64), b"tail"]), Read(A, [packet(4, 64)])]
    )
    bench.receiver.drain()
    assert [[len(row) for row in rows] for rows, _ in bench.bursts] == [[64, 64, 64, 4], [64]]


def test_large_datagrams_always_find_room() -> None:
    sent = [packet(i, 60000) for i in range(20)]
    bench = Bench([Read(A, [one]) for one in sent])
    assert [row for row, _ in bench.drain_all()] == sent


def test_a_flood_of_single_packets_leaves_the_loop_its_turn() -> None:
    bench = Bench([Read(A, [packet(i, 32)]) for i in range(PACKETS_PER_WAKE + 5)])
    assert bench.receiver.drain()
    assert bench.counters.rx_packets == PACKETS_PER_WAKE
    assert not bench.receiver.drain()
    assert bench.counters.rx_packets == PACKETS_PER_WAKE + 5


def test_eight_gro_reads_are_one_turn() -> None:
    bench = Bench([Read(A, [packet(i, 32), packet(i, 32)]) for i in range(9)])
    assert bench.receiver.drain()
    assert bench.counters.rx_packets == 8 * 2
    assert not bench.receiver.drain()


def test_errors_and_unusable_datagrams_are_counted_and_passed_over() -> None:
    bench = Bench(
        [
            Read(A, [packet(1, 64)]),
            ConnectionResetError(),
            Read(A, [b"x" * 70000], flags=socket.MSG_TRUNC),
            Read(A, [b"x" * 100, b"y" * 100], flags=socket.MSG_CTRUNC),
            Read(A, [b""]),
            ConnectionRefusedError(),
            Read(A, [packet(2, 64)]),
        ]
    )
    bench.receiver.drain()
    assert [rows for rows, _ in bench.bursts] == [[packet(1, 64), packet(2, 64)]]
    assert (bench.counters.rx_errors, bench.counters.rx_truncated, bench.counters.rx_empty) == (2, 2, 1)


def test_an_error_that_never_ends_does_not_hold_the_loop() -> None:
    bench = Bench([ConnectionResetError() for _ in range(2 * PACKETS_PER_WAKE)])
    assert bench.receiver.drain()
    assert bench.counters.rx_errors == PACKETS_PER_WAKE


def test_closing_from_inside_a_delivery_stops_at_once() -> None:
    bench = Bench([Read(A, [packet(1, 64)]), Read(B, [packet(2, 64)]), Read(A, [packet(3, 64)])])
    receive = bench.deliver

    def close_on_first(burst: Burst, path: UdpPath) -> None:
        receive(burst, path)
        bench.receiver.close()

    bench.receiver._deliver = close_on_first
    assert not bench.receiver.drain()
    assert len(bench.bursts) == 1


@st.composite
def reads(draw: st.DrawFn) -> list[Read | OSError]:
    """Any mix of single datagrams, empty ones too, and GRO reads of two senders."""
    script: list[Read | OSError] = []
    for number in range(draw(st.integers(0, 60))):
        source = draw(st.sampled_from([A, B]))
        size = draw(st.sampled_from([0, 1, 4, 32, 32, 1312, 1312, 9000]))
        count = draw(st.sampled_from([1, 1, 1, 2, 7])) if size else 1
        last = draw(st.integers(1, size)) if size else 0
        datagrams = [packet(number, size)] * (count - 1) + [packet(number, last if count > 1 else size)]
        script.append(Read(source, datagrams))
    return script


@given(reads())
def test_whatever_arrives_is_delivered_in_order_and_under_its_senders_name(script: list[Read | OSError]) -> None:
    expected = [
        (datagram, UdpPath(AddrPort(*read.source)))
        for read in script
        if isinstance(read, Read)
        for datagram in read.datagrams
        if datagram
    ]
    bench = Bench(script)
    assert bench.drain_all() == expected
    assert bench.counters.rx_packets == len(expected)
    assert bench.counters.rx_empty == sum(isinstance(read, Read) and read.datagrams == [b""] for read in script)
    assert bench.counters.rx_bytes == sum(len(datagram) for datagram, _ in expected)
