"""One request and its answer, between a browser and an app: heads cleaned, bodies passed on as they come, nothing kept.

Sending and receiving wait for each other's reader: a slow app slows the upload down, a slow browser the download. When
the browser is gone, so is the request.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace

import anyio

from coder_agent.errors import PeerUnreachable, TransportBroken

from . import notices
from .answers import inner_hosts, outgoing_answer, outgoing_request
from .browser import BrowserStream, Disconnected, TooSlow
from .chunked import BadChunk, ChunkedBody
from .html import HtmlBelow, Preamble, wants_rewriting
from .http1 import MAX_HEAD, BadHead, Body, ResponseHead, parse_response
from .pages import Notice
from .tickets import Ticket
from .upstream import Apps, AppStream, UnknownScheme, WrongScheme
from .visit import Visit
from .waits import Stopped, T, Waits

UPLOAD_STALL_SECONDS = 60.0
"""How long a browser may send nothing in the middle of a body. Source: nginx, client_body_timeout."""
RETRIED = frozenset([b"GET", b"HEAD", b"OPTIONS"])
"""Methods that are sent a second time if an idle connection turns out to be closed (RFC 9110 §9.2.2)."""
LINGER_SECONDS = 2.0
"""How long an unwanted upload is still read after the answer, so that the browser gets to see the answer."""
TLS_ALERT = b"\x15\x03"
PLAIN_TO_TLS = (
    b"HTTP request to an HTTPS server",
    b"plain HTTP request was sent to HTTPS port",
    b"speaking plain HTTP",
)
"""What Go, nginx and Apache answer to plain HTTP on a TLS port, with status 400."""


class Failed(Exception):
    """No answer came from the app; the notice says why. `silent`: it hung up without a word."""

    def __init__(self, notice: Notice, *, silent: bool = False) -> None:
        super().__init__(notice.title)
        self.notice = notice
        self.silent = silent


class Broken(Exception):
    """The answer had begun, then the app broke off: the browser's connection must be cut, not closed."""


