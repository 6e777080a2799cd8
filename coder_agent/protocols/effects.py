"""What datagram cores ask their shell to do: the whole outward vocabulary of `protocols/` and `magicsock/`."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from ..base.burst import Burst
from ..base.keys import NodePublic
from ..base.paths import Path


@dataclass(slots=True)
class Transmit:
    """Send these WireGuard messages to `peer` by whatever path it has now. The burst is borrowed (base/burst.py)."""

    peer: NodePublic
    burst: Burst
    handshake: bool = False


@dataclass(slots=True)
class Deliver:
    """Decrypted inner IP packets from `peer`, still padded to 16 bytes: trim by the IP header. Borrowed."""

    peer: NodePublic
    burst: Burst


@dataclass(slots=True)
class SendRaw:
    """Send this one datagram (disco, STUN, a WireGuard cookie to a stranger) by exactly this path.

    `whole`: it measures how large packets may be, so it must not be fragmented; who cannot promise that, drops it.
    """

    path: Path
    data: bytes
    whole: bool = False


@dataclass(slots=True)
class SessionReady:
    """A WireGuard session with `peer` became usable for sending (new or rekeyed)."""

    peer: NodePublic


@dataclass(slots=True)
class Authenticated:
    """`peer` proved itself from `source` (as given to `receive`): a transport packet from there opened and was new.

    At most once per peer and received burst; never for handshake messages, which a relay in the middle could move.
    """

    peer: NodePublic
    source: Hashable


@dataclass(slots=True)
class Dropped:
    """Something was thrown away. `reason` is a stable kebab-case word, usable as a metric label."""

    reason: str
    count: int = 1


Effect = Transmit | Deliver | SendRaw | SessionReady | Authenticated | Dropped
