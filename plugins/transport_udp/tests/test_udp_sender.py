"""Sending, against a socket that refuses on command: offload refusals, back-pressure, dead paths."""

from __future__ import annotations

import errno
import socket
import struct
from collections import deque
from typing import Any, cast

import pytest
from coder_agent_transport_udp.counters import Counters
from coder_agent_transport_udp.sender import Sender
from coder_agent_transport_udp.sockets import SOL_UDP, UDP_SEGMENT

from coder_agent.base.addresses import AddrPort
from coder_agent.base.burst import Burst
from coder_agent.base.paths import UdpPath

TO = AddrPort("192.0.2.1", 1000)
PATH = UdpPath(TO)
ELSEWHERE = AddrPort("192.0.2.2", 1000)


class FakeSocket:
    """The sending half of a UDP socket: one outcome per call from a script (None = taken), then all is taken."""

    def __init__(self) -> None:
        self.outcomes: deque[int | None] = deque()
        self.packets: list[bytes] = []
        self.calls: list[tuple[str, int]] = []

    def _judge(self, call: str, count: int) -> None:
        outcome = self.outcomes.popleft() if self.outcomes else None
        self.calls.append((call, count))
        if outcome == errno.EAGAIN:
            raise BlockingIOError
        if outcome is not None:
            raise OSError(outcome, "scripted")

    def sendto(self, data: memoryview, address: tuple[str, int]) -> int:
        self._judge("sendto", 1)
        self.packets.append(bytes(data))
        return len(data)

    def sendmsg(self, parts: list[memoryview], control: Any, flags: int, address: tuple[str, int]) -> int:
        ((level, kind, value),) = control
        assert (level, kind, flags) == (SOL_UDP, UDP_SEGMENT, 0)
        (size,) = struct.unpack("=H", value)
        data = b"".join(parts)
        packets = [data[at : at + size] for at in range(0, len(data), size)]
        assert len(packets) <= 64
        assert len(data) <= 65507
        self._judge("sendmsg", len(packets))
        self.packets += packets
        return len(data)


class Bench:
    """A sender on a scripted socket."""

    def __init__(self, *outcomes: int | None, gso: bool = True) -> None:
        self.sock = FakeSocket()
        self.sock.outcomes.extend(outcomes)
        self.counters = Counters()
        self.dead: list[tuple[UdpPath, int | None]] = []
        self.sender = Sender(
            cast(socket.socket, self.sock),
            self.counters,
            lambda path, error: self.dead.append((path, error.errno)),
            gso=gso,
        )

    def send(self, burst: Burst, to: AddrPort = TO) -> bool:
        return self.sender.send(burst, to, UdpPath(to))


def burst_of(count: int, size: int = 100, *, last: int | None = None, headroom: int = 0) -> Burst:
    """Rows numbered 0, 1, 2 …; with `headroom` the rows do not touch."""
    stride = size + headroom
    buffer = bytearray(stride * count)
    for index in range(count):
        start = index * stride + headroom
        buffer[start : start + size] = bytes([index]) * size
    return Burst(memoryview(buffer), headroom, stride, count, size, last or size, headroom)


def rows(burst: Burst) -> list[bytes]:
    return [bytes(row) for row in burst.rows()]


@pytest.mark.parametrize("headroom", [0, 37])
def test_a_burst_is_one_call(headroom: int) -> None:
    bench, burst = Bench(), burst_of(49, 1312, last=40, headroom=headroom)
    assert bench.send(burst)
    assert bench.sock.packets == rows(burst)
    assert bench.sock.calls == [("sendmsg", 49)]
    assert (bench.counters.tx_packets, bench.counters.tx_bytes) == (49, burst.size_bytes)


def test_a_single_packet_needs_no_segmentation() -> None:
    bench = Bench()
    assert bench.send(Burst.of(b"ping"))
    assert bench.sock.calls == [("sendto", 1)]


@pytest.mark.parametrize(
    ("count", "size", "calls"),
    [(100, 64, [64, 36]), (64, 1312, [49, 15]), (128, 32, [64, 64]), (8, 16000, [4, 4]), (65, 100, [64, 1])],
)
def test_a_burst_beyond_the_kernels_limits_is_cut(count: int, size: int, calls: list[int]) -> None:
    bench, burst = Bench(), burst_of(count, size)
    assert bench.send(burst)
    assert bench.sock.packets == rows(burst)
    assert [n for _, n in bench.sock.calls] == calls


def test_packets_of_which_no_two_fit_one_send_go_singly() -> None:
    bench, burst = Bench(), burst_of(2, 40000)
    assert bench.send(burst)
    assert bench.sock.calls == [("sendto", 1), ("sendto", 1)]


