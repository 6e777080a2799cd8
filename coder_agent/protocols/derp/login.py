"""The two boxed JSON documents of a DERP login, ClientInfo and ServerInfo.

Both are NaCl boxes (X25519, XSalsa20-Poly1305) with a random 24-byte nonce in front, between the client's node key and
the relay's own key; they prove to each side that the other owns its key. Nothing after them is encrypted by DERP.

Source: tailscale derp/derp_client.go sendClientKey, derpserver/derpserver.go recvClientKey @de9ec7ee
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass

from nacl.bindings import crypto_box, crypto_box_open
from nacl.exceptions import CryptoError

from ...base.keys import KEY_SIZE, NodePrivate, NodePublic
from ...errors import RemoteProtocolError
from .frames import MAGIC, NONCE_SIZE, PROTOCOL_VERSION, FrameType, frame

MESH_KEY_SIZE = 32
_BOX_OVERHEAD = 16


@dataclass(frozen=True, slots=True)
class ClientInfo:
    """What a client says about itself. `mesh_key` (32 bytes) makes it a mesh peer if it is the relay's own."""

    version: int = PROTOCOL_VERSION
    mesh_key: bytes | None = None
    can_ack_pings: bool = False
    is_prober: bool = False
    app_name: str = ""

    def to_json(self) -> bytes:
        """In Go's field order. An absent mesh key is left out: relays refuse an empty one."""
        document: dict[str, object] = {}
        if self.mesh_key is not None:
            document["meshKey"] = self.mesh_key.hex()
        document["version"] = self.version
        document["CanAckPings"] = self.can_ack_pings
        if self.is_prober:
            document["IsProber"] = True
        if self.app_name:
            document["AppName"] = self.app_name
        return json.dumps(document, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, text: bytes) -> ClientInfo:
        """Read it as Go does: names in any case, unknown ones ignored. Raises RemoteProtocolError."""
        fields = _object(text)
        return cls(
            version=_integer(fields, "version"),
            mesh_key=_mesh_key(fields.get("meshkey")),
            can_ack_pings=_flag(fields, "canackpings"),
            is_prober=_flag(fields, "isprober"),
            app_name=_text(fields, "appname"),
        )


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a relay says about itself. A rate other than 0 asks the client to limit itself (`client.TokenBucket`).

    Units: bytes per second, bytes.
    """

    version: int = PROTOCOL_VERSION
    bucket_rate: int = 0
    bucket_burst: int = 0

    def to_json(self) -> bytes:
        """In Go's field order; zero values are left out, but for the version."""
        document: dict[str, object] = {"version": self.version}
        if self.bucket_rate:
            document["TokenBucketBytesPerSecond"] = self.bucket_rate
        if self.bucket_burst:
            document["TokenBucketBytesBurst"] = self.bucket_burst
        return json.dumps(document, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, text: bytes) -> ServerInfo:
        """Read it as Go does. Raises RemoteProtocolError."""
        fields = _object(text)
        return cls(
            version=_integer(fields, "version"),
            bucket_rate=max(0, _integer(fields, "tokenbucketbytespersecond")),
            bucket_burst=max(0, _integer(fields, "tokenbucketbytesburst")),
        )


def parse_server_key(payload: bytes) -> NodePublic:
    """The relay's key from a ServerKey payload; a tail is allowed. Raises RemoteProtocolError."""
    if len(payload) < len(MAGIC) + KEY_SIZE or payload[: len(MAGIC)] != MAGIC:
        raise RemoteProtocolError("this is not a DERP relay: its first frame does not carry the DERP magic")
    key = NodePublic(bytes(payload[len(MAGIC) : len(MAGIC) + KEY_SIZE]))
    if key.is_zero:
        raise RemoteProtocolError("the relay's key is all zero")
    return key


def client_info_frame(private: NodePrivate, server: NodePublic, info: ClientInfo, rng: Callable[[int], bytes]) -> bytes:
    """The client's login frame: key 32 ‖ nonce 24 ‖ box."""
    nonce = rng(NONCE_SIZE)
    box = crypto_box(info.to_json(), nonce, server.raw, private.secret)
    return frame(FrameType.CLIENT_INFO, private.public().raw + nonce + box)


def open_client_info(private: NodePrivate, payload: bytes) -> tuple[NodePublic, ClientInfo]:
    """Who logs in, proven by the box, and what it says. Raises RemoteProtocolError."""
    key = NodePublic(bytes(payload[:KEY_SIZE])) if len(payload) >= KEY_SIZE + NONCE_SIZE + _BOX_OVERHEAD else None
    if key is None or key.is_zero:
        raise RemoteProtocolError("the client's login is too short or its key is all zero")
    nonce, box = bytes(payload[KEY_SIZE : KEY_SIZE + NONCE_SIZE]), bytes(payload[KEY_SIZE + NONCE_SIZE :])
    return key, ClientInfo.from_json(_open(box, nonce, key, private))


def server_info_frame(private: NodePrivate, client: NodePublic, info: ServerInfo, rng: Callable[[int], bytes]) -> bytes:
    """The relay's answer: nonce 24 ‖ box."""
    nonce = rng(NONCE_SIZE)
    return frame(FrameType.SERVER_INFO, nonce + crypto_box(info.to_json(), nonce, client.raw, private.secret))


def open_server_info(private: NodePrivate, server: NodePublic, payload: bytes) -> ServerInfo:
    """What the relay says, proven by the box. Raises RemoteProtocolError."""
    if len(payload) < NONCE_SIZE + _BOX_OVERHEAD:
        raise RemoteProtocolError("the relay's ServerInfo is too short")
    nonce, box = bytes(payload[:NONCE_SIZE]), bytes(payload[NONCE_SIZE:])
    return ServerInfo.from_json(_open(box, nonce, server, private))


def same_mesh_key(ours: bytes | None, theirs: bytes | None) -> bool:
    """True if both exist and are equal; takes the same time for every wrong key."""
    return ours is not None and theirs is not None and hmac.compare_digest(ours, theirs)


def _open(box: bytes, nonce: bytes, peer: NodePublic, private: NodePrivate) -> bytes:
    try:
        return crypto_box_open(box, nonce, peer.raw, private.secret)
    except (CryptoError, ValueError, TypeError) as exc:
        raise RemoteProtocolError("a login box does not open with the sender's key") from exc


def _object(text: bytes) -> dict[str, object]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise RemoteProtocolError("a login document is not JSON") from exc
    if not isinstance(document, dict):
        raise RemoteProtocolError("a login document is not a JSON object")
    return {str(name).lower(): value for name, value in document.items()}


def _integer(fields: dict[str, object], name: str) -> int:
    value = fields.get(name)
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool):
        raise RemoteProtocolError(f"login field {name} is not a whole number")
    return value


def _flag(fields: dict[str, object], name: str) -> bool:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise RemoteProtocolError(f"login field {name} is not true or false")
    return bool(value)


def _text(fields: dict[str, object], name: str) -> str:
    value = fields.get(name, "")
    if value is not None and not isinstance(value, str):
        raise RemoteProtocolError(f"login field {name} is not a string")
    return value or ""


def _mesh_key(value: object) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, str) and len(value) == 2 * MESH_KEY_SIZE:
        try:
            return bytes.fromhex(value)
        except ValueError:
            pass
    raise RemoteProtocolError("the mesh key is not 64 hex digits")
