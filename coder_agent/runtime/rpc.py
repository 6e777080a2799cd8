"""Remote calls over one byte stream: dRPC, each call on its own yamux stream.

    async with RpcConnection(stream, client=True) as connection:
        manifest = await connection.unary("/coder.agent.v2.Agent/GetManifest", GetManifestRequest(), Manifest)
        async with connection.stream("/coder.tailnet.v2.Tailnet/Coordinate", CoordinateResponse) as coordination:
            await coordination.send(CoordinateRequest(...))
            async for response in coordination: ...

    async with RpcConnection(stream, client=False) as connection:
        await connection.serve({"/pkg.Service/Method": unary(Request, handler)})

Source: storj/drpc, coder/coder codersdk/drpc/transport.go (one yamux stream per call).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import anyio
import anyio.abc
from google.protobuf.message import Message

from ..errors import (
    CoderAgentError,
    CoordinationError,
    RemoteProtocolError,
    TransportBroken,
    TransportClosed,
    TransportEnded,
)
from ..protocols.drpc import UNIMPLEMENTED, DrpcStream
from ..protocols.yamux import (
    DataReceived,
    GoneAway,
    PeerSilent,
    PongReceived,
    StreamEnded,
    StreamOpened,
    StreamReset,
    WindowOpened,
    YamuxEvent,
    YamuxSession,
    YamuxSettings,
)
from .rpc_stream import RpcError, RpcStream

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)
R = TypeVar("R", bound=Message)

WRITE_CHUNK = 32 * 1024
"""Bytes per write: one WebSocket message each, and some readers take no more than 32 KiB (the default limit of
nhooyr.io/websocket)."""
HIGH_WATER = 256 * 1024
"""Bytes waiting to be written at which callers have to wait."""
LINGER = 5.0
"""Seconds a served call stays open after its answer (a stock caller closes the byte stream itself right after reading;
closing it first would race with its reader), and that a handler has for reading the rest after its client has left."""
CLOSE_TIMEOUT = 2.0
"""Seconds for writing what is left when the connection is closed."""
_IDLE_CHECK = 60.0


class ByteStream(Protocol):
    """What a connection runs over; every anyio byte stream fits."""

    async def receive(self) -> bytes:
        """Some bytes. Raises anyio.EndOfStream, anyio.BrokenResourceError or a TransportError at the end."""
        ...

    async def send(self, item: bytes, /) -> None:
        """Write all of `item`. Raises anyio.BrokenResourceError or a TransportError."""
        ...

    async def aclose(self) -> None:
        """Close; may be called twice."""
        ...


@dataclass(frozen=True, slots=True)
class Handler:
    """How a served RPC is answered: made by `unary` or `streaming`."""

    request: type[Message]
    run: Callable[[RpcStream[Any]], Awaitable[None]]


Handlers = Mapping[str, Handler]
"""RPC path → handler."""


def unary(request: type[M], call: Callable[[M], Awaitable[Message]]) -> Handler:
    """A handler that takes one message and returns one. Raise RpcError (or any CoderAgentError) to answer an error."""

    async def run(stream: RpcStream[M]) -> None:
        await stream.send(await call(await stream.receive()))

    return Handler(request, run)


def streaming(request: type[M], call: Callable[[RpcStream[M]], Awaitable[None]]) -> Handler:
    """A handler that talks over the stream; returning ends the call.

    When the client leaves, the handler's iteration ends after what was sent; a handler that is not reading, or whose
    client gave the call up, is cancelled. Clean up in `finally` without awaiting.
    """
    return Handler(request, call)


class RpcConnection:
    """Many calls over one byte stream, in both directions. Use as an async context manager.

    `on_alive` is called with the round-trip time in seconds whenever the peer answers a keepalive ping.
    """

    def __init__(
        self,
        stream: ByteStream,
        *,
        client: bool,
        settings: YamuxSettings | None = None,
        on_alive: Callable[[float], None] | None = None,
    ) -> None:
        self._stream = stream
        self._session = YamuxSession(client=client, now=anyio.current_time(), settings=settings)
        self._on_alive = on_alive
        self._calls: dict[int, RpcStream[Any]] = {}
        self._handlers: Handlers | None = None
        self._uninvoked: list[tuple[int, RpcStream[Any]]] = []
        self._scopes: dict[int, anyio.CancelScope] = {}
        self._wake = anyio.Event()
        self._room = anyio.Event()
        self._writing = False
        self._closed = anyio.Event()
        self._error: CoderAgentError | None = None
        self._host: anyio.abc.TaskGroup | None = None
        self._tasks: anyio.abc.TaskGroup | None = None

    # ------------------------------------------------------------ life

    async def __aenter__(self) -> Self:
        self._host = anyio.create_task_group()
        await self._host.__aenter__()
        await self._host.start(self._run)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._host is not None
        await self.aclose()
        # An error of the block passes through as it is: a task group would wrap it in an ExceptionGroup.
        if isinstance(value, anyio.get_cancelled_exc_class()):
            await self._host.__aexit__(kind, value, trace)
        else:
            await self._host.__aexit__(None, None, None)

    @property
    def closed(self) -> bool:
        """True once no call can be made any more."""
        return self._error is not None

    async def wait_closed(self) -> CoderAgentError:
        """Return when the connection is over, with the reason."""
        await self._closed.wait()
        assert self._error is not None
        return self._error

    async def aclose(self) -> None:
        """Write what is waiting (2 s at most), then close."""
        if self._error is None:
            await self._drain()
        self._fail(TransportClosed("the connection was closed"))
        with anyio.CancelScope(shield=True):
            await self._closed.wait()

    def ping(self) -> None:
        """Ask for a sign of life now; `on_alive` hears the answer."""
        self._session.ping(anyio.current_time())
        self._flush()

    async def _run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                tasks.start_soon(self._read_loop)
                tasks.start_soon(self._write_loop)
                tasks.start_soon(self._timer_loop)
                task_status.started()
        finally:
            self._fail(TransportClosed("the connection was closed"))
            with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
                try:
                    await self._stream.aclose()
                except (OSError, CoderAgentError, anyio.BrokenResourceError, anyio.ClosedResourceError):
                    pass  # it is gone already, which is what we wanted
            self._closed.set()

    def _fail(self, error: CoderAgentError) -> None:
        if self._error is not None:
            return
        self._error = error
        for call in list(self._calls.values()):
            call.on_broken(error)
        self._calls.clear()
        self._room.set()
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()

    # ------------------------------------------------------------ loops

    async def _read_loop(self) -> None:
        while True:
            try:
                data = await self._stream.receive()
            except anyio.EndOfStream:
                self._fail(TransportEnded("the other side closed the connection"))
                return
            except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as exc:
                self._fail(TransportBroken(f"the connection broke: {exc or type(exc).__name__}"))
                return
            except CoderAgentError as exc:
                self._fail(exc)
                return
            try:
                events = self._session.receive(data, anyio.current_time())
            except RemoteProtocolError as exc:
                await self._drain()  # the go-away says which side was wrong
                self._fail(exc)
                return
            self._act(events)

    async def _write_loop(self) -> None:
        while True:
            data = self._session.take_output()
            self._room.set()
            self._room = anyio.Event()
            if not data:
                self._writing = False
                self._wake = anyio.Event()
                await self._wake.wait()
                continue
            self._writing = True
            try:
                for start in range(0, len(data), WRITE_CHUNK):
                    await self._stream.send(data[start : start + WRITE_CHUNK])
            except CoderAgentError as exc:
                self._fail(exc)
                return
            except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as exc:
                self._fail(TransportBroken(f"the connection broke: {exc or type(exc).__name__}"))
                return

    async def _timer_loop(self) -> None:
        while True:
            now = anyio.current_time()
            deadline = self._session.deadline()
            delay = _IDLE_CHECK if deadline is None else min(deadline - now, _IDLE_CHECK)
            if delay > 0:
                await anyio.sleep(delay)
                continue
            self._act(self._session.on_timer(now))
            if self._error is not None:
                return

    async def _drain(self) -> None:
        """Wait until everything is written; not for long, for the peer may have stopped reading."""
        with anyio.move_on_after(CLOSE_TIMEOUT, shield=True):
            while self._error is None and (self._writing or self._session.output_size):
                self._flush()
                await self._room.wait()

    def _flush(self) -> None:
        if self._session.output_size:
            self._wake.set()

    def _full(self) -> anyio.Event | None:
        return self._room if self._session.output_size >= HIGH_WATER else None

    def _act(self, events: list[YamuxEvent]) -> None:
        for event in events:
            match event:
                case DataReceived(stream_id, data):
                    self._on_data(stream_id, data)
                case StreamOpened(stream_id):
                    self._calls[stream_id] = self._new_call(stream_id, client=False)
                case StreamEnded(stream_id):
                    if (call := self._calls.get(stream_id)) is not None:
                        call.on_end()
                        self._on_left(stream_id, call)
                case StreamReset(stream_id):
                    if (call := self._calls.pop(stream_id, None)) is not None:
                        call.on_broken(TransportBroken(f"{call.rpc}: the other side reset the call"))
                        self._on_left(stream_id, call)
                case WindowOpened(stream_id):
                    if (call := self._calls.get(stream_id)) is not None:
                        call.on_window()
                case PongReceived(rtt):
                    if self._on_alive is not None:
                        self._on_alive(rtt)
                case PeerSilent(seconds):
                    self._fail(TransportBroken(f"no sign of life from the other side for {seconds:.0f} s"))
                case GoneAway(code) if code:
                    self._fail(TransportBroken(f"the other side ended the session (go-away {code})"))
        self._flush()

    def _new_call(self, stream_id: int, *, client: bool) -> RpcStream[Any]:
        return RpcStream(self._session, stream_id, DrpcStream(client=client), flush=self._flush, room=self._full)

    def _on_data(self, stream_id: int, data: bytes) -> None:
        call = self._calls.get(stream_id)
        if call is None:  # a call that we have left; nobody waits for the window to reopen
            return
        started = bool(call.rpc)
        call.on_data(data)
        if call.rpc and not started:
            self._start_handler(stream_id, call)
        if call.ended:
            self._on_left(stream_id, call)

    # ------------------------------------------------------------ calling

    async def unary(self, rpc: str, request: Message, response: type[R], *, timeout: float | None = None) -> R:
        """Call and return the answer.

        Raises: RpcError (the answer was an error; code 12 = no such RPC), CoordinationError after `timeout` seconds,
        TransportBroken.
        """
        try:
            with anyio.fail_after(timeout):
                async with self.stream(rpc, response) as call:
                    await call.send(request)
                    await call.close_send()
                    return await call.receive()
        except TimeoutError as exc:
            raise CoordinationError(f"{rpc}: no answer within {timeout:g} s") from exc
        except anyio.EndOfStream as exc:
            raise RpcError(f"{rpc}: the call ended without an answer") from exc

    @asynccontextmanager
    async def stream(self, rpc: str, response: type[R]) -> AsyncIterator[RpcStream[R]]:
        """Start a call and talk over it; leaving the block ends it. Raises TransportBroken."""
        if self._error is not None:
            raise self._error
        if self._session.remote_away:
            raise TransportBroken("the other side takes no more calls")
        stream_id = self._session.open()
        call: RpcStream[R] = self._new_call(stream_id, client=True)
        self._calls[stream_id] = call
        call.expect(response)
        call.start(rpc)
        whole = False
        try:
            yield call
            whole = True
        finally:
            call.finish(cancel=not whole)
            self._leave(stream_id)

    def _leave(self, stream_id: int) -> None:
        self._session.close(stream_id, anyio.current_time())
        self._calls.pop(stream_id, None)
        self._flush()

    # ------------------------------------------------------------ serving

    async def serve(self, handlers: Handlers) -> None:
        """Answer the peer's calls until the connection is over. Calls that came earlier are answered now."""
        self._handlers = handlers
        waiting, self._uninvoked = self._uninvoked, []
        for stream_id, call in waiting:
            self._start_handler(stream_id, call)
        await self._closed.wait()

    def _start_handler(self, stream_id: int, call: RpcStream[Any]) -> None:
        if self._tasks is None or self._error is not None:
            return
        if self._handlers is None:
            self._uninvoked.append((stream_id, call))
            return
        self._tasks.start_soon(self._handle, stream_id, call, self._handlers.get(call.rpc))

    async def _handle(self, stream_id: int, call: RpcStream[Any], handler: Handler | None) -> None:
        try:
            with anyio.CancelScope() as scope:
                self._scopes[stream_id] = scope
                if handler is None:
                    raise RpcError(f'unknown rpc: "{call.rpc}"', UNIMPLEMENTED)
                call.expect(handler.request)
                await handler.run(call)
                await call.close_send()
        except anyio.EndOfStream:
            call.fail(0, "the call ended before its request")
        except RpcError as exc:
            call.fail(exc.code, exc.message)
        except CoderAgentError as exc:
            if not call.ended:
                call.fail(0, exc.message)
        except Exception:
            log.exception("a handler of %s failed", call.rpc)
            call.fail(0, "internal error")
        finally:
            self._scopes.pop(stream_id, None)
        with anyio.move_on_after(LINGER):
            await call.wait_ended()
        call.finish()
        self._leave(stream_id)

    def _on_left(self, stream_id: int, call: RpcStream[Any]) -> None:
        """The peer has left a call that we serve: its handler stops.

        One that is reading, or has something left to read, hears it from the end of its messages, but not for ever.
        """
        scope = self._scopes.get(stream_id)
        if scope is not None and (call.aborted or call.idle):
            scope.cancel()
        elif scope is not None:
            scope.deadline = min(scope.deadline, anyio.current_time() + LINGER)
        elif scope is None and stream_id in self._calls and not call.rpc:
            self._leave(stream_id)  # opened and closed without a call
