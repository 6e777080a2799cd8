"""A DERP client without I/O: login, then packets, pings and what the relay has to say.

    relay: ServerKey  →  us: ClientInfo (+ NotePreferred)  →  relay: ServerInfo  →  packets both ways

With fast start the login goes first (`know_server`).

Use: put received bytes into `room()` and iterate `received(count, now)`; then, and after every request, write what
`take_output()` has; packets go out as the memoryviews that `send` returns. Past `deadline()` the connection is dead.

Source: tailscale derp/derp_client.go @de9ec7ee
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from ...base.burst import Burst
from ...base.keys import KEY_SIZE, NodePrivate, NodePublic
from ...errors import LocalProtocolError, RemoteProtocolError
from . import frames
from .bucket import TokenBucket
from .frames import MAX_CLIENT_INFO_SIZE, NONCE_SIZE, PACKET_HEADER_SIZE, PING_SIZE, FrameType, GoneReason
from .login import ClientInfo, ServerInfo, client_info_frame, open_server_info, parse_server_key
from .runs import frame_burst
from .stream import Arena, ControlFrame, FrameStream, PacketRun

READ_TIMEOUT = 120.0
"""Seconds without any frame after which the relay is dead; it says something every 60 (derp_client.go, Recv)."""
LOGIN_TIMEOUT = 10.0
"""Seconds from the HTTP answer to ServerInfo; the budget upstream gives the whole dial (derphttp_client.go)."""

_LIMITS: dict[int, tuple[int, int]] = {
    FrameType.SERVER_KEY: (40, 1024),
    FrameType.SERVER_INFO: (NONCE_SIZE, MAX_CLIENT_INFO_SIZE),
    FrameType.KEEP_ALIVE: (0, MAX_CLIENT_INFO_SIZE),
    FrameType.PEER_GONE: (KEY_SIZE, 1024),
    FrameType.PEER_PRESENT: (KEY_SIZE, 1024),
    FrameType.PING: (PING_SIZE, frames.MAX_PING_SIZE),
    FrameType.PONG: (PING_SIZE, frames.MAX_PING_SIZE),
    FrameType.HEALTH: (0, 64 << 10),
    FrameType.RESTARTING: (8, 1024),
}
"""Upstream allows a ServerInfo of 1 MiB and a health text as long; stock relays send 53 bytes and none."""


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """The relay accepted us: the connection is up."""

    server: NodePublic
    info: ServerInfo


@dataclass(slots=True)
class PacketsReceived:
    """Packets from one peer. The burst is borrowed."""

    source: NodePublic
    burst: Burst


@dataclass(frozen=True, slots=True)
class PeerGone:
    """A peer we talked to is not (any more) connected to this relay."""

    peer: NodePublic
    reason: GoneReason


@dataclass(frozen=True, slots=True)
class HealthChanged:
    """The relay complains about our connection, or ("") no longer does."""

    problem: str


@dataclass(frozen=True, slots=True)
class ServerRestarting:
    """The relay is about to restart. Advice only. Units: seconds."""

    reconnect_in: float
    try_for: float


@dataclass(frozen=True, slots=True)
class PongReceived:
    """The relay answered a ping of ours."""

    opaque: bytes


ClientEvent = LoggedIn | PacketsReceived | PeerGone | HealthChanged | ServerRestarting | PongReceived


class ClientState(Enum):
    """How far the login is."""

    AWAIT_SERVER_KEY = "await-server-key"
    AWAIT_SERVER_INFO = "await-server-info"
    READY = "ready"


class DerpClient:
    """One connection to one relay. A new connection needs a new object."""

    def __init__(
        self,
        key: NodePrivate,
        *,
        rng: Callable[[int], bytes],
        now: float,
        app_name: str = "",
        arena: Arena | None = None,
    ) -> None:
        self._key = key
        self._rng = rng
        self._info = ClientInfo(can_ack_pings=True, app_name=app_name)
        self._stream = FrameStream(FrameType.RECV_PACKET, _LIMITS, strict=False, arena=arena)
        self._server: NodePublic | None = None
        self._output = bytearray()
        self._home: bool | None = None
        self._bucket: TokenBucket | None = None
        self._heard_at = now
        self._sources: dict[bytes, NodePublic] = {}
        self.state = ClientState.AWAIT_SERVER_KEY
        self.dropped_rate = 0

    @property
    def ready(self) -> bool:
        """True once ServerInfo has arrived."""
        return self.state is ClientState.READY

    @property
    def home(self) -> bool:
        """What `note_preferred` was told last."""
        return bool(self._home)

    @property
    def malformed(self) -> int:
        """Frames skipped because their size was wrong."""
        return self._stream.malformed

    def room(self) -> memoryview:
        """Where the next received bytes belong."""
        return self._stream.room()

    def received(self, count: int, now: float) -> Iterator[ClientEvent]:
        """What the `count` bytes put into `room()` mean. Raises RemoteProtocolError."""
        return self._events(self._stream.received(count), now)

    def feed(self, data: bytes | memoryview, now: float) -> Iterator[ClientEvent]:
        """`received` for bytes that came some other way."""
        return self._events(self._stream.feed(data), now)

    def take_output(self) -> bytes:
        """Login and answers to write, before any packet. Empty most of the time."""
        if not self._output:
            return b""
        output = bytes(self._output)
        self._output.clear()
        return output

    def know_server(self, key: NodePublic) -> None:
        """The relay's key is known from elsewhere (fast start): log in without waiting for it; it comes all the same,
        and is skipped."""
        if self.state is ClientState.AWAIT_SERVER_KEY:
            self._log_in(key)

    def note_preferred(self, home: bool) -> None:
        """Tell the relay whether it is our home: at once, or right behind the login. Says nothing twice."""
        known = bool(self._home)
        self._home = home
        if self.state is not ClientState.AWAIT_SERVER_KEY and home != known:
            self._output += frames.note_preferred(home)

    def ping(self, opaque: bytes) -> None:
        """Ask the relay for a sign of life: PongReceived with the same 8 bytes follows."""
        if len(opaque) != PING_SIZE:
            raise LocalProtocolError(f"a ping carries {PING_SIZE} bytes, not {len(opaque)}")
        self._output += frames.ping(opaque)

    def send(self, burst: Burst, destination: NodePublic, now: float) -> memoryview | None:
        """`burst` as frames for one write, built in its own headroom if it has 37 bytes of it.

        None: the relay's rate limit leaves room for nothing; `dropped_rate` counts what it cost, as upstream silently.
        """
        if self._bucket is not None:
            burst_or_none = self._limited(burst, now)
            if burst_or_none is None:
                return None
            burst = burst_or_none
        return frame_burst(burst, FrameType.SEND_PACKET, destination.raw)

    def deadline(self) -> float:
        """When the connection counts as dead unless something arrives."""
        return self._heard_at + (READ_TIMEOUT if self.ready else LOGIN_TIMEOUT)

    def _events(self, items: Iterator[ControlFrame | PacketRun], now: float) -> Iterator[ClientEvent]:
        for item in items:
            if isinstance(item, PacketRun):
                self._heard_at = now
                yield PacketsReceived(self._source(item.key), item.burst)
                continue
            event = self._control(item, now)
            self._heard_at = now
            if event is not None:
                yield event

    def _control(self, frame: ControlFrame, now: float) -> ClientEvent | None:
        payload = frame.payload
        match frame.kind:
            case FrameType.SERVER_KEY:
                self._login(payload)
            case FrameType.SERVER_INFO:
                return self._logged_in(payload, now)
            case FrameType.PEER_GONE:
                known = len(payload) > KEY_SIZE and payload[KEY_SIZE] == GoneReason.NOT_HERE
                reason = GoneReason.NOT_HERE if known else GoneReason.DISCONNECTED
                return PeerGone(NodePublic(payload[:KEY_SIZE]), reason)
            case FrameType.PING:
                self._output += frames.pong(payload)
            case FrameType.PONG:
                return PongReceived(payload[:PING_SIZE])
            case FrameType.HEALTH:
                return HealthChanged(payload.decode(errors="replace"))
            case FrameType.RESTARTING:
                reconnect_in, try_for = frames.parse_restarting(payload)
                return ServerRestarting(reconnect_in / 1000, try_for / 1000)
        return None

    def _login(self, payload: bytes) -> None:
        if self.state is not ClientState.AWAIT_SERVER_KEY:
            return  # unsolicited: skipped like an unknown type
        self._log_in(parse_server_key(payload))

    def _log_in(self, server: NodePublic) -> None:
        self._server = server
        self._output += client_info_frame(self._key, server, self._info, self._rng)
        if self._home:
            self._output += frames.note_preferred(True)
        self.state = ClientState.AWAIT_SERVER_INFO

    def _logged_in(self, payload: bytes, now: float) -> LoggedIn | None:
        if self._server is None:
            raise RemoteProtocolError("the relay sent ServerInfo before its key")
        if self.ready:
            return None
        info = open_server_info(self._key, self._server, payload)
        if info.bucket_rate and info.bucket_burst:
            self._bucket = TokenBucket(info.bucket_rate, info.bucket_burst, now)
        self.state = ClientState.READY
        return LoggedIn(self._server, info)

    def _source(self, raw: bytes) -> NodePublic:
        """Key objects are kept: making one per run would cost as much as finding the run."""
        key = self._sources.get(raw)
        if key is None:
            if len(self._sources) >= 4096:  # bounds what a relay that invents sources can make us hold
                self._sources.clear()
            key = self._sources[raw] = NodePublic(raw)
        return key

    def _limited(self, burst: Burst, now: float) -> Burst | None:
        assert self._bucket is not None
        size = PACKET_HEADER_SIZE + burst.length
        count = min(burst.count, self._bucket.allow(size, now))
        self.dropped_rate += burst.count - count
        if count == 0:
            return None
        self._bucket.take(size * count, now)
        last = burst.last if count == burst.count else burst.length
        return Burst(burst.buffer, burst.base, burst.stride, count, burst.length, last, burst.headroom)
