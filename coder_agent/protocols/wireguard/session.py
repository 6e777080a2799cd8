"""Transport sessions: one key pair with its counters, the three slots a peer has for them, and the index table.

Source: the WireGuard paper §6; wireguard-go device/{keypair,noise-protocol,constants}.go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .messages import TRANSPORT
from .noise import TransportKeys
from .replay import REJECT_AFTER_MESSAGES, ReplayWindow

if TYPE_CHECKING:
    from .peer import Peer

REKEY_AFTER_MESSAGES = 2**60
REKEY_AFTER_TIME = 120.0
"""The initiator of a session asks for a new one when it sends and the session is older than this. Seconds."""
REJECT_AFTER_TIME = 180.0
"""Nothing is sent or accepted under a session older than this. Seconds."""
LAST_MINUTE = 165.0
"""The initiator asks once for a new session when it *receives* and the session is older than this:
REJECT_AFTER_TIME − KEEPALIVE_TIMEOUT − REKEY_TIMEOUT. Seconds."""


class Keypair:
    """The keys of one session and what their use so far allows. `word` is the first eight bytes of every header we
    send under it (type ‖ receiver index), as a little-endian number. `decrypt` raises `forged` for a wrong tag."""

    __slots__ = (
        "owner", "index", "word", "encrypt", "decrypt", "forged", "created", "is_initiator", "counter", "replay"
    )  # fmt: skip

    def __init__(
        self, owner: Peer, keys: TransportKeys, index: int, remote_index: int, *, is_initiator: bool, now: float
    ) -> None:
        self.owner = owner
        self.index = index
        self.word = TRANSPORT | remote_index << 32
        # Here, not above: a node without a peer does without OpenSSL.
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

        # One AEAD object per key for its whole life: making one per packet doubles the cost of sealing.
        self.encrypt = ChaCha20Poly1305(keys.send).encrypt_into
        self.decrypt = ChaCha20Poly1305(keys.receive).decrypt_into
        self.forged: type[Exception] = InvalidTag
        self.created = now
        self.is_initiator = is_initiator
        self.counter = 0
        self.replay = ReplayWindow()

    def can_send(self, now: float, count: int = 1) -> bool:
        """True if `count` more packets may be sealed now."""
        return now - self.created < REJECT_AFTER_TIME and self.counter + count <= REJECT_AFTER_MESSAGES

    def is_expired(self, now: float) -> bool:
        """True if packets under this session must be refused for its age."""
        return now - self.created >= REJECT_AFTER_TIME

    def wants_rekey(self, now: float) -> bool:
        """True if sending should start a new handshake. By age only the initiator does, or both sides would."""
        if self.counter > REKEY_AFTER_MESSAGES:
            return True
        return self.is_initiator and now - self.created > REKEY_AFTER_TIME

    def is_in_last_minute(self, now: float) -> bool:
        """True if receiving should start a new handshake, because waiting for the next send may be too late."""
        return self.is_initiator and now - self.created > LAST_MINUTE


class Slots:
    """A peer's sessions: `current` sends and receives, `previous` still receives, `next` waits for its confirmation.

    Each step returns the sessions that fell out, for the index table to forget.
    """

    __slots__ = ("current", "previous", "next")

    def __init__(self) -> None:
        self.current: Keypair | None = None
        self.previous: Keypair | None = None
        self.next: Keypair | None = None

    def initiated(self, new: Keypair) -> list[Keypair]:
        """Our initiation was answered: `new` is confirmed by that answer and used at once."""
        if self.next is not None:
            lost = [self.previous, self.current]
            self.previous, self.next = self.next, None
        else:
            lost = [self.previous]
            self.previous = self.current
        self.current = new
        return [keypair for keypair in lost if keypair is not None]

    def responded(self, new: Keypair) -> list[Keypair]:
        """We answered an initiation: `new` may not send before the peer has used it."""
        lost = [self.previous, self.next]
        self.previous, self.next = None, new
        return [keypair for keypair in lost if keypair is not None]

    def confirmed(self, keypair: Keypair) -> list[Keypair]:
        """A packet opened under `keypair`, which is `next`: it becomes the current one."""
        lost = [] if self.previous is None else [self.previous]
        self.previous, self.current, self.next = self.current, keypair, None
        return lost

    def clear(self) -> list[Keypair]:
        """Forget all sessions."""
        lost = [keypair for keypair in (self.current, self.previous, self.next) if keypair is not None]
        self.current = self.previous = self.next = None
        return lost


class IndexTable:
    """Our session indexes: random 32-bit numbers, each meaning a handshake in progress or a key pair.

    Bounded: a peer holds at most one handshake and three key pairs.
    """

    __slots__ = ("sessions", "handshakes", "_rng")

    def __init__(self, rng: Callable[[int], bytes]) -> None:
        self.sessions: dict[int, Keypair] = {}
        self.handshakes: dict[int, Peer] = {}
        self._rng = rng

    def allocate(self) -> int:
        """A number that is not in use."""
        while True:
            index = int.from_bytes(self._rng(4), "little")
            if index not in self.sessions and index not in self.handshakes:
                return index

    def owner(self, index: int) -> Peer | None:
        """Whose number this is."""
        peer = self.handshakes.get(index)
        if peer is not None:
            return peer
        keypair = self.sessions.get(index)
        return None if keypair is None else keypair.owner

    def forget(self, keypairs: list[Keypair]) -> None:
        """These sessions are over."""
        for keypair in keypairs:
            self.sessions.pop(keypair.index, None)
