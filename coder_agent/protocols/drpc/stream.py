"""One remote call, either side, without I/O.

Every method that says something to the peer returns the bytes to write; `receive` returns what the peer said. What a
stock peer does: client writes Invoke, its message(s) and CloseSend; the server answers with message(s) and CloseSend,
or with Error; Close or Cancel from the client (or the end of the byte stream) means that it wants no more answers.

Source: storj/drpc drpcstream/stream.go, drpcserver/server.go, drpcwire/error.go.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import LocalProtocolError, RemoteProtocolError
from .frames import Kind, Packet, PacketReader, encode_packet

UNIMPLEMENTED = 12
"""Error code of an unknown RPC (drpcerr.Unimplemented): the caller falls back quietly."""
_CODE_SIZE = 8


@dataclass(frozen=True, slots=True)
class Invoked:
    """The client calls `rpc`, a path like ``/coder.tailnet.v2.Tailnet/Coordinate``."""

    rpc: str


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """One encoded message."""

    data: bytes


@dataclass(frozen=True, slots=True)
class SendClosed:
    """CloseSend: the peer sends no more, but still listens."""


@dataclass(frozen=True, slots=True)
class RemoteClosed:
    """Close: the peer neither sends nor listens any more."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Cancel: the peer gave up the call."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The call failed on the peer's side. `code` 0 = nothing special, 12 = no such RPC."""

    code: int
    text: str


DrpcEvent = Invoked | MessageReceived | SendClosed | RemoteClosed | Cancelled | Failed


class DrpcStream:
    """State of one call. `client` says which side we are."""

    def __init__(self, *, client: bool) -> None:
        self._client = client
        self._reader = PacketReader()
        self._stream_id = 1 if client else 0
        self._message_id = 0
        self._send_closed = False
        self._receive_closed = False
        self.terminated = False
        """Nothing more is sent or expected in either direction."""

    @property
    def pending_bytes(self) -> int:
        """Received bytes that do not make a message yet."""
        return self._reader.pending_bytes

    # ------------------------------------------------------------ saying

    def invoke(self, rpc: str) -> bytes:
        """Start the call (client)."""
        if not self._client or self._message_id:
            raise LocalProtocolError("dRPC: only a client invokes, and once")
        return self._packet(Kind.INVOKE, rpc.encode())

    def message(self, data: bytes) -> bytes:
        """One message. Raises LocalProtocolError after the end, or for more than 4 MiB."""
        if self._send_closed or self.terminated:
            raise LocalProtocolError("dRPC: the stream is closed for sending")
        return self._packet(Kind.MESSAGE, data)

    def close_send(self) -> bytes:
        """No more messages from us. Nothing if that was said already."""
        if self._send_closed or self.terminated:
            return b""
        self._send_closed = True
        self.terminated = self._receive_closed
        return self._packet(Kind.CLOSE_SEND)

    def close(self) -> bytes:
        """End the call in both directions. Nothing if it has ended already."""
        if self.terminated:
            return b""
        self.terminated = True
        return self._packet(Kind.CLOSE)

    def cancel(self) -> bytes:
        """Give up the call. The control bit lets peers that do not know the packet skip it."""
        if self.terminated:
            return b""
        self.terminated = True
        return self._packet(Kind.CANCEL, control=True)

    def error(self, code: int, text: str) -> bytes:
        """End the call with an error (server). Layout of the data: 8 B big-endian code ‖ text."""
        if self.terminated:
            return b""
        self.terminated = True
        return self._packet(Kind.ERROR, code.to_bytes(_CODE_SIZE, "big") + text.encode())

    def _packet(self, kind: Kind, data: bytes = b"", *, control: bool = False) -> bytes:
        self._message_id += 1
        return encode_packet(self._stream_id, self._message_id, kind, data, control=control)

    # ------------------------------------------------------------ hearing

    def receive(self, data: bytes) -> list[DrpcEvent]:
        """Take bytes from the peer. Raises RemoteProtocolError, which ends this call only."""
        events: list[DrpcEvent] = []
        for packet in self._reader.receive(data):
            if not self.terminated:
                self._receive_packet(packet, events)
        return events

    def _receive_packet(self, packet: Packet, events: list[DrpcEvent]) -> None:
        kind = packet.kind
        if kind == Kind.INVOKE_METADATA and not self._client and not self._stream_id:
            return  # tracing and the like, which we have no use for
        if kind == Kind.INVOKE and not self._client and not self._stream_id:
            self._stream_id = packet.stream_id
            events.append(Invoked(packet.data.decode("utf-8", "replace")))
            return
        if not self._stream_id or kind == Kind.INVOKE:
            raise RemoteProtocolError(f"dRPC: packet of kind {kind} out of order")
        if packet.stream_id != self._stream_id:
            raise RemoteProtocolError("dRPC: a second call on one byte stream")
        if kind == Kind.MESSAGE:
            if not self._receive_closed:
                events.append(MessageReceived(packet.data))
        elif kind == Kind.CLOSE_SEND:
            self._receive_closed = True
            self.terminated = self._send_closed
            events.append(SendClosed())
        elif kind in (Kind.CLOSE, Kind.CANCEL, Kind.ERROR):
            self.terminated = True
            events.append(_ending(packet))
        elif not packet.control:
            raise RemoteProtocolError(f"dRPC: unknown packet kind {kind}")


def _ending(packet: Packet) -> DrpcEvent:
    if packet.kind == Kind.CLOSE:
        return RemoteClosed()
    if packet.kind == Kind.CANCEL:
        return Cancelled()
    text = packet.data[_CODE_SIZE:].decode("utf-8", "replace")
    if len(packet.data) < _CODE_SIZE:
        return Failed(0, packet.data.decode("utf-8", "replace"))
    return Failed(int.from_bytes(packet.data[:_CODE_SIZE], "big"), text)
