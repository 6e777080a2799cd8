"""A yamux session without I/O: bytes in, events out, bytes to send collected for the shell.

The shell feeds `receive`, acts on the events, calls `take_output` and writes what it returns, and wakes up at
`deadline()` to call `on_timer`. Received data is handed over at once and not stored here: what bounds a receiver's
memory is the window, which only `consumed` reopens.

Source: hashicorp/yamux spec.md, session.go, stream.go (limits and time-outs from its DefaultConfig).
"""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import LocalProtocolError, RemoteProtocolError
from .frames import (
    HEADER_SIZE,
    INITIAL_WINDOW,
    MAX_UINT32,
    Flags,
    FrameType,
    GoAwayCode,
    Header,
    decode_header,
    encode_header,
)

MAX_PENDING_PONGS = 64
"""Ping replies that may wait to be written. A peer that pings on without reading would otherwise fill our memory."""
MAX_BACKLOG = 1024 * 1024
"""Bytes that may wait to be written when another frame of the peer's comes in. Our own data stays below 512 KiB (the
shell holds it back), so a peer that gets here causes answers (acknowledgements, refusals) and does not read them."""


@dataclass(frozen=True, slots=True)
class YamuxSettings:
    """Limits. Units: seconds, bytes.

    Ping every 30 s and give up after 10 s of silence (KeepAliveInterval, ConnectionWriteTimeout of hashicorp/yamux);
    256 streams opened by the peer at a time (AcceptBacklog); a stream whose peer never answers our FIN is reset after
    5 min (StreamCloseTimeout). `ping_interval` 0 = never.
    """

    window: int = INITIAL_WINDOW
    max_streams: int = 256
    ping_interval: float = 30.0
    ping_timeout: float = 10.0
    close_timeout: float = 300.0


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The peer opened a stream (already acknowledged)."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class DataReceived:
    """Bytes of a stream; call `consumed` when they are dealt with."""

    stream_id: int
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """FIN: the peer will send no more on this stream."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class StreamReset:
    """RST, or the stream was given up: it is gone in both directions."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class WindowOpened:
    """There is room to send on this stream."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class PongReceived:
    """The peer answered our ping after `rtt` seconds."""

    rtt: float


@dataclass(frozen=True, slots=True)
class GoneAway:
    """The peer will accept no more streams; with a code other than NORMAL it is about to hang up."""

    code: int


@dataclass(frozen=True, slots=True)
class PeerSilent:
    """No sign of life since a ping was sent: the connection is dead and should be closed."""

    seconds: float


YamuxEvent = (
    StreamOpened | DataReceived | StreamEnded | StreamReset | WindowOpened | PongReceived | GoneAway | PeerSilent
)


class _Stream:
    __slots__ = ("send_window", "recv_window", "owed", "local_closed", "remote_closed")

    def __init__(self, window: int) -> None:
        self.send_window = INITIAL_WINDOW
        self.recv_window = window
        self.owed = 0
        self.local_closed = False
        self.remote_closed = False


class YamuxSession:
    """Both roles of a session. The client's streams have odd ids, the server's even ones; id 0 is the session."""

    def __init__(self, *, client: bool, now: float, settings: YamuxSettings | None = None) -> None:
        self.settings = settings or YamuxSettings()
        if self.settings.window < INITIAL_WINDOW:
            raise ValueError(f"the window cannot be less than {INITIAL_WINDOW} bytes: peers send that much unasked")
        self._parity = 1 if client else 0
        self._next_id = 1 if client else 2
        self._streams: dict[int, _Stream] = {}
        self._inbound = 0
        self._closing: dict[int, float] = {}
        self._output: list[bytes] = []
        self._output_size = 0
        self._pending_pongs = 0
        self._header = bytearray()
        self._body_id = 0
        self._body_left = 0
        self._body_fin = False
        self._next_ping = now + self.settings.ping_interval
        self._ping_id = 0
        self._ping_sent: float | None = None
        self._heard = now
        self._local_away = False
        self.remote_away = False
        """The peer asked for no new streams."""
        self.refused_streams = 0
        """Streams of the peer's that were reset because of a limit."""

    # ------------------------------------------------------------ output

    @property
    def output_size(self) -> int:
        """Bytes waiting in `take_output`."""
        return self._output_size

    def take_output(self) -> bytes:
        """Everything to be written to the peer now, in order."""
        out = b"".join(self._output)
        self._output.clear()
        self._output_size = 0
        self._pending_pongs = 0
        return out

    def _emit(self, kind: FrameType, flags: int, stream_id: int, length: int, body: bytes | memoryview = b"") -> None:
        self._output.append(encode_header(kind, flags, stream_id, length))
        if body:
            self._output.append(bytes(body))
        self._output_size += HEADER_SIZE + len(body)

    # ------------------------------------------------------------ our streams

    def open(self) -> int:
        """Open a stream and return its id. Raises LocalProtocolError if either side has said go-away."""
        if self.remote_away or self._local_away:
            raise LocalProtocolError("yamux: the session is going away, no new streams")
        if self._next_id > MAX_UINT32:
            raise LocalProtocolError("yamux: stream ids are used up")
        stream_id = self._next_id
        self._next_id += 2
        self._streams[stream_id] = _Stream(self.settings.window)
        self._emit(FrameType.WINDOW_UPDATE, Flags.SYN, stream_id, self.settings.window - INITIAL_WINDOW)
        return stream_id

    def send(self, stream_id: int, data: bytes | memoryview) -> int:
        """Queue as much of `data` as the peer's window allows; returns how much that was (0: wait for WindowOpened).

        Raises LocalProtocolError on a stream that we closed or that is gone.
        """
        stream = self._streams.get(stream_id)
        if stream is None or stream.local_closed:
            raise LocalProtocolError(f"yamux: stream {stream_id} is closed for sending")
        size = min(len(data), stream.send_window)
        if size:
            stream.send_window -= size
            self._emit(FrameType.DATA, 0, stream_id, size, memoryview(data)[:size])
        return size

    def consumed(self, stream_id: int, size: int) -> None:
        """`size` received bytes are dealt with. Reopens the peer's window once half of it is owed."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.remote_closed:
            return
        stream.owed += size
        if stream.owed >= self.settings.window // 2:
            stream.recv_window += stream.owed
            self._emit(FrameType.WINDOW_UPDATE, 0, stream_id, stream.owed)
            stream.owed = 0

    def close(self, stream_id: int, now: float) -> None:
        """Send FIN: we send no more; data may still arrive. Harmless on a closed stream."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.local_closed:
            return
        stream.local_closed = True
        self._emit(FrameType.WINDOW_UPDATE, Flags.FIN, stream_id, 0)
        if stream.remote_closed:
            self._forget(stream_id)
        else:
            self._closing[stream_id] = now + self.settings.close_timeout

    def reset(self, stream_id: int) -> None:
        """Send RST and forget the stream. Harmless on a closed stream."""
        if stream_id in self._streams:
            self._emit(FrameType.WINDOW_UPDATE, Flags.RST, stream_id, 0)
            self._forget(stream_id)

    def go_away(self, code: GoAwayCode = GoAwayCode.NORMAL) -> None:
        """Refuse new streams from now on and tell the peer why."""
        self._local_away = True
        self._emit(FrameType.GO_AWAY, 0, 0, code)

    @property
    def stream_count(self) -> int:
        """Streams that live in at least one direction."""
        return len(self._streams)

    def _forget(self, stream_id: int) -> None:
        if self._streams.pop(stream_id, None) is not None and stream_id & 1 != self._parity:
            self._inbound -= 1
        self._closing.pop(stream_id, None)

    # ------------------------------------------------------------ time

    def deadline(self) -> float | None:
        """When `on_timer` should be called next."""
        due = [next(iter(self._closing.values()))] if self._closing else []
        if self._ping_sent is not None:
            due.append(max(self._ping_sent, self._heard) + self.settings.ping_timeout)
        elif self.settings.ping_interval > 0:
            due.append(self._next_ping)
        return min(due, default=None)

    def on_timer(self, now: float) -> list[YamuxEvent]:
        """Send a ping when one is due, give up silent peers and streams that never close."""
        events: list[YamuxEvent] = []
        while self._closing:
            stream_id, due = next(iter(self._closing.items()))
            if due > now:
                break
            self.reset(stream_id)
            events.append(StreamReset(stream_id))
        if self._ping_sent is not None:
            silent = now - max(self._ping_sent, self._heard)
            if silent >= self.settings.ping_timeout:
                events.append(PeerSilent(silent))
        elif self.settings.ping_interval > 0 and self._next_ping <= now:
            self.ping(now)
        return events

    def ping(self, now: float) -> None:
        """Ask for a sign of life now (unless an answer is still due)."""
        if self._ping_sent is None:
            self._ping_sent = now
            self._ping_id = (self._ping_id + 1) & MAX_UINT32
            self._emit(FrameType.PING, Flags.SYN, 0, self._ping_id)

    # ------------------------------------------------------------ input

    def receive(self, data: bytes, now: float) -> list[YamuxEvent]:
        """Take bytes from the peer, however they were cut.

        Raises RemoteProtocolError when the peer broke the rules; a go-away with the matching code is then in
        `take_output`, and the connection should be closed after writing it.
        """
        self._heard = now
        events: list[YamuxEvent] = []
        view = memoryview(data)
        offset = 0
        try:
            while offset < len(view) or (self._body_id and not self._body_left):
                if self._body_id:
                    offset += self._receive_body(view[offset:], events)
                    continue
                missing = HEADER_SIZE - len(self._header)
                self._header += view[offset : offset + missing]
                offset += missing
                if len(self._header) == HEADER_SIZE:
                    header = decode_header(self._header)
                    self._header.clear()
                    self._receive_header(header, now, events)
        except RemoteProtocolError:
            self.go_away(GoAwayCode.PROTOCOL_ERROR)
            raise
        return events

    def _receive_body(self, view: memoryview, events: list[YamuxEvent]) -> int:
        chunk = bytes(view[: self._body_left])
        self._body_left -= len(chunk)
        stream_id = self._body_id
        stream = self._streams.get(stream_id)
        if chunk and stream is not None and not stream.remote_closed:
            events.append(DataReceived(stream_id, chunk))
        if not self._body_left:
            self._body_id = 0
            if self._body_fin:
                self._fin(stream_id, events)
        return len(chunk)

    def _receive_header(self, header: Header, now: float, events: list[YamuxEvent]) -> None:
        if self._output_size > MAX_BACKLOG:
            raise RemoteProtocolError("yamux: the peer does not read our answers")
        if header.type is FrameType.PING:
            self._receive_ping(header, now, events)
        elif header.type is FrameType.GO_AWAY:
            self.remote_away = True
            events.append(GoneAway(header.length))
        else:
            self._receive_stream_header(header, events)

    def _receive_ping(self, header: Header, now: float, events: list[YamuxEvent]) -> None:
        if header.flags & Flags.SYN:
            self._pending_pongs += 1
            if self._pending_pongs > MAX_PENDING_PONGS:
                raise RemoteProtocolError(f"yamux: {MAX_PENDING_PONGS} pings without reading one answer")
            self._emit(FrameType.PING, Flags.ACK, 0, header.length)
        elif self._ping_sent is not None and header.length == self._ping_id:
            events.append(PongReceived(now - self._ping_sent))
            self._next_ping = self._ping_sent + self.settings.ping_interval
            self._ping_sent = None

    def _receive_stream_header(self, header: Header, events: list[YamuxEvent]) -> None:
        stream_id = header.stream_id
        if header.flags & Flags.SYN:
            self._syn(stream_id, events)
        stream = self._streams.get(stream_id)
        is_data = header.type is FrameType.DATA
        if header.flags & Flags.RST:
            if stream is not None:
                self._forget(stream_id)
                events.append(StreamReset(stream_id))
        elif stream is not None and is_data and not stream.remote_closed:
            if header.length > stream.recv_window:
                raise RemoteProtocolError(f"yamux: stream {stream_id} was sent more than its window")
            stream.recv_window -= header.length
        elif stream is not None and not is_data and header.length:
            stream.send_window += header.length
            if stream.send_window > MAX_UINT32:
                raise RemoteProtocolError(f"yamux: the window of stream {stream_id} overflows")
            events.append(WindowOpened(stream_id))
        if is_data:
            # Data for a stream that we have reset is still on its way: read over it.
            if stream_id == 0:
                raise RemoteProtocolError("yamux: data on stream 0")
            self._body_id, self._body_left = stream_id, header.length
            self._body_fin = bool(header.flags & Flags.FIN)
        elif header.flags & Flags.FIN:
            self._fin(stream_id, events)

    def _syn(self, stream_id: int, events: list[YamuxEvent]) -> None:
        if stream_id == 0 or stream_id & 1 == self._parity:
            raise RemoteProtocolError(f"yamux: the peer opened stream {stream_id}, whose number is not its own")
        if stream_id in self._streams:
            raise RemoteProtocolError(f"yamux: stream {stream_id} was opened twice")
        if self._local_away or self._inbound >= self.settings.max_streams:
            self.refused_streams += 1
            self._emit(FrameType.WINDOW_UPDATE, Flags.RST, stream_id, 0)
            return
        self._streams[stream_id] = _Stream(self.settings.window)
        self._inbound += 1
        self._emit(FrameType.WINDOW_UPDATE, Flags.ACK, stream_id, self.settings.window - INITIAL_WINDOW)
        events.append(StreamOpened(stream_id))

    def _fin(self, stream_id: int, events: list[YamuxEvent]) -> None:
        stream = self._streams.get(stream_id)
        if stream is None or stream.remote_closed:
            return
        stream.remote_closed = True
        events.append(StreamEnded(stream_id))
        if stream.local_closed:
            self._forget(stream_id)
