"""The handshake Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s as named states.

    initiator:  create_initiation() ──▶ InitiationCreated ──consume(response)──▶ TransportKeys
    responder:  read_initiation() ──▶ InitiationRead ──authenticate()──▶ InitiationConsumed ──respond()──▶ TransportKeys

A state never changes: a failed step raises HandshakeRefused and leaves the state as it was, so a forged response
cannot spoil the real one that follows. Python cannot wipe memory; keys live as long as their state object does.

Source: the WireGuard paper §5.4.2–5.4.5; wireguard-go device/noise-protocol.go.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from . import primitives as crypto
from .messages import Initiation, Response

CONSTRUCTION = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
IDENTIFIER = b"WireGuard v1 zx2c4 Jason@zx2c4.com"
NO_PSK = bytes(32)

_CHAIN_0 = crypto.blake2s(CONSTRUCTION)
_HASH_0 = crypto.blake2s(_CHAIN_0, IDENTIFIER)


@dataclass(frozen=True, slots=True)
class TransportKeys:
    """What a handshake is for: one key per direction."""

    send: bytes = field(repr=False)
    receive: bytes = field(repr=False)


class Identity:
    """Our static key pair, ready for use."""

    __slots__ = ("private", "public")

    def __init__(self, raw: bytes) -> None:
        self.private = raw
        self.public = crypto.public_bytes(self.private)


class _Transcript:
    """Chaining key C and hash H of the paper; copied before every step that may fail."""

    __slots__ = ("chain", "hash")

    def __init__(self, chain: bytes, hashed: bytes) -> None:
        self.chain = chain
        self.hash = hashed

    def copy(self) -> _Transcript:
        return _Transcript(self.chain, self.hash)

    def mix_hash(self, data: bytes) -> None:
        self.hash = crypto.blake2s(self.hash, data)

    def mix_ephemeral(self, public: bytes) -> None:
        self.mix_chain(public)
        self.mix_hash(public)

    def mix_chain(self, data: bytes) -> None:
        (self.chain,) = crypto.kdf(self.chain, data, 1)

    def mix_key(self, data: bytes) -> bytes:
        self.chain, key = crypto.kdf(self.chain, data, 2)
        return key

    def mix_psk(self, psk: bytes) -> bytes:
        self.chain, tau, key = crypto.kdf(self.chain, psk, 3)
        self.mix_hash(tau)
        return key

    def seal(self, key: bytes, plaintext: bytes) -> bytes:
        sealed = crypto.seal_once(key, plaintext, self.hash)
        self.mix_hash(sealed)
        return sealed

    def open(self, key: bytes, sealed: bytes) -> bytes:
        plaintext = crypto.open_once(key, sealed, self.hash)
        self.mix_hash(sealed)
        return plaintext

    def split(self) -> list[bytes]:
        return crypto.kdf(self.chain, b"", 2)


def _begin(responder: bytes) -> _Transcript:
    return _Transcript(_CHAIN_0, crypto.blake2s(_HASH_0, responder))


# ---------------------------------------------------------------- initiator


@dataclass(frozen=True, slots=True)
class InitiationCreated:
    """Initiator, message 1 sent: waits for message 2."""

    index: int
    identity: Identity = field(repr=False)
    ephemeral: bytes = field(repr=False)
    transcript: _Transcript = field(repr=False)

    def consume(self, response: Response, psk: bytes) -> TransportKeys:
        """Check message 2 and derive the keys. Raises HandshakeRefused."""
        t = self.transcript.copy()
        t.mix_ephemeral(response.ephemeral)
        t.mix_chain(crypto.shared_secret(self.ephemeral, response.ephemeral))
        t.mix_chain(crypto.shared_secret(self.identity.private, response.ephemeral))
        t.open(t.mix_psk(psk), response.empty)
        send, receive = t.split()
        return TransportKeys(send, receive)


def create_initiation(
    identity: Identity, remote: bytes, static_static: bytes, ephemeral: bytes, index: int, stamp: bytes
) -> tuple[Initiation, InitiationCreated]:
    """Message 1 to the node with public key `remote`. `static_static` is DH of both static keys (constant per peer).

    Raises HandshakeRefused if `remote` is a low-order point.
    """
    public = crypto.public_bytes(ephemeral)
    t = _begin(remote)
    t.mix_ephemeral(public)
    static = t.seal(t.mix_key(crypto.shared_secret(ephemeral, remote)), identity.public)
    timestamp = t.seal(t.mix_key(static_static), stamp)
    return Initiation(index, public, static, timestamp), InitiationCreated(index, identity, ephemeral, t)


# ---------------------------------------------------------------- responder


@dataclass(frozen=True, slots=True)
class InitiationRead:
    """Responder, message 1 opened as far as anybody's claim goes: `static` says who it is, nothing proves it yet."""

    static: bytes
    message: Initiation
    transcript: _Transcript = field(repr=False)

    def authenticate(self, static_static: bytes) -> InitiationConsumed:
        """Open the time stamp, which only the owner of `static` could seal. Raises HandshakeRefused."""
        t = self.transcript.copy()
        stamp = t.open(t.mix_key(static_static), self.message.timestamp)
        return InitiationConsumed(stamp, self.static, self.message, t)


@dataclass(frozen=True, slots=True)
class InitiationConsumed:
    """Responder, message 1 authentic: whether it is fresh is for the caller to judge by `stamp`."""

    stamp: bytes
    static: bytes
    message: Initiation
    transcript: _Transcript = field(repr=False)

    def respond(self, psk: bytes, ephemeral: bytes, index: int) -> tuple[Response, TransportKeys]:
        """Message 2 and the keys. Raises HandshakeRefused if the initiator's keys are low-order points."""
        public = crypto.public_bytes(ephemeral)
        t = self.transcript.copy()
        t.mix_ephemeral(public)
        t.mix_chain(crypto.shared_secret(ephemeral, self.message.ephemeral))
        t.mix_chain(crypto.shared_secret(ephemeral, self.static))
        empty = t.seal(t.mix_psk(psk), b"")
        receive, send = t.split()
        return Response(index, self.message.sender, public, empty), TransportKeys(send, receive)


def read_initiation(identity: Identity, message: Initiation) -> InitiationRead:
    """Open the initiator's static key. Raises HandshakeRefused."""
    t = _begin(identity.public)
    t.mix_ephemeral(message.ephemeral)
    static = t.open(t.mix_key(crypto.shared_secret(identity.private, message.ephemeral)), message.static)
    return InitiationRead(static, message, t)
