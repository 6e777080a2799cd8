"""The direct transport: one UDP socket per address family, bursts in both directions.

Sockets are opened by sockets.py, read by receiver.py, written by sender.py; this module holds them together.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Literal

from coder_agent.base.buffers import reserve
from coder_agent.base.burst import Burst
from coder_agent.base.paths import Path, UdpPath
from coder_agent.hooks import PacketSink, TransportContext

from .addresses import AddressBook, PathNames, SockAddr
from .counters import Counters
from .loops import Loop, open_loop
from .receiver import BUFFER_BYTES, Receiver
from .sender import Sender
from .settings import UdpSettings
from .sockets import BoundSocket, grow_buffers, open_small_socket, open_socket, send_unfragmented

log = logging.getLogger(__name__)


EXTRA_LIMIT = 640
"""Extra sockets in all: two birthday attempts of 256 and what won before, within the usual 1024 file descriptors."""
EXTRA_IN_USE = 16
"""With at most this many left, an attempt is over: those that stay carry paths."""


@dataclass(slots=True)
class _Link:
    """One bound socket with its two halves."""

    bound: BoundSocket
    receiver: Receiver
    sender: Sender


class UdpTransport:
    """Carries ciphertext over UDP (hooks.interfaces.DirectTransport). Works, sending nothing, without any socket."""

    name = "udp"
    headroom = 0

    def __init__(self, sink: PacketSink, settings: UdpSettings, loop: Loop, listen_port: int = 0) -> None:
        self._sink = sink
        self._settings = settings
        self._loop = loop
        self._configured_port = listen_port or settings.port
        self._counters = Counters()
        self._book = AddressBook()
        self._dead: dict[UdpPath, OSError] = {}
        self._v4: _Link | None = None
        self._v6: _Link | None = None
        self._extra: dict[int, _Link] = {}
        self._shared: memoryview | None = None
        self._last_extra = 0  # names are never used twice: a late packet cannot mean the wrong socket
        self._open((), ())

    # ------------------------------------------------------------ hooks.interfaces.DirectTransport

    def send(self, burst: Burst, path: Path) -> bool:
        """Send now, without waiting; False = the socket is full and nothing was taken."""
        found = self._find(path)
        if found is None or not isinstance(path, UdpPath):
            self._counters.tx_lost_no_socket += burst.count
            return True
        link, target = found
        sender = link.sender
        if sender.is_full():
            self._counters.tx_full += 1
            return False
        taken = sender.send(burst, target, path)
        if sender.is_full():
            self._wait_writable(link)
        return taken

    def send_whole(self, burst: Burst, path: Path) -> bool:
        """Send a burst of one packet unfragmented (it measures the path); False = that cannot be done."""
        found = self._find(path)
        if found is None or not send_unfragmented(found[0].bound.sock, burst.row(0), found[1]):
            self._counters.tx_probes_refused += 1
            return False
        found[0].sender.note_passed(burst.last, found[1])
        return True

    def bound_ports(self) -> tuple[int | None, int | None]:
        """Local ports, IPv4 and IPv6."""
        return (self._v4.bound.port if self._v4 else None, self._v6.bound.port if self._v6 else None)

    def open_extra(self, count: int) -> Sequence[int]:
        """Open up to `count` more IPv4 sockets; their names. Never more than EXTRA_LIMIT in all."""
        names: list[int] = []
        while self._settings.ipv4 and len(names) < count and len(self._extra) < EXTRA_LIMIT:
            bound = open_small_socket(self._settings)
            if bound is None:
                break
            self._last_extra += 1
            self._extra[self._last_extra] = self._connect(
                bound, self._book.for_extra(self._last_extra), self._extra_buffer()
            )
            names.append(self._last_extra)
        return names

    def close_extra(self, names: Sequence[int]) -> None:
        """Close extra sockets. The few that stay were chosen to carry data, and get the buffers for it."""
        for name in names:
            link = self._extra.pop(name, None)
            if link is not None:
                self._close_link(link)
        if len(self._extra) <= EXTRA_IN_USE:
            for link in self._extra.values():
                grow_buffers(link.bound.sock, self._settings)

    def rebind(self) -> None:
        """Reopen both sockets on the same ports if possible."""
        ports = self.bound_ports()
        waiting = any(link.sender.is_full() for link in self._links())
        self.close()
        self._counters.rebinds += 1
        self._open(*(((port,) if port else ()) for port in ports))
        if waiting:
            self._loop.call_soon(lambda: self._sink.on_writable(self))

    def stats(self) -> Mapping[str, int]:
        """Counters (counters.py), and the socket buffers that the kernel granted, the smaller of both families."""
        links = list(self._links())
        return asdict(self._counters) | {
            "receive_buffer": min((link.bound.receive_buffer for link in links), default=0),
            "send_buffer": min((link.bound.send_buffer for link in links), default=0),
        }

    # ------------------------------------------------------------ inside

    def close(self) -> None:
        """Close the sockets; what was not sent is lost."""
        for link in (*self._links(), *self._extra.values()):
            self._close_link(link)
        self._v4 = self._v6 = None
        self._extra.clear()

    def _find(self, path: Path) -> tuple[_Link, SockAddr] | None:
        """The socket for a path, and how it calls the other end."""
        target = self._book.target(path.addr) if isinstance(path, UdpPath) else None
        if target is None or not isinstance(path, UdpPath):
            return None
        link = self._extra.get(path.local) if path.local else self._v6 if target.is_ipv6 else self._v4
        return None if link is None else (link, target.sockaddr)

    def _close_link(self, link: _Link) -> None:
        link.receiver.close()
        self._loop.forget(link.bound.sock)
        link.bound.sock.close()

    def _links(self) -> Iterator[_Link]:
        return (link for link in (self._v4, self._v6) if link is not None)

    def _open(self, ports_v4: tuple[int, ...], ports_v6: tuple[int, ...]) -> None:
        """Bind: the port we had, the configured one, any. IPv6 tries IPv4's port, so that one port forward (or one
        firewall rule) serves both."""
        configured = (self._configured_port,) if self._configured_port else ()
        if self._settings.ipv4:
            self._v4 = self._link(socket.AF_INET, (*ports_v4, *configured))
        if self._settings.ipv6:
            same = (self._v4.bound.port,) if self._v4 else ()
            self._v6 = self._link(socket.AF_INET6, (*ports_v6, *configured, *same))
        if self._v4 is None and self._v6 is None:
            log.warning("no UDP socket could be opened: no direct paths until the network changes")

    def _link(self, family: socket.AddressFamily, ports: tuple[int, ...]) -> _Link | None:
        bound = open_socket(family, ports, self._settings)
        if bound is None:
            return None
        return self._connect(bound, self._book, None)

    def _connect(self, bound: BoundSocket, book: PathNames, buffer: memoryview | None) -> _Link:
        """Read from the socket and write to it from now on."""
        receiver = Receiver(bound.sock, self._sink.on_burst, book, self._counters, gro=bound.gro, buffer=buffer)
        sender = Sender(bound.sock, self._counters, self._path_died, gso=bound.gso)
        self._loop.watch(bound.sock, lambda: self._readable(receiver))
        return _Link(bound, receiver, sender)

    def _readable(self, receiver: Receiver) -> bool:
        more = receiver.drain()
        self._sink.on_drained()
        return more

    def _extra_buffer(self) -> memoryview:
        """One for all extra sockets: they are read one after the other."""
        if self._shared is None:
            self._shared = reserve(BUFFER_BYTES)
        return self._shared

    def _writable(self, link: _Link) -> None:
        if link.sender.resume():
            self._sink.on_writable(self)
        else:
            self._wait_writable(link)

    def _wait_writable(self, link: _Link) -> None:
        self._loop.when_writable(link.bound.sock, lambda: self._writable(link))

    def _path_died(self, path: UdpPath, error: OSError) -> None:
        """Reported in the loop's next turn: the sink is in the middle of its own sending now."""
        if not self._dead:
            self._loop.call_soon(self._report_dead)
        self._dead[path] = error

    def _report_dead(self) -> None:
        dead, self._dead = self._dead, {}
        for path, error in dead.items():
            self._sink.on_path_error(path, error)


@dataclass(slots=True)
class UdpTransportFactory:
    """What `coder_transports` returns."""

    settings: UdpSettings
    name: str = "udp"
    kind: Literal["direct", "relay"] = "direct"

    @asynccontextmanager
    async def open(self, context: TransportContext) -> AsyncIterator[UdpTransport]:
        """Bind and receive until the context ends."""
        async with open_loop() as loop:
            transport = UdpTransport(context.sink, self.settings, loop, context.listen_port)
            try:
                yield transport
            finally:
                transport.close()
