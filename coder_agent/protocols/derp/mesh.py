"""One relay's link to another relay of its region, without I/O: it watches who is connected there and forwards to them.

    we: ClientInfo with the mesh key, our own relay key  →  WatchConns
    it: PeerPresent for every connection, now and later; PeerGone when a key's last connection goes
    we: ForwardPacket for what our clients send to its clients

Packets come back on the other relay's own link to us: this one only carries ours. Source: tailscale
derp/derphttp/mesh_client.go, cmd/derper/mesh.go @de9ec7ee
"""

from __future__ import annotations

from collections.abc import Callable

from ...base.burst import Burst
from ...base.keys import KEY_SIZE, NodePublic
from ...errors import RemoteProtocolError
from . import frames
from .client import LOGIN_TIMEOUT, READ_TIMEOUT
from .frames import MAX_CLIENT_INFO_SIZE, NONCE_SIZE, PING_SIZE, FrameType, PresentFlag
from .login import ClientInfo, client_info_frame, open_server_info, parse_server_key
from .outbox import Outbox, Wire
from .runs import is_disco
from .server import RelayCore
from .stream import ControlFrame, FrameStream, PacketRun

MAX_KEYS = 1_000_000
"""Clients of one other relay that we remember; a relay of that size does not exist."""

_LIMITS: dict[int, tuple[int, int]] = {
    FrameType.SERVER_KEY: (40, 1024),
    FrameType.SERVER_INFO: (NONCE_SIZE, MAX_CLIENT_INFO_SIZE),
    FrameType.KEEP_ALIVE: (0, MAX_CLIENT_INFO_SIZE),
    FrameType.PEER_GONE: (KEY_SIZE, 1024),
    FrameType.PEER_PRESENT: (KEY_SIZE, 1024),
    FrameType.PING: (PING_SIZE, frames.MAX_PING_SIZE),
}


class SelfConnected(RemoteProtocolError):
    """The other relay is this relay: a region's list of relays may name all of them on each."""


class MeshLink:
    """Give received bytes to `feed`; past `deadline` or after RemoteProtocolError close it. A `Forwarder`."""

    def __init__(self, relay: RelayCore, mesh_key: bytes, wire: Wire, now: float) -> None:
        self._relay = relay
        self._mesh_key = mesh_key
        self._stream = FrameStream(FrameType.RECV_PACKET, _LIMITS, strict=False)
        self._outbox = Outbox(wire, relay.drops)
        self._server: NodePublic | None = None
        self._keys: set[bytes] = set()
        self.is_up = False
        """ServerInfo came: the other relay accepted us."""
        self.deadline = now + LOGIN_TIMEOUT

    @property
    def keys(self) -> frozenset[bytes]:
        """Who is connected to the other relay."""
        return frozenset(self._keys)

    def feed(self, data: bytes, now: float) -> None:
        """Act on received bytes. Raises RemoteProtocolError: close the link."""
        for item in self._stream.feed(data):
            if isinstance(item, PacketRun):
                self._relay.drops["mesh_unexpected"] += item.burst.count  # nothing is addressed to a relay
            else:
                self._control(item)
            if self.is_up:
                self.deadline = now + READ_TIMEOUT

    def flush(self) -> None:
        """The wire takes more."""
        self._outbox.flush()

    def forward(self, source: bytes, destination: bytes, burst: Burst) -> None:
        """Packets of our client for one of theirs; what does not fit the bounded queue is dropped and counted."""
        size = 2 * KEY_SIZE + burst.length
        header = frames.header(FrameType.FORWARD_PACKET, size) + source + destination
        data = b"".join(part for row in burst.rows() for part in (header, row))
        disco = is_disco(burst)
        self._outbox.packets(memoryview(data), len(header) + burst.length, burst.count, disco)

    def close(self) -> None:
        """The link broke: forget everything that was learnt from it."""
        self._outbox.close()
        for key in self._keys:
            self._relay.remove_forwarder(key, self)
        self._keys.clear()
        self.is_up = False

    def _control(self, frame: ControlFrame) -> None:
        if self._server is None:
            if frame.kind != FrameType.SERVER_KEY:
                raise RemoteProtocolError(f"the relay began with frame type {frame.kind:#04x}")
            self._login(frame.payload)
        elif not self.is_up:
            if frame.kind == FrameType.SERVER_INFO:
                open_server_info(self._relay.key, self._server, frame.payload)
                self.is_up = True
        elif frame.kind == FrameType.PEER_PRESENT:
            key, _, flags = frames.parse_peer_present(frame.payload)
            if not flags & PresentFlag.MESH_PEER and len(self._keys) < MAX_KEYS:
                self._keys.add(key)
                self._relay.add_forwarder(key, self)
        elif frame.kind == FrameType.PEER_GONE:
            key = frame.payload[:KEY_SIZE]
            self._keys.discard(key)
            self._relay.remove_forwarder(key, self)
        elif frame.kind == FrameType.PING:
            self._outbox.control(frames.pong(frame.payload))

    def _login(self, payload: bytes) -> None:
        server = parse_server_key(payload)
        if server == self._relay.public:
            raise SelfConnected("the other relay is this relay")
        self._server = server
        info = ClientInfo(mesh_key=self._mesh_key, can_ack_pings=True)
        self._outbox.control(client_info_frame(self._relay.key, server, info, self._relay.rng))
        self._outbox.control(frames.frame(FrameType.WATCH_CONNS))


def reconnect_delay(rng: Callable[[int], bytes]) -> float:
    """Seconds until a broken link is dialled again: 5 (mesh_client.go, retryInterval), ± 20 % against lock-step."""
    return 4.0 + rng(1)[0] / 255 * 2.0