@dataclass(slots=True)
class Exchange:
    """One request. `run` returns whether the browser's connection can go on."""

    browser: BrowserStream
    visit: Visit
    ticket: Ticket
    apps: Apps
    dashboard: str
    answer_seconds: float
    extra: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Headers of our own for the answer: a signed token's cookie, CORS."""
    _uploaded: bool = False
    _stream: AppStream | None = None
    _answered: bool = False

    async def run(self) -> bool:
        """Raises Failed (nothing was sent to the browser yet), Broken, Disconnected."""
        request = self.visit.request
        self._uploaded = request.body is Body.NONE
        waits = self.browser.waits
        waits.stopped = self.browser.lost
        waits.deadline.move(self.answer_seconds)
        try:
            return await self._attempts()
        except Stopped:
            if self.browser.lost:
                raise Disconnected from None
            if self._answered:
                raise Broken from None
            raise Failed(notices.no_answer(self.answer_seconds)) from None
        finally:
            waits.deadline.move(None)
            if self._stream is not None:
                await self._stream.close()

    async def _attempts(self) -> bool:
        request = self.visit.request
        head = outgoing_request(self.visit, self.ticket, time.time())
        repeatable = request.method in RETRIED and request.body is Body.NONE and not request.upgrade
        if repeatable and (idle := self.apps.take(self.ticket)) is not None:
            self._stream = idle
            try:
                return await self._once(idle, head)
            except Failed:
                if self._answered or not idle.used:
                    raise
                await idle.close()
        self._stream = await self._connect()
        try:
            return await self._once(self._stream, head)
        except Failed as exc:
            # OpenSSL hangs up on plain HTTP without an alert: ask whether it would have liked TLS.
            if exc.silent and not self._answered and await self._wait(lambda: self.apps.speaks_tls(self.ticket)):
                raise Failed(notices.wrong_scheme(self.visit.address, False, self._switched())) from exc
            raise

    async def _connect(self) -> AppStream:
        ticket, address = self.ticket, self.visit.address
        try:
            return await self._wait(lambda: self.apps.connect(ticket))
        except UnknownScheme as exc:
            raise Failed(notices.unknown_scheme(str(exc))) from exc
        except WrongScheme as exc:
            raise Failed(notices.wrong_scheme(address, True, self._switched())) from exc
        except PeerUnreachable as exc:
            raise Failed(notices.unreachable(ticket.place, exc.message, self.dashboard)) from exc
        except (TransportBroken, OSError, anyio.BrokenResourceError) as exc:
            what = f"port {address.port}" if address.port else ticket.url
            raise Failed(notices.not_listening(what, ticket.place, self.dashboard)) from exc

    async def _wait(self, call: Callable[[], Awaitable[T]]) -> T:
        return await self.browser.waits.run(call)

    async def _once(self, stream: AppStream, head: bytes) -> bool:
        request = self.visit.request
        try:
            await stream.send(head, self.browser.waits)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, ssl.SSLError) as exc:
            raise Failed(notices.app_failed("it closed the connection.")) from exc
        if request.body is Body.NONE:
            return await self._receive(stream)
        keep = False
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._upload, stream)
            try:
                keep = await self._receive(stream)
            except (Failed, Broken, Disconnected, Stopped) as exc:
                tasks.cancel_scope.cancel()
                outcome: Exception | None = exc
            else:
                outcome = None
                if not self._uploaded:
                    tasks.cancel_scope.cancel()
        if outcome is not None:
            raise outcome
        return keep and self._uploaded

    # ------------------------------------------------------------ the request's body

    async def _upload(self, stream: AppStream) -> None:
        request = self.visit.request
        chunks = ChunkedBody() if request.body is Body.CHUNKED else None
        left = request.length
        try:
            while not self._uploaded:
                data = await self.browser.read(65536 if chunks else min(65536, left), UPLOAD_STALL_SECONDS)
                if not data:
                    raise Disconnected  # it ended in the middle of a body
                if chunks is not None:
                    data = chunks.feed(data)
                    if chunks.done:
                        self.browser.unread(chunks.rest)
                else:
                    left -= len(data)
                if data:
                    await stream.send(data, self.browser.waits)
                self._uploaded = chunks.done if chunks is not None else not left
                if not self._answered:
                    self.browser.waits.deadline.move(self.answer_seconds)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, Stopped):
            return  # the app wants no more; perhaps it says why
        except (BadChunk, TooSlow, Disconnected):
            if self._answered:
                self.browser.abort()
            else:
                self.browser.close()
            self.browser.waits.stop()

    # ------------------------------------------------------------ the answer

    async def _receive(self, stream: AppStream) -> bool:
        request = self.visit.request
        response, rest = await self._final_head(stream)
        if (jar := self.visit.jar) is not None:
            response = replace(response, headers=jar.keep(response.headers, self.visit.rest, time.time()))
        if response.status == 101:
            if not request.upgrade:
                raise Failed(notices.app_failed("it changed the protocol without being asked."))
            await self._switch(stream, response, rest)
            return False
        self._check_scheme(response, rest)
        rewriter = self._rewriter(response)
        keep = request.keep_alive and self._can_frame(response, rewriter is not None)
        preamble = rewriter.preamble if rewriter is not None else None
        head = outgoing_answer(self.visit, self.ticket, response, self.extra, keep=keep, preamble=preamble)
        head = self.browser.marked(head, response.status)
        self.browser.waits.deadline.move(None)
        self._answered = True
        if response.body is Body.NONE:
            await self.browser.write(head)
        elif response.body is Body.LENGTH and len(rest) == response.length and rewriter is None:
            await self.browser.write(head + rest)
            rest = b""
        else:
            rest = await self._stream_body(stream, response, head, rest, rewriter)
        await self._release(stream, response, rest)
        return keep

    async def _final_head(self, stream: AppStream) -> tuple[ResponseHead, bytes]:
        """The head of the answer and what came behind it; interim answers (100, 103) go to the browser on the way."""
        buffer = b""
        while True:
            while b"\r\n\r\n" not in buffer:
                if len(buffer) > MAX_HEAD or (
                    buffer and not b"HTTP/".startswith(buffer[:5]) and buffer[:5] != b"HTTP/"
                ):
                    raise self._nonsense(buffer)
                try:
                    more = await stream.receive(self.browser.waits)
                except ssl.SSLError as exc:
                    raise Failed(notices.app_failed("its TLS broke.")) from exc
                except (anyio.BrokenResourceError, anyio.ClosedResourceError) as exc:
                    raise Failed(notices.app_failed("it reset the connection."), silent=not buffer) from exc
                if not more:
                    raise self._nonsense(buffer)
                buffer = buffer + more if buffer else more
            try:
                response = parse_response(buffer, self.visit.request.method)
            except BadHead as exc:
                raise Failed(notices.app_failed(str(exc))) from exc
            if response.status >= 200 or response.status == 101:
                return response, buffer[response.size :]
            if self.visit.request.minor == 1:
                await self.browser.write(buffer[: response.size])
            buffer = buffer[response.size :]

    def _nonsense(self, buffer: bytes) -> Failed:
        if buffer.startswith(TLS_ALERT):
            return Failed(notices.wrong_scheme(self.visit.address, False, self._switched()))
        if not buffer:
            return Failed(notices.app_failed("it closed the connection without an answer."), silent=True)
        return Failed(notices.app_failed("it is not HTTP/1.1."))

    def _check_scheme(self, response: ResponseHead, rest: bytes) -> None:
        if response.status == 400 and self.ticket.scheme == "http" and any(text in rest for text in PLAIN_TO_TLS):
            raise Failed(notices.wrong_scheme(self.visit.address, False, self._switched()))

    def _switched(self) -> str:
        """The URL of the same page with TLS switched."""
        address, rest = self.visit.address, self.visit.rest.decode("latin-1")
        if not address.port:
            return ""
        other = address.other_scheme()
        if self.visit.on_path:
            return f"{other.base[:-1]}{rest}"
        scheme, _, host = self.visit.outside.partition("://")
        return f"{scheme}://{host.replace(address.app, other.app, 1)}{rest}"

    def _rewriter(self, response: ResponseHead) -> HtmlBelow | None:
        visit, ticket = self.visit, self.ticket
        if not (visit.on_path and visit.is_navigation) or visit.request.method == b"HEAD":
            return None  # what scripts fetch, they put into a page that was told (below.js)
        if not wants_rewriting(response):
            return None
        cookies = visit.jar.readable(visit.rest, time.time()) if visit.jar is not None else ()
        return HtmlBelow(Preamble(visit.base, ticket.sandboxed, inner_hosts(visit, ticket), cookies))

    def _can_frame(self, response: ResponseHead, rewritten: bool) -> bool:
        """Will the browser see where this answer ends, without the connection's end?"""
        if response.body is Body.NONE:
            return True
        if self.visit.request.minor == 0:
            return response.body is Body.LENGTH and not rewritten
        return rewritten or response.body is not Body.UNTIL_CLOSE

    async def _stream_body(
        self, stream: AppStream, response: ResponseHead, head: bytes, rest: bytes, rewriter: HtmlBelow | None
    ) -> bytes:
        """Pass the body on; returns what came behind it."""
        old = self.visit.request.minor == 0
        reader = _BodyReader(stream, self.browser.waits, response, rest, decode=old or rewriter is not None)
        pending = head
        try:
            async for piece in reader.pieces():
                if rewriter is not None:
                    piece = _framed(rewriter.feed(piece), old)
                if pending or piece:
                    await self.browser.write(pending + piece if pending else piece)
                    pending = b""
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, ssl.SSLError, BadChunk) as exc:
            raise Broken from exc
        if rewriter is not None:
            await self.browser.write(pending + _framed(rewriter.end(), old) + (b"" if old else b"0\r\n\r\n"))
        elif pending:
            await self.browser.write(pending)
        return reader.rest

    async def _release(self, stream: AppStream, response: ResponseHead, rest: bytes) -> None:
        self._stream = None
        if response.keep_alive and not rest and self._uploaded:
            await self.apps.give_back(stream)
        else:
            await stream.close()

    # ------------------------------------------------------------ another protocol

    async def _switch(self, stream: AppStream, response: ResponseHead, rest: bytes) -> None:
        """WebSocket and the like: from here on bytes, each direction with an end of its own."""
        self.browser.waits.deadline.move(None)
        self._answered = True
        head = outgoing_answer(self.visit, self.ticket, response, self.extra, keep=True)
        head = self.browser.marked(head, response.status)
        await self.browser.write(head + rest)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_guarded, self._browser_to_app, stream, tasks.cancel_scope.cancel)
            tasks.start_soon(_guarded, self._app_to_browser, stream, tasks.cancel_scope.cancel)

    async def _browser_to_app(self, stream: AppStream) -> None:
        while data := await self.browser.read(65536, None):
            await stream.send(data, self.browser.waits)
        await stream.stream.send_eof()

    async def _app_to_browser(self, stream: AppStream) -> None:
        while data := await stream.receive(self.browser.waits):
            await self.browser.write(data)
        self.browser.write_eof()


