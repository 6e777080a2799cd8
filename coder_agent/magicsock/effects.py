"""What the path selection asks its shell to do, beside sending (`SendRaw`) and counting (`Dropped`)."""

from __future__ import annotations

from dataclasses import dataclass

from ..base.addresses import AddrPort
from ..base.keys import NodePublic
from ..base.paths import Path, PathKind, UdpPath
from ..protocols.effects import Dropped, SendRaw


@dataclass(frozen=True, slots=True)
class Route:
    """Where the next burst goes. Both set = send it twice: the direct path is not proven at the moment, and WireGuard's
    replay window absorbs the copy. `derp` is a relay region. Never are both None."""

    udp: UdpPath | None
    derp: int | None


@dataclass(frozen=True, slots=True)
class PathUpdate:
    """The way to `peer` changed; mirrors hooks.events.PathChanged. `path` is ``ip:port``, ``derp:<region>`` or empty.

    `reason`: pong | first-send | no-pong | ping-timeout | unreachable | rebind | candidate-gone | direct-blocked |
    relay-changed | rules | quality. Units: `latency` in seconds, None = not measured.
    """

    peer: NodePublic
    kind: PathKind
    path: str
    previous: str
    reason: str
    latency: float | None = None


@dataclass(frozen=True, slots=True)
class EndpointsWanted:
    """Our own endpoints are too old to be sent to a peer: look for them again (STUN) and call `set_local_endpoints`,
    also if nothing changed."""

    reason: str


@dataclass(frozen=True, slots=True)
class OpenSockets:
    """Open `count` UDP sockets beside the main one (`DirectTransport.open_extra`) and call `sockets_opened(peer, names,
    now)` at once, also if there are fewer or none. What arrives at one comes by ``UdpPath(addr, name)``."""

    peer: NodePublic
    count: int


@dataclass(frozen=True, slots=True)
class CloseSockets:
    """Close these extra sockets (`DirectTransport.close_extra`). Nothing is sent by them any more."""

    names: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PongReceived:
    """A ping asked for with `Magicsock.ping` was answered. `path` is the one pinged; `src` is how the peer saw us."""

    peer: NodePublic
    txid: bytes
    path: Path
    latency: float
    src: AddrPort


@dataclass(frozen=True, slots=True)
class PingLost:
    """A ping asked for with `Magicsock.ping` was not answered within 5 s."""

    peer: NodePublic
    txid: bytes
    path: Path


@dataclass(frozen=True, slots=True)
class FlowWanted:
    """Tell how the conversation with `peer` goes: call `Magicsock.note_flow` now. Comes every 50 ms while packets go to
    a peer with a direct path."""

    peer: NodePublic


@dataclass(frozen=True, slots=True)
class PathDoubted:
    """The direct path to `peer` may be dead: from now on packets go by both ways, until a pong comes. What is in flight
    may be lost: send its oldest part again."""

    peer: NodePublic


@dataclass(frozen=True, slots=True)
class PathReplaced:
    """Another way carries the packets to `peer` from now on, chosen for its quality or on trial: what was learnt about
    the capacity of the former one does not hold for it."""

    peer: NodePublic


@dataclass(frozen=True, slots=True)
class TunnelMtu:
    """Inner packets to `peer` may be of up to `mtu` bytes from now on: more than before, or less."""

    peer: NodePublic
    mtu: int


@dataclass(frozen=True, slots=True)
class RelayWanted:
    """Have the connection to relay region `region` ready: an active direct path may need it from one moment to the
    next. Repeated every few seconds."""

    region: int


Effect = (
    SendRaw
    | Dropped
    | PathUpdate
    | EndpointsWanted
    | PongReceived
    | PingLost
    | OpenSockets
    | CloseSockets
    | FlowWanted
    | PathDoubted
    | PathReplaced
    | TunnelMtu
    | RelayWanted
)
