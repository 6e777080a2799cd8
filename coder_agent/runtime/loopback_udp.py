"""Datagrams of peers, passed on to programs on loopback: one connected socket for each flow, so that answers find back.

No tasks: a callback per readable socket and one timer while there are flows.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections import Counter
from collections.abc import Callable

from .datagrams import Origin, UdpPorts
from .pacing import Pacer

log = logging.getLogger(__name__)

IDLE = 120.0
"""Seconds of silence after which a flow is forgotten (Source: tailscale wgengine/netstack/netstack.go)."""
IDLE_DNS, DNS_PORT = 30.0, 53
"""The same for questions to a name server, of which each comes from a port of its own."""
MAX_FLOWS = 512
"""Flows, and so sockets, at once; the one idle for longest makes room."""
SWEEP = 5.0
"""Seconds between looks for idle flows."""
SOCKET_BUFFER = 4 << 20
"""Bytes asked of the kernel for each direction; it gives what it allows."""
PROBES = 16
"""Datagrams after each of which loopback is asked whether it refused; a program that never answers gets the rest."""
READS_PER_TURN = 64
"""Datagrams taken from one socket before others get their turn."""
LOOPBACKS: tuple[tuple[socket.AddressFamily, str], ...] = (
    (socket.AF_INET, "127.0.0.1"),
    (socket.AF_INET6, "::1"),
)
"""IPv4 first, then IPv6: programs listen on either (coder issue 12906)."""
_REFUSED = (errno.ECONNREFUSED, errno.ECONNRESET)


class _Flow:
    """One peer's port and the socket that stands for it. `first` is kept until the program answers or refuses."""

    __slots__ = ("origin", "sock", "family", "first", "last", "unanswered", "pacer")

    def __init__(self, origin: Origin, hand_over: Callable[[_Flow, bytes | memoryview], None]) -> None:
        self.pacer = Pacer(lambda data: hand_over(self, data))
        self.unanswered = 0
        self.origin = origin
        self.sock: socket.socket | None = None
        self.family = 0
        self.first: bytes | None = None
        self.last = 0.0


class LoopbackUdp:
    """Forwards UDP to loopback. `permits(port)` is the agent's policy; ports that it refuses look closed."""

    def __init__(
        self, ports: UdpPorts, loop: asyncio.AbstractEventLoop, *, permits: Callable[[int], bool] = lambda port: True
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._ports = ports
        self._loop = loop
        self._permits = permits
        self._flows: dict[Origin, _Flow] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._buffer = bytearray(65_536)
        ports.unclaimed = self.receive

    def __len__(self) -> int:
        return len(self._flows)

    def receive(self, origin: Origin, data: memoryview) -> bool:
        """A datagram for loopback. False: nobody listens there, or the policy refuses."""
        flow = self._flows.get(origin)
        if flow is None:
            if not self._permits(origin.local_port):
                self.counters["refused"] += 1
                return False
            flow = self._open(origin)
        flow.last = self._loop.time()
        if flow.sock is None or (flow.first is not None and flow.unanswered < PROBES):
            flow.unanswered += 1
            return self._send_first(flow, bytes(data))
        if not flow.pacer.put(data):
            self.counters["dropped-loopback-full"] += 1
        return self._flows.get(origin) is flow

    def _hand_over(self, flow: _Flow, data: bytes | memoryview) -> None:
        if flow.sock is None:
            return
        try:
            flow.sock.send(data)
        except BlockingIOError:
            self.counters["dropped-loopback-full"] += 1
        except OSError as error:
            self._failed(flow, error)

    def close(self) -> None:
        """Close all flows."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for flow in list(self._flows.values()):
            self._forget(flow)

    def _open(self, origin: Origin) -> _Flow:
        if len(self._flows) >= MAX_FLOWS:
            self.counters["flows-evicted"] += 1
            self._forget(min(self._flows.values(), key=lambda flow: flow.last))
        flow = self._flows[origin] = _Flow(origin, self._hand_over)
        if self._timer is None:
            self._timer = self._loop.call_later(SWEEP, self._sweep)
        return flow

    def _send_first(self, flow: _Flow, data: bytes) -> bool:
        """Until the program has answered nobody knows in which family it listens. A refusal by loopback is there when
        `send` returns, or at the latest when the next datagram comes."""
        flow.first = data
        while flow.family < len(LOOPBACKS):
            try:
                if flow.sock is None:
                    flow.sock = self._connect(flow)
                flow.sock.send(data)
                code = flow.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if not code:
                    return True
            except BlockingIOError:
                return True
            except OSError as error:
                log.debug("UDP port %d on %s: %s", flow.origin.local_port, LOOPBACKS[flow.family][1], error)
            self._drop_socket(flow)
            flow.family += 1
        self._forget(flow)
        self.counters["nobody-listens"] += 1
        return False

    def _connect(self, flow: _Flow) -> socket.socket:
        family, host = LOOPBACKS[flow.family]
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)
            sock.connect((host, flow.origin.local_port))
            self._loop.add_reader(sock.fileno(), self._answers, flow)
        except BaseException:
            sock.close()
            raise
        return sock

    def _answers(self, flow: _Flow) -> None:
        """The program answered, or refused."""
        buffer = self._buffer
        for _ in range(READS_PER_TURN):
            if flow.sock is None:
                return
            try:
                size = flow.sock.recv_into(buffer)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._failed(flow, error)
                return
            flow.first = None
            flow.last = self._loop.time()
            if not self._ports.send(flow.origin, bytes(memoryview(buffer)[:size])):
                self.counters["dropped-tunnel-full"] += 1

    def _failed(self, flow: _Flow, error: OSError) -> bool:
        """A late refusal: before any answer the other family gets its chance; else the program is gone."""
        if error.errno not in _REFUSED:
            self.counters["dropped-loopback-error"] += 1
            return True
        if flow.first is not None and flow.family + 1 < len(LOOPBACKS):
            self._drop_socket(flow)
            flow.family += 1
            return self._send_first(flow, flow.first)
        self._forget(flow)
        return False

    def _drop_socket(self, flow: _Flow) -> None:
        if flow.sock is not None:
            self._loop.remove_reader(flow.sock.fileno())
            flow.sock.close()
            flow.sock = None

    def _forget(self, flow: _Flow) -> None:
        self._drop_socket(flow)
        flow.pacer.close()
        if self._flows.get(flow.origin) is flow:
            del self._flows[flow.origin]

    def _sweep(self) -> None:
        now = self._loop.time()
        for flow in list(self._flows.values()):
            if now - flow.last > (IDLE_DNS if flow.origin.local_port == DNS_PORT else IDLE):
                self._forget(flow)
        self._timer = self._loop.call_later(SWEEP, self._sweep) if self._flows else None