async def _guarded(copy: Callable[[AppStream], Awaitable[None]], stream: AppStream, stop: Callable[[], None]) -> None:
    try:
        await copy(stream)
    except (
        anyio.BrokenResourceError,
        anyio.ClosedResourceError,
        ssl.SSLError,
        Disconnected,
        NotImplementedError,
        Stopped,
    ):
        stop()


def _framed(data: bytes, plain: bool) -> bytes:
    return data if plain or not data else b"%x\r\n%b\r\n" % (len(data), data)


@dataclass(slots=True)
class _BodyReader:
    """An answer's body as it comes. With `decode` without its chunks."""

    stream: AppStream
    waits: Waits
    response: ResponseHead
    rest: bytes
    decode: bool

    async def pieces(self) -> AsyncIterator[bytes]:
        """Raises BrokenResourceError if the app ends before the body does."""
        if self.response.body is Body.CHUNKED:
            chunks = ChunkedBody(decode=self.decode)
            data = self.rest
            while True:
                yield chunks.feed(data)
                if chunks.done:
                    self.rest = chunks.rest
                    return
                if not (data := await self.stream.receive(self.waits)):
                    raise anyio.BrokenResourceError
        left = self.response.length if self.response.body is Body.LENGTH else None
        data = self.rest
        self.rest = b""
        while True:
            if left is not None:
                data, self.rest = data[:left], data[left:]
                left -= len(data)
            yield data
            if left == 0:
                return
            if not (data := await self.stream.receive(self.waits)):
                if left is not None:
                    raise anyio.BrokenResourceError
                return
