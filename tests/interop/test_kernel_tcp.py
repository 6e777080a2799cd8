"""Linux judges our TCP/IP: its own TCP over a TUN device in a namespace of the test's, against our `Stack`.

kernel socket [fd98::1] — TUN — a thread that reads and writes packets — Stack [fd98::2] — this test
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import random
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import TypeVar

import pytest

from coder_agent.base.burst import Burst
from coder_agent.protocols.netstack import Stack, StackConfig, SynRequest, TcpConnection
from coder_agent.testing.netns import Host, Lab, unavailable

pytestmark = [
    pytest.mark.foreign,
    pytest.mark.netns,
    pytest.mark.skipif(unavailable() is not None, reason=str(unavailable())),
    pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="/dev/net/tun is missing"),
]
T = TypeVar("T")
THEIRS, OURS = "fd98::1", "fd98::2"
CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TUN_NO_PI = 0x1001
PATIENCE = 90.0
BULK = 24 << 20
DRAIN = 48
"""Packets read per turn, stacked to a burst as the runtime does without receive offload."""


def inside(host: Host, make: Callable[[], T]) -> T:
    """Run `make` in a thread inside another namespace (os.setns came with 3.12)."""
    made: list[T] = []

    def enter() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/run/netns/{host.name}") as namespace:
            if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        made.append(make())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    return made[0]


def open_tun() -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", b"tun0", IFF_TUN_NO_PI))
    return fd


class Bench:
    """Our stack behind a TUN device, driven by a thread; `call` runs something in that thread."""

    def __init__(self, host: Host, config: StackConfig, *, vector: bool) -> None:
        self.host = host
        self._fd = inside(host, open_tun)
        host.run("ip", "link", "set", "tun0", "mtu", "1280", "up")
        host.run("ip", "-6", "address", "add", f"{THEIRS}/64", "dev", "tun0", "nodad")
        self.stack = Stack(config, rng=os.urandom, vector=vector)
        self.stack.add_address(IPv6Address(OURS))
        self.stack.set_peer("kernel", [IPv6Network(f"{THEIRS}/128")])
        self.stack.on_syn = self._on_syn
        self.services: dict[int, Callable[[TcpConnection], None]] = {}
        self.loss = 0.0
        self._random = random.Random(7)
        self._calls: deque[Callable[[], object]] = deque()
        self._wake_read, self._wake_write = os.pipe()
        self._stopping = False
        self._serving: dict[TcpConnection, Callable[[TcpConnection], None]] = {}
        self._thread = threading.Thread(target=self._loop)
        self._thread.start()

    def close(self) -> None:
        self._stopping = True
        os.write(self._wake_write, b"x")
        self._thread.join(PATIENCE)
        for fd in (self._fd, self._wake_read, self._wake_write):
            os.close(fd)

    def call(self, function: Callable[[], T]) -> T:
        """Run `function` in the stack's thread and return its result."""
        done = threading.Event()
        results: list[T] = []

        def run() -> None:
            results.append(function())
            done.set()

        self._calls.append(run)
        os.write(self._wake_write, b"x")
        assert done.wait(PATIENCE)
        return results[0]

    def wait(self, condition: Callable[[], T]) -> T:
        """Ask the stack's thread until `condition` gives something true."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            result = self.call(condition)
            if result:
                return result
            select.select([], [], [], 0.005)
        raise AssertionError("it never came")

    def connect(self, port: int, service: Callable[[TcpConnection], None]) -> TcpConnection:
        def connect() -> TcpConnection:
            connection = self.stack.connect(IPv6Address(THEIRS), port, time.monotonic())
            self._serving[connection] = service
            return connection

        return self.call(connect)

    def kernel_socket(self, kind: int = socket.SOCK_STREAM, protocol: int = 0) -> socket.socket:
        sock = inside(self.host, lambda: socket.socket(socket.AF_INET6, kind, protocol))
        sock.settimeout(PATIENCE)
        return sock

    def kernel_connect(self, port: int) -> socket.socket:
        sock = self.kernel_socket()
        sock.connect((OURS, port))
        return sock

    def kernel_listen(self) -> tuple[socket.socket, int]:
        sock = self.kernel_socket()
        sock.bind((THEIRS, 0))
        sock.listen()
        return sock, sock.getsockname()[1]

    def _on_syn(self, request: SynRequest) -> None:
        service = self.services.get(request.local[1])
        if service is None:
            request.reject(time.monotonic())
        else:
            self._serving[request.accept(time.monotonic())] = service

    def _loop(self) -> None:
        stack = self.stack
        while not self._stopping:
            at = stack.deadline()
            wait = 1.0 if at is None else max(at - time.monotonic(), 0.002)
            readable, _, _ = select.select([self._fd, self._wake_read], [], [], 0 if stack.has_output() else wait)
            if self._wake_read in readable:
                os.read(self._wake_read, 4096)
            while self._calls:
                self._calls.popleft()()
            now = time.monotonic()
            if self._fd in readable:
                self._drain(now)
            if at is not None and at <= now:
                stack.on_timer(now)
            for connection in stack.woken():
                if connection in self._serving:
                    self._serving[connection](connection)
            for _, burst in stack.transmit(now):
                for row in burst.rows():
                    if not (self.loss and self._random.random() < self.loss):
                        self._write(row)

    def _write(self, row: memoryview) -> None:
        while True:
            try:
                os.write(self._fd, row)
                return
            except BlockingIOError:
                select.select([], [self._fd], [], 1.0)

    def _drain(self, now: float) -> None:
        rows: list[bytes] = []
        while len(rows) < DRAIN:
            try:
                rows.append(os.read(self._fd, 2048))
            except BlockingIOError:
                break
        if self.loss:
            rows = [row for row in rows if self._random.random() >= self.loss]
        while rows:
            size, count = len(rows[0]), 1
            while count < len(rows) and len(rows[count]) == size:
                count += 1
            if count < len(rows) and len(rows[count]) < size:
                count += 1
            joined = memoryview(b"".join(rows[:count]))
            self.stack.receive("kernel", Burst(joined, 0, size, count, size, len(rows[count - 1])), now)
            del rows[:count]


@pytest.fixture(params=["vector", "scalar"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with Lab() as lab:
        made = Bench(lab.host("kernel"), StackConfig(verify_checksums=True), vector=request.param == "vector")
        try:
            yield made
        finally:
            made.close()


class Digest:
    """A service that reads to the end, then answers with the checksum and closes: needs a half-close to work."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self.size = 0

    def __call__(self, connection: TcpConnection) -> None:
        for chunk in connection.read():
            self.hash.update(chunk)
            self.size += len(chunk)
        if connection.eof and connection.state == "close-wait":
            connection.write(self.hash.hexdigest().encode())
            connection.close(time.monotonic())


