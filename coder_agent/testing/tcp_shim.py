"""A TCP proxy that a test owns: connections run through it until the test cuts them.

    with TcpShim("127.0.0.1", server_port) as shim:
        ...                                 # programs connect to 127.0.0.1:shim.port
        shim.cut(b"GET /derp")              # reset those whose first bytes contain this

Programs see exactly what a failing middlebox shows them: a reset, out of the blue.
"""

from __future__ import annotations

import socket
import struct
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(slots=True)
class _Link:
    """One connection and its continuation. `head` is how the client began; `open_ways` of its two directions run."""

    near: socket.socket
    far: socket.socket
    head: bytes = b""
    open_ways: int = 2

    def reset(self) -> None:
        """Cut both halves: SO_LINGER 0 turns close into a reset. Shutting down first wakes the threads that read."""
        for end in (self.near, self.far):
            try:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                end.shutdown(socket.SHUT_RD)
            except OSError:  # the other side was faster
                pass
            end.close()


@dataclass(slots=True)
class TcpShim:
    """Forwards connections to one address. `port` is its own, on loopback."""

    target: str
    target_port: int
    port: int = 0
    _links: list[_Link] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))

    def __post_init__(self) -> None:
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    @property
    def connections(self) -> int:
        """How many run through it now."""
        with self._lock:
            return len(self._links)

    def cut(self, beginning: bytes = b"") -> int:
        """Reset all connections whose first bytes contain `beginning`; returns how many there were."""
        with self._lock:
            doomed = [link for link in self._links if beginning in link.head]
            self._links = [link for link in self._links if link not in doomed]
        for link in doomed:
            link.reset()
        return len(doomed)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection((self.target, self.target_port), timeout=10)
            except ConnectionError:  # the target is down, so are we
                near.close()
                continue
            except OSError:  # our own end
                return
            far.settimeout(None)
            link = _Link(near, far)
            with self._lock:
                self._links.append(link)
            threading.Thread(target=self._pump, args=(link, near, far), daemon=True).start()
            threading.Thread(target=self._pump, args=(link, far, near), daemon=True).start()

    def _pump(self, link: _Link, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 18):
                if source is link.near and len(link.head) < 256:
                    link.head += data[:256]
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:  # cut, by us or by either end
            link.reset()
        with self._lock:
            link.open_ways -= 1
            if link.open_ways == 0:
                link.near.close()
                link.far.close()
                if link in self._links:
                    self._links.remove(link)
