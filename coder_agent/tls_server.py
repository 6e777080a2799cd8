"""TLS of whoever connects to a server or relay of ours: asyncio's own costs 256 KiB of buffer per connection; this one
shares a buffer.

An asyncio transport on top of another one. Bytes are received into memory that all connections of an event loop share,
decrypted straight into the room that the protocol above offers, and what is written in one turn of the loop leaves in
one system call. A connection that says nothing holds OpenSSL's state (some 20 KB) and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import Any, cast

log = logging.getLogger(__name__)

READ_SIZE = 256 << 10
"""Bytes of one read from the socket."""
SLICE = 32 << 10
"""Bytes given to OpenSSL at once: its memory buffers never shrink, and there are two for each connection."""
DIRECT = 2 << 10
"""Writes from this size are encrypted where they lie; smaller ones are gathered until the turn of the loop ends."""
HEADER, MAX_RECORD = 5, 5 + (16 << 10)
"""Bytes of a TLS record's head, and of the longest in plain text (RFC 8446 §5.1)."""
HANDSHAKE_TIMEOUT = 10.0
"""Seconds for a TLS handshake (derpserver.go gives as long to each step of a login)."""
CLOSE_TIMEOUT = 2.0
"""Seconds in which something of what is still to be sent must go, when a connection is closed politely."""


class TlsGate:
    """`protocol` for `loop.create_server`, without its `ssl`: makes `above` for each connection that shook hands.

    At most `most` connections may be in a handshake. One more costs the oldest of them its place: half-open ones take
    bounded memory, and do not keep out who shakes hands at once.
    """

    def __init__(self, context: ssl.SSLContext, above: Callable[[], asyncio.BaseProtocol], most: int = 10_000) -> None:
        self.context = context
        self.above = above
        self.most = most
        self.shaking: dict[TlsTransport, None] = {}
        """In the order of their coming."""
        self.failures = 0
        """Handshakes that failed or took too long."""
        self.room = memoryview(bytearray(READ_SIZE))
        self.plain = memoryview(bytearray(SLICE))
        """For protocols without a room of their own; what is decrypted into it is copied at once."""

    def protocol(self) -> asyncio.BufferedProtocol:
        """For the next connection."""
        return _Below(TlsTransport(self))


class _Below(asyncio.BufferedProtocol):
    """The socket's side of a TlsTransport."""

    def __init__(self, tls: TlsTransport) -> None:
        self._tls = tls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._tls.begin(cast(asyncio.Transport, transport))  # uvloop's are no subclass

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._tls.gate.room

    def buffer_updated(self, nbytes: int) -> None:
        self._tls.received(self._tls.gate.room[:nbytes])

    def eof_received(self) -> bool:
        self._tls.ended()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._tls.lost(exc)

    def pause_writing(self) -> None:
        above = self._tls.above
        if above is not None:
            above.pause_writing()

    def resume_writing(self) -> None:
        above = self._tls.above
        if above is not None:
            above.resume_writing()


def is_whole(record: bytes | bytearray) -> bool:
    """Is there enough for OpenSSL to say something? Its state is 50 KB, which half a greeting is not worth."""
    if len(record) < HEADER:
        return not record.startswith(b"\x16") and bool(record)  # no handshake: it gets its alert
    size = HEADER + int.from_bytes(record[3:5], "big")
    return len(record) >= size or size > MAX_RECORD or record[0] != 0x16


