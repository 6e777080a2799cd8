"""One connection of a relay: its login, then its frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

from ...base.addresses import AddrPort
from ...base.burst import Burst
from ...base.keys import KEY_SIZE, NodePrivate, NodePublic
from ...errors import RemoteProtocolError
from . import frames
from .bucket import TokenBucket
from .frames import (
    MAX_CLIENT_INFO_SIZE,
    MAX_PACKET_SIZE,
    MAX_PING_SIZE,
    NONCE_SIZE,
    PACKET_HEADER_SIZE,
    PING_SIZE,
    FrameType,
    GoneReason,
    PresentFlag,
)
from .login import ClientInfo, ServerInfo, open_client_info, server_info_frame
from .outbox import Outbox, Wire
from .registry import Registry
from .runs import DISCO_MAGIC, DISCO_MIN_SIZE, fill_headers, is_disco
from .stream import Arena, ControlFrame, FrameStream, PacketRun

NOT_HERE_RATE = 1
NOT_HERE_BURST = 3
"""PeerGone(NotHere) per second and at once, per sending connection (derpserver.go, peerGoneLim)."""
MAX_HELD = 16
"""Control frames that a client may send while it is not decided whether it is admitted. Ours: clients send one or two
(NotePreferred, WatchConns) before they wait for ServerInfo."""
MIN_RATE_BURST = KEY_SIZE + MAX_PACKET_SIZE
"""65568: a smaller burst could never let the largest frame through (derpserver.go, rate limit)."""

_LIMITS: dict[int, tuple[int, int]] = {
    FrameType.CLIENT_INFO: (KEY_SIZE + NONCE_SIZE, MAX_CLIENT_INFO_SIZE),
    FrameType.NOTE_PREFERRED: (1, 1),
    FrameType.WATCH_CONNS: (0, 0),
    FrameType.CLOSE_PEER: (KEY_SIZE, KEY_SIZE),
    FrameType.PING: (PING_SIZE, MAX_PING_SIZE),
    FrameType.FORWARD_PACKET: (2 * KEY_SIZE, 2 * KEY_SIZE + MAX_PACKET_SIZE),
}


class Relay(Protocol):
    """What a session needs of its relay (`server.RelayCore`)."""

    key: NodePrivate
    rng: Callable[[int], bytes]
    registry: Registry[RelaySession]
    drops: Counter[str]
    counters: Counter[str]

    def may_enter(self, key: NodePublic, info: ClientInfo, remote: AddrPort | None) -> bool | None: ...
    def undecided(self, session: RelaySession, key: NodePublic, info: ClientInfo) -> None: ...
    def server_info(self) -> ServerInfo: ...
    def rate_limit(self) -> tuple[int, int]: ...
    def is_mesh_peer(self, info: ClientInfo) -> bool: ...
    def entered(self, session: RelaySession, key: bytes, now: float) -> None: ...
    def left(self, session: RelaySession) -> None: ...
    def forward(self, source: bytes, destination: bytes, burst: Burst) -> bool: ...
    def watch_all(self, session: RelaySession) -> None: ...
    def close_peer(self, key: bytes) -> None: ...


class RelaySession:
    """One client's connection. Put bytes into `room()`, call `received`; on RemoteProtocolError or end, `close`."""

    def __init__(self, relay: Relay, wire: Wire, remote: AddrPort | None, deadline: float, arena: Arena | None) -> None:
        self._relay = relay
        self._wire = wire
        self._stream = FrameStream(FrameType.SEND_PACKET, _LIMITS, strict=True, arena=arena)
        self.remote = remote
        self.outbox = Outbox(wire, relay.drops)
        self.deadline = deadline
        """When the login must be over; after it, when the next keepalive is due."""
        self.key: bytes | None = None
        self.info = ClientInfo()
        self.home = False
        self.mesh_peer = False
        self.heard: set[bytes] = set()
        """Keys whose packets this client has received, and of whose going it will hear."""
        self._undecided: tuple[NodePublic, ClientInfo] | None = None
        self._held: list[ControlFrame] = []
        self._header = b""
        self._bucket: TokenBucket | None = None
        self._not_here = TokenBucket(NOT_HERE_RATE, NOT_HERE_BURST, 0.0)

    @property
    def present_flags(self) -> PresentFlag:
        """What mesh peers are told about this client."""
        flags = PresentFlag(0)
        if self.mesh_peer:
            flags |= PresentFlag.MESH_PEER
        if self.info.is_prober:
            flags |= PresentFlag.PROBER
        return flags or PresentFlag.REGULAR

    def room(self) -> memoryview:
        """Where the next received bytes belong."""
        return self._stream.room()

    def received(self, count: int, now: float) -> float:
        """Act on the `count` bytes put into `room()`. The answer is for how many seconds not to read from this client
        (0.0 unless it exceeds its rate limit). Raises RemoteProtocolError: close it.
        """
        if self.key is not None and self._relay.registry.duplicates:
            self._relay.registry.touch(self.key, self)
        bucket = self._bucket  # not yet there for the login itself
        for item in self._stream.received(count):
            if isinstance(item, PacketRun):
                self._forward(item, now)
            else:
                self._control(item, now)
        return bucket.take(count, now) if bucket is not None else 0.0

    def feed(self, data: bytes, now: float) -> float:
        """`received` for bytes that came some other way."""
        pause = 0.0
        view = memoryview(data)
        while view:
            room = self.room()
            count = min(len(room), len(view))
            room[:count] = view[:count]
            pause = max(pause, self.received(count, now))
            view = view[count:]
        return pause

    def keep_alive(self) -> None:
        """Say something, unless something is waiting to be said anyway."""
        if not self.outbox.waiting_bytes:
            self.outbox.control(frames.keep_alive())

    def close(self) -> None:
        """Leave the relay and close the connection. Idempotent."""
        self._undecided = None
        self._relay.left(self)
        self._wire.close()

    def _forward(self, run: PacketRun, now: float) -> None:
        """Turn a run of SendPackets into RecvPackets where it lies, and hand it to its destination."""
        relay, burst = self._relay, run.burst
        if self.key is None:
            if self._undecided is None:
                raise RemoteProtocolError("the client sent a packet before its login")
            relay.drops["not_admitted_yet"] += burst.count
            return
        relay.counters["frames_received"] += burst.count
        target = relay.registry.active(run.key)
        disco = is_disco(burst)
        if target is None:
            if relay.forward(self.key, run.key, burst):
                return
            relay.drops["unknown_dest"] += burst.count
            if disco:
                self._say_not_here(run.key, now)
            return
        start, stride = run.start, burst.stride
        fill_headers(burst.buffer, start, stride, burst.count, self._header_for(burst))
        target.deliver(self.key, burst.buffer[start : run.end], stride, burst.count, disco)

    def deliver(self, source: bytes, data: memoryview, stride: int, count: int, disco: bool) -> None:
        """RecvPacket frames from `source` for this client. `data` is borrowed."""
        if source not in self.heard:
            self.heard.add(source)
            self._relay.registry.watch(source, self)
        self.outbox.packets(data, stride, count, disco)

    def _header_for(self, burst: Burst) -> bytes:
        """Type, length and our key; kept, because the next run most likely has the same size."""
        size = burst.length + KEY_SIZE
        if self._header[1:5] != size.to_bytes(4, "big"):
            assert self.key is not None
            self._header = frames.packet_header(FrameType.RECV_PACKET, self.key, burst.length)
        return self._header

    def _say_not_here(self, key: bytes, now: float) -> None:
        """Only disco senders are told: they decide about paths, WireGuard has timers of its own."""
        if self._not_here.allow(1, now):
            self._not_here.take(1, now)
            self.outbox.control(frames.peer_gone(key, GoneReason.NOT_HERE))

    def _control(self, frame: ControlFrame, now: float) -> None:
        if self._undecided is not None:
            if len(self._held) >= MAX_HELD:
                raise RemoteProtocolError("the client does not wait for its admission")
            self._held.append(frame)
            return
        if self.key is None:
            if frame.kind != FrameType.CLIENT_INFO:
                raise RemoteProtocolError(f"the client sent frame type {frame.kind:#04x} before its login")
            self._login(frame.payload, now)
            return
        match frame.kind:
            case FrameType.NOTE_PREFERRED:
                self.home = frame.payload != b"\x00"
            case FrameType.PING:
                if not self.outbox.waiting_bytes:  # one pong at a time: a client that does not read gets no more
                    self.outbox.control(frames.pong(frame.payload))
            case FrameType.WATCH_CONNS | FrameType.CLOSE_PEER | FrameType.FORWARD_PACKET:
                self._mesh(frame)

    def _login(self, payload: bytes, now: float) -> None:
        relay = self._relay
        key, info = open_client_info(relay.key, payload)
        allowed = relay.may_enter(key, info, self.remote)
        if allowed is None:
            self._undecided = (key, info)
            relay.undecided(self, key, info)
        elif not allowed:
            relay.counters["refused_admission"] += 1
            raise RemoteProtocolError("the client is not admitted to this relay")
        else:
            self._enter(key, info, now)

    def decide(self, allowed: bool, now: float) -> None:
        """Somebody else was asked whether this client is welcome (`Relay.undecided`), and this is the answer."""
        if self._undecided is None:
            return  # the client left meanwhile
        (key, info), self._undecided = self._undecided, None
        if not allowed:
            self._relay.counters["refused_admission"] += 1
            self.close()
            return
        self._enter(key, info, now)
        held, self._held = self._held, []
        try:
            for frame in held:
                self._control(frame, now)
        except RemoteProtocolError:
            self._relay.counters["protocol_errors"] += 1
            self.close()

    def _enter(self, key: NodePublic, info: ClientInfo, now: float) -> None:
        relay = self._relay
        self.info = info
        self.mesh_peer = relay.is_mesh_peer(info)
        rate, burst = relay.rate_limit()
        if rate and not self.mesh_peer:
            self._bucket = TokenBucket(rate, max(burst, MIN_RATE_BURST), now)
        self.key = key.raw
        relay.entered(self, key.raw, now)
        self.outbox.control(server_info_frame(relay.key, key, relay.server_info(), relay.rng))

    def _mesh(self, frame: ControlFrame) -> None:
        """What only relays of the same region may ask for."""
        if not self.mesh_peer:
            raise RemoteProtocolError("insufficient permissions: this frame is for mesh peers")
        payload = frame.payload
        match frame.kind:
            case FrameType.WATCH_CONNS:
                self._relay.watch_all(self)
            case FrameType.CLOSE_PEER:
                self._relay.close_peer(payload)
            case _:
                self._deliver_forwarded(payload)

    def _deliver_forwarded(self, payload: bytes) -> None:
        """A packet that another relay of the region took for a client of ours. It is never forwarded again."""
        source, destination, data = payload[:KEY_SIZE], payload[KEY_SIZE : 2 * KEY_SIZE], payload[2 * KEY_SIZE :]
        target = self._relay.registry.active(destination)
        if target is None:
            self._relay.drops["unknown_dest_on_fwd"] += 1
            return
        packet = frames.recv_packet(source, data)
        disco = len(data) >= DISCO_MIN_SIZE and data.startswith(DISCO_MAGIC)
        target.outbox.packets(memoryview(packet), PACKET_HEADER_SIZE + len(data), 1, disco)