class Source:
    """A service that sends `size` bytes and the end, and keeps what the other side says."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.hash = hashlib.sha256()
        self.answer = b""
        self.error: str | None = None

    def __call__(self, connection: TcpConnection) -> None:
        while self.left and connection.writable and connection.state != "syn-sent":
            block = os.urandom(min(self.left, 256 << 10))
            taken = connection.write(block)
            self.hash.update(block[:taken])
            self.left -= taken
        if not self.left:
            connection.shutdown_write()
        self.answer += b"".join(connection.read())
        self.error = connection.error


def receive_all(sock: socket.socket) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    while chunk := sock.recv(1 << 20):
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size


OPTIONS = {
    "modern": {},
    "no timestamps": {"tcp_timestamps": 0},
    "no sack": {"tcp_sack": 0},
    "no scaling": {"tcp_window_scaling": 0},
}


def set_options(bench: Bench, name: str) -> None:
    for key, value in OPTIONS[name].items():
        bench.host.run("sysctl", "-q", "-w", f"net.ipv4.{key}={value}")


@pytest.mark.parametrize("loss", [0.0, 0.01])
@pytest.mark.parametrize("options", list(OPTIONS))
def test_kernel_uploads_to_us_and_half_closes(bench: Bench, options: str, loss: float) -> None:
    set_options(bench, options)
    bench.services[80] = digest = Digest()
    bench.loss = loss
    size = BULK if not loss else BULK // 8
    data = os.urandom(size)
    with bench.kernel_connect(80) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        answer = sock.makefile("rb").read()
    assert answer.decode() == hashlib.sha256(data).hexdigest()
    assert digest.size == size


@pytest.mark.parametrize("loss", [0.0, 0.01])
@pytest.mark.parametrize("options", list(OPTIONS))
def test_we_upload_to_the_kernel_and_half_close(bench: Bench, options: str, loss: float) -> None:
    set_options(bench, options)
    size = BULK if not loss else BULK // 8
    source = Source(size)
    listener, port = bench.kernel_listen()
    bench.loss = loss
    connection = bench.connect(port, source)
    with listener, listener.accept()[0] as sock:
        sock.settimeout(PATIENCE)
        got, received = receive_all(sock)
        sock.sendall(got.encode())
    assert received == size
    bench.wait(lambda: connection.eof and len(source.answer) == 64)
    assert source.answer.decode() == got == source.hash.hexdigest()
    assert bench.call(lambda: bench.stack.counters["bad-checksum"]) == 0


def test_timestamps_that_we_offer_are_used(bench: Bench) -> None:
    source = Source(1 << 20)
    listener, port = bench.kernel_listen()
    bench.stack.config = StackConfig(verify_checksums=True, timestamps=True)
    connection = bench.connect(port, source)
    with listener, listener.accept()[0] as sock:
        assert receive_all(sock)[0] == source.hash.hexdigest()
    assert connection.timestamps
    assert connection.sender.mss == 1208


def test_kernel_that_does_not_read_stops_us_and_starts_us_again(bench: Bench) -> None:
    source = Source(BULK)
    listener, port = bench.kernel_listen()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
    connection = bench.connect(port, source)
    with listener, listener.accept()[0] as sock:
        sock.settimeout(PATIENCE)
        bench.wait(lambda: connection.sender.window < 1220 and not connection.sender.outstanding)
        assert receive_all(sock) == (source.hash.hexdigest(), BULK)


def test_closed_port_of_ours_is_refused(bench: Bench) -> None:
    with bench.kernel_socket() as sock, pytest.raises(ConnectionRefusedError):
        sock.connect((OURS, 81))


def test_closed_port_of_the_kernel_is_refused(bench: Bench) -> None:
    source = Source(1)
    connection = bench.connect(82, source)
    bench.wait(lambda: connection.state == "closed")
    assert connection.error == "refused"


def test_reset_by_the_kernel_reaches_us(bench: Bench) -> None:
    bench.services[80] = Digest()
    sock = bench.kernel_connect(80)
    [connection] = bench.wait(bench.stack.connections)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    bench.wait(lambda: connection.state == "closed")
    assert connection.error == "reset"


def test_our_abort_reaches_the_kernel(bench: Bench) -> None:
    bench.services[80] = Digest()
    with bench.kernel_connect(80) as sock:
        [connection] = bench.wait(bench.stack.connections)
        bench.call(lambda: connection.abort(time.monotonic()))
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def echo(connection: TcpConnection) -> None:
    for chunk in connection.read():
        connection.write(chunk)
    if connection.eof:
        connection.close(time.monotonic())


def test_many_connections_at_once(bench: Bench) -> None:
    bench.services[7] = echo
    socks = [bench.kernel_connect(7) for _ in range(50)]
    assert len(bench.call(bench.stack.connections)) == 50
    blocks = [os.urandom(10_000) for _ in socks]
    for sock, block in zip(socks, blocks, strict=True):
        sock.sendall(block)
        sock.shutdown(socket.SHUT_WR)
    for sock, block in zip(socks, blocks, strict=True):
        with sock, sock.makefile("rb") as stream:
            assert stream.read() == block
    bench.wait(lambda: not bench.stack.connections())


def test_kernel_pings_us(bench: Bench) -> None:
    with bench.kernel_socket(socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sock:
        reply, asked = b"", -1.0
        end = time.monotonic() + PATIENCE
        while reply[:1] != b"\x81" and time.monotonic() < end:  # not a router solicitation of the kernel's own
            if time.monotonic() - asked >= 1.0:  # a ping may be lost: the kernel drops some while a link comes up
                sock.sendto(struct.pack(">BBHHH", 128, 0, 0, 77, 3) + b"are you there?", (OURS, 0))
                asked = time.monotonic()
            if select.select([sock], [], [], 1.0)[0]:
                reply = sock.recv(2048)
    assert reply[4:] == struct.pack(">HH", 77, 3) + b"are you there?"


def test_we_ping_the_kernel(bench: Bench) -> None:
    pongs: list[tuple[IPv6Address, int, int, bytes]] = []
    bench.stack.on_pong = lambda *pong: pongs.append(pong)
    bench.call(lambda: bench.stack.ping(IPv6Address(THEIRS), 5, 6, time.monotonic(), data=b"x" * 1000))
    bench.wait(lambda: len(pongs))
    assert pongs == [(IPv6Address(THEIRS), 5, 6, b"x" * 1000)]


def test_udp_both_ways_and_port_unreachable(bench: Bench) -> None:
    got: list[tuple[int, int, bytes]] = []

    def on_udp(source: IPv6Address, source_port: int, local: IPv6Address, port: int, data: memoryview) -> bool:
        got.append((source_port, port, bytes(data)))
        bench.stack.send_udp(local, port, source, source_port, b"re: " + bytes(data), time.monotonic())
        return True

    with bench.kernel_socket(socket.SOCK_DGRAM) as sock:
        sock.connect((OURS, 53))
        bench.stack.on_udp = on_udp
        sock.send(b"question")
        assert sock.recv(2048) == b"re: question"
        assert got == [(sock.getsockname()[1], 53, b"question")]
        bench.stack.on_udp = None
        sock.send(b"anyone?")
        with pytest.raises(ConnectionRefusedError):
            sock.recv(2048)
