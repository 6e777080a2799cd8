"""One remote call as both sides see it: send messages, receive messages, end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

import anyio
from google.protobuf.message import DecodeError, Message

from ..errors import CoderAgentError, CoordinationError, LocalProtocolError, RemoteProtocolError, TransportBroken
from ..protocols.drpc import (
    UNIMPLEMENTED,
    Cancelled,
    DrpcEvent,
    DrpcStream,
    Failed,
    Invoked,
    MessageReceived,
    SendClosed,
)
from ..protocols.yamux import YamuxSession

M = TypeVar("M", bound=Message)


class RpcError(CoordinationError):
    """The other side answered a call with an error. `code` 0 = nothing special, 12 = no such RPC."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code

    @property
    def is_unimplemented(self) -> bool:
        """The server is older (or newer) than this call: go on without it."""
        return self.code == UNIMPLEMENTED


class RpcStream(Generic[M]):
    """The messages of one call. Iterate to receive: ``async for message in stream``.

    Memory: what the peer may have in flight is bounded by the yamux window (256 KiB) plus one message (4 MiB), because
    the window is only reopened while no whole message waits here.
    """

    def __init__(
        self,
        session: YamuxSession,
        stream_id: int,
        core: DrpcStream,
        *,
        flush: Callable[[], None],
        room: Callable[[], anyio.Event | None],
    ) -> None:
        self.rpc = ""
        """The path that was called."""
        self._session = session
        self._id = stream_id
        self._core = core
        self._flush = flush
        self._room = room
        self._type: type[M] | None = None
        self._inbox: deque[bytes] = deque()
        self._owed = 0
        self._error: CoderAgentError | None = None
        self._ended = False
        self._gone = False
        self._aborted = False
        self._receiving = False
        self._sending = anyio.Lock()
        self._torn = False  # a packet was begun and given up: nothing may follow it
        self._changed = anyio.Event()

    # ------------------------------------------------------------ both sides

    async def send(self, message: Message) -> None:
        """Send one message; waits while the peer does not keep up.

        Raises TransportBroken if the peer has left the call or the connection broke.
        """
        if self._gone or self._core.terminated:
            raise self._error or TransportBroken(f"{self.rpc}: the other side has ended the call")
        data = message.SerializeToString()
        async with self._sending:
            await self._write(self._core.message(data))

    async def close_send(self) -> None:
        """Say that no more messages follow."""
        async with self._sending:
            await self._write(self._core.close_send())

    async def receive(self) -> M:
        """The next message.

        Raises: anyio.EndOfStream after the last; RpcError if the other side reported an error; TransportBroken;
        RemoteProtocolError for bytes that are not the expected message.
        """
        self._receiving = True
        try:
            while not self._inbox:
                if self._error is not None:
                    raise self._error
                if self._ended:
                    raise anyio.EndOfStream
                await self._changed.wait()
        finally:
            self._receiving = False
        data = self._inbox.popleft()
        self._credit()
        return self._decode(data)

    def __aiter__(self) -> RpcStream[M]:
        return self

    async def __anext__(self) -> M:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    # ------------------------------------------------------------ for the connection

    def expect(self, kind: type[M]) -> None:
        """Which message type `receive` decodes."""
        self._type = kind

    def start(self, rpc: str) -> None:
        """Client: send the invocation. It has to wait for nothing: a new stream has a full window."""
        self.rpc = rpc
        self._session.send(self._id, self._core.invoke(rpc))
        self._flush()

    def finish(self, *, cancel: bool = False) -> None:
        """Leave the call, telling the peer if it does not know yet. Never waits."""
        ending = b"" if self._gone else self._core.cancel() if cancel else self._core.close()
        self._gone = True
        self._say(ending)
        self._notify()

    def fail(self, code: int, text: str) -> None:
        """Server: end the call with an error. Never waits: an error that finds no room resets the stream."""
        self._say(self._core.error(code, text))

    @property
    def ended(self) -> bool:
        """The peer neither sends nor listens any more."""
        return self._gone

    @property
    def aborted(self) -> bool:
        """The peer did not just leave: it cancelled or reset the call, or broke a rule."""
        return self._aborted

    @property
    def error(self) -> CoderAgentError | None:
        """What broke the call; None as long as nothing did."""
        return self._error

    @property
    def idle(self) -> bool:
        """Nothing received waits to be taken, and nobody is waiting to take it."""
        return not self._inbox and not self._receiving

    async def wait_ended(self) -> None:
        """Return when the peer has left the call."""
        while not self._gone:
            await self._changed.wait()

    def on_data(self, data: bytes) -> None:
        """Bytes arrived on the yamux stream."""
        self._owed += len(data)
        try:
            for event in self._core.receive(data):
                self._on_event(event)
        except RemoteProtocolError as exc:
            self.on_broken(exc)
            self._session.reset(self._id)
            self._flush()
            return
        self._credit()
        self._notify()

    def on_end(self) -> None:
        """FIN: treated like Close, as stock peers close the byte stream when they are done with a call."""
        self._ended = self._gone = True
        self._notify()

    def on_broken(self, error: CoderAgentError) -> None:
        """The stream was reset, or the connection is gone."""
        if self._error is None and not self._ended:
            self._error = error
        self._ended = self._gone = self._aborted = True
        self._notify()

    def on_window(self) -> None:
        """There is room to send again."""
        self._notify()

    # ------------------------------------------------------------ details

    def _on_event(self, event: DrpcEvent) -> None:
        if isinstance(event, MessageReceived):
            self._inbox.append(event.data)
        elif isinstance(event, Invoked):
            self.rpc = event.rpc
        elif isinstance(event, SendClosed):
            self._ended = True
        else:
            if isinstance(event, Failed):
                self._error = RpcError(event.text or "the call failed", event.code)
            elif isinstance(event, Cancelled):
                self._error = TransportBroken(f"{self.rpc}: the other side gave up the call")
                self._aborted = True
            self._ended = self._gone = True

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def _credit(self) -> None:
        if self._owed and not self._inbox:
            self._session.consumed(self._id, self._owed)
            self._owed = 0
            self._flush()

    def _decode(self, data: bytes) -> M:
        if self._type is None:
            raise LocalProtocolError(f"{self.rpc}: no message type was set")
        message = self._type()
        try:
            message.ParseFromString(data)
        except DecodeError as exc:
            raise RemoteProtocolError(f"{self.rpc}: not a {self._type.__name__} message") from exc
        return message

    async def _write(self, data: bytes) -> None:
        view = memoryview(data)
        self._torn = True
        while view:
            if self._gone:
                raise self._error or TransportBroken(f"{self.rpc}: the other side has ended the call")
            if (full := self._room()) is not None:
                await full.wait()
                continue
            try:
                sent = self._session.send(self._id, view)
            except LocalProtocolError as exc:  # the stream is gone; on_broken may have heard why
                raise self._error or TransportBroken(f"{self.rpc}: the call is over") from exc
            self._flush()
            view = view[sent:]
            if view:
                await self._changed.wait()
        self._torn = False

    def _say(self, data: bytes) -> None:
        """Send the packet that ends the call, now or not at all: what finds no room resets the stream."""
        try:
            whole = not self._torn and (not data or self._session.send(self._id, data) == len(data))
        except LocalProtocolError:
            whole = True  # the stream is closed already
        if not whole:
            self._session.reset(self._id)
        self._flush()