class TlsTransport(asyncio.Transport):
    """The transport that the protocol above gets. `write` keeps no reference to what it is given."""

    def __init__(self, gate: TlsGate) -> None:
        super().__init__()
        self.gate = gate
        self.above: asyncio.BaseProtocol | None = None
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls: ssl.SSLObject
        self._early: bytearray | None = bytearray()
        self._loop = asyncio.get_running_loop()
        self._gathered = bytearray()
        self._flush_is_due = False
        self._paused = False
        self._closing = False
        self._timer: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------ from below

    def begin(self, below: asyncio.Transport) -> None:
        """The TCP connection stands."""
        self._below = below
        if len(self.gate.shaking) >= self.gate.most:
            next(iter(self.gate.shaking)).give_up()
        self.gate.shaking[self] = None
        self._timer = self._loop.call_later(HANDSHAKE_TIMEOUT, self._fail)

    def received(self, data: memoryview) -> None:
        """Ciphertext, borrowed."""
        if self._early is not None:
            self._early += data
            if not is_whole(self._early):
                return
            data, self._early = memoryview(bytes(self._early)), None
            self._tls = self.gate.context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        for start in range(0, len(data), SLICE):
            if self._below.is_closing():
                return
            self._incoming.write(data[start : start + SLICE])
            if self._tls_is_up() and not self._paused:
                self._deliver()

    def _tls_is_up(self) -> bool:
        if self.above is not None:
            return True
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._send()
            return False
        except (ssl.SSLError, OSError) as exc:
            log.debug("a TLS handshake failed: %s", exc)
            self._send()  # the alert
            self._fail()
            return False
        self._send()
        self._calm()
        self.above = self.gate.above()
        self.above.connection_made(self)
        return True

    def _deliver(self) -> None:
        """Decrypt what is there into the protocol's own room."""
        above = self.above
        while not self._paused and not self._closing:
            whole = isinstance(above, asyncio.BufferedProtocol)
            room = memoryview(above.get_buffer(-1)) if whole else self.gate.plain  # type: ignore[union-attr]
            count, more = self._decrypt(room)
            if count and whole:
                above.buffer_updated(count)  # type: ignore[union-attr]
            elif count:
                above.data_received(bytes(room[:count]))  # type: ignore[union-attr]
            if not more:
                return
            above = self.above  # the door has handed the connection on

    def _decrypt(self, room: memoryview) -> tuple[int, bool]:
        """How much came, and whether there may be more."""
        tls, incoming = self._tls, self._incoming
        total, size = 0, len(room)
        try:
            while total < size:
                count = tls.read(size - total, room[total:])
                if not count:
                    self.ended()
                    return total, False
                total += cast(int, count)
                if not incoming.pending and not tls.pending():
                    return total, False
        except ssl.SSLWantReadError:
            return total, False
        except ssl.SSLError as exc:
            if not isinstance(exc, ssl.SSLZeroReturnError):
                log.debug("a TLS connection broke: %s", exc)
            self.ended()
            return total, False
        return total, True

    def ended(self) -> None:
        """The peer sends nothing more."""
        above = self.above
        if isinstance(above, (asyncio.Protocol, asyncio.BufferedProtocol)):
            above.eof_received()
        self.close()

    def lost(self, exc: Exception | None) -> None:
        """The TCP connection is gone."""
        self._closing = True
        self._calm()
        above, self.above = self.above, None
        if above is not None:
            above.connection_lost(exc)

    def _calm(self) -> None:
        self.gate.shaking.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def give_up(self) -> None:
        """Somebody else needs the place."""
        self._calm()
        self._fail()

    def _fail(self) -> None:
        self.gate.failures += 1
        self.abort()

    # ------------------------------------------------------------ from above

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Encrypt and send; small pieces together with what follows in this turn of the loop."""
        if self._closing or not data:
            return
        if len(data) < DIRECT:
            self._gathered += data
            if len(self._gathered) >= SLICE:
                self._flush()
            elif not self._flush_is_due:
                self._flush_is_due = True
                self._loop.call_soon(self._flush)
            return
        self._flush()
        view = memoryview(data)
        for start in range(0, len(view), SLICE):
            self._encrypt(view[start : start + SLICE])

    def _flush(self) -> None:
        self._flush_is_due = False
        if self._gathered and not self._below.is_closing():
            data, self._gathered = self._gathered, bytearray()
            self._encrypt(memoryview(data))

    def _encrypt(self, view: memoryview) -> None:
        try:
            while view:
                view = view[self._tls.write(view) :]
        except (ssl.SSLError, OSError) as exc:
            log.debug("a TLS connection broke: %s", exc)
            self.abort()
            return
        self._send()

    def _send(self) -> None:
        if self._outgoing.pending and not self._below.is_closing():
            self._below.write(self._outgoing.read())

    def close(self) -> None:
        """Send what there is and the end of it, then close."""
        if self._closing:
            return
        self._flush()
        self._closing = True
        if self.above is not None:
            try:
                self._tls.unwrap()
            except (ssl.SSLError, OSError):
                pass  # the peer's answer to the end is not waited for
        self._send()
        self._below.close()
        if not self._timer:
            self._wait_for_the_rest(self._below.get_write_buffer_size())

    def _wait_for_the_rest(self, left: int) -> None:
        """A slow peer may take what is left in its own time; one that takes nothing is cut off."""
        self._timer = self._loop.call_later(CLOSE_TIMEOUT, self._look_at_the_rest, left)

    def _look_at_the_rest(self, before: int) -> None:
        left = self._below.get_write_buffer_size()
        if left and left < before:
            self._wait_for_the_rest(left)
        else:
            self._below.abort()

    def abort(self) -> None:
        """Close at once."""
        self._closing = True
        self._below.abort()

    def is_closing(self) -> bool:
        return self._closing or self._below.is_closing()

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self.above is not None
        return self.above

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.above = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "ssl_object":
            return self._tls
        if name == "sslcontext":  # by which HTTP servers tell https from http
            return self.gate.context
        return self._below.get_extra_info(name, default)

    def pause_reading(self) -> None:
        self._paused = True
        if not self._below.is_closing():
            self._below.pause_reading()

    def resume_reading(self) -> None:
        if not self._paused:
            return
        self._paused = False
        if not self._below.is_closing():
            self._below.resume_reading()
            self._loop.call_soon(self._again)

    def _again(self) -> None:
        """What was received and not delivered when reading was paused."""
        if not self._paused and not self._closing and self.above is not None:
            self._deliver()

    def is_reading(self) -> bool:
        return not self._paused and not self.is_closing()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._below.set_write_buffer_limits(high, low)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._below.get_write_buffer_limits()

    def get_write_buffer_size(self) -> int:
        return len(self._gathered) + self._below.get_write_buffer_size()

    def can_write_eof(self) -> bool:
        return False