@pytest.mark.parametrize("code", [errno.EMSGSIZE, errno.EINVAL])
def test_a_path_that_refuses_large_segments_is_remembered_for_them_only(code: int) -> None:
    bench, burst = Bench(code), burst_of(3, 1312)
    assert bench.send(burst)
    assert bench.sock.packets == rows(burst)
    assert bench.counters.gso_refused == 1
    bench.sock.calls.clear()
    assert bench.send(burst)
    assert bench.send(burst_of(3, 1000))
    assert bench.send(burst, ELSEWHERE)
    assert bench.sock.calls == [("sendto", 1)] * 3 + [("sendmsg", 3)] * 2


@pytest.mark.parametrize("code", [errno.EMSGSIZE, errno.EINVAL])
def test_who_chose_too_large_a_size_is_told_and_may_try_again_once_it_passes(code: int) -> None:
    bench, burst = Bench(code), burst_of(3, 1472)
    assert bench.send(burst)
    assert bench.dead == [(UdpPath(TO), errno.EMSGSIZE)]
    bench.sender.note_passed(1400, TO)
    bench.sock.calls.clear()
    assert bench.send(burst)
    bench.sender.note_passed(1472, TO)
    assert bench.send(burst)
    assert bench.sock.calls == [("sendto", 1)] * 3 + [("sendmsg", 3)]


def test_a_card_without_checksum_offload_ends_segmentation_for_good() -> None:
    bench, burst = Bench(errno.EIO), burst_of(3)
    assert bench.send(burst)
    assert bench.sock.packets == rows(burst)
    bench.sock.calls.clear()
    assert bench.send(burst, ELSEWHERE)
    assert bench.sock.calls == [("sendto", 1)] * 3


def test_a_refusal_in_the_middle_sends_no_packet_twice() -> None:
    bench, burst = Bench(None, errno.EIO), burst_of(100, 64)
    assert bench.send(burst)
    assert bench.sock.packets == rows(burst)


@pytest.mark.parametrize("gso", [True, False])
def test_a_full_socket_takes_nothing(gso: bool) -> None:
    bench, burst = Bench(errno.EAGAIN, gso=gso), burst_of(3)
    assert not bench.send(burst)
    assert bench.sender.is_full()
    assert not bench.send(burst)  # no system call before it is writable again
    assert len(bench.sock.calls) == 1
    assert bench.sender.resume()
    assert bench.send(burst)
    assert bench.sock.packets == rows(burst)


def test_a_socket_that_fills_up_midway_keeps_the_rest_and_the_order() -> None:
    bench = Bench(None, None, errno.EAGAIN, gso=False)
    burst = burst_of(5, last=7)
    expected = rows(burst)
    assert bench.send(burst)
    burst.buffer[:] = bytes(len(burst.buffer))  # borrowed: the caller reuses it at once
    assert not bench.send(burst_of(1))
    assert bench.sender.resume()
    assert bench.sock.packets == expected


def test_resuming_into_a_full_socket_again_loses_nothing() -> None:
    bench = Bench(None, errno.EAGAIN, errno.EAGAIN, None, errno.EAGAIN, gso=False)
    burst = burst_of(4)
    assert bench.send(burst)
    assert not bench.sender.resume()
    assert not bench.sender.resume()
    assert bench.sender.resume()
    assert bench.sock.packets == rows(burst)


@pytest.mark.parametrize("code", [errno.EHOSTUNREACH, errno.ENETUNREACH])
@pytest.mark.parametrize("count", [1, 3])
def test_an_unreachable_path_is_reported_and_the_burst_lost(code: int, count: int) -> None:
    bench = Bench(code)
    assert bench.send(burst_of(count))
    assert bench.dead == [(PATH, code)]
    assert bench.counters.tx_lost_unreachable == count
    assert bench.sock.packets == []


def test_a_firewalls_verdict_is_only_a_loss() -> None:
    bench = Bench(errno.EPERM)
    assert bench.send(burst_of(3))
    assert bench.dead == []
    assert bench.counters.tx_lost_denied == 3


def test_an_oversized_row_is_lost_alone() -> None:
    bench = Bench(errno.EMSGSIZE, gso=False)
    burst = burst_of(2, 100, last=10)
    assert bench.send(burst)
    assert bench.sock.packets == rows(burst)[1:]
    assert bench.counters.tx_lost_too_big == 1


def test_any_other_error_is_a_loss_too() -> None:
    bench = Bench(errno.ENOBUFS)
    assert bench.send(Burst.of(b"x"))
    assert bench.counters.tx_lost_other == 1
    assert bench.send(Burst.of(b"x"))
