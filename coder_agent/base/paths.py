"""How a packet may travel to a peer, and how good a way is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol, runtime_checkable

from .addresses import AddrPort
from .keys import NodePublic


class UdpPath(NamedTuple):
    """Directly, to (on receive: from) a UDP endpoint. `local` names our socket: 0 the main one, others are extra
    sockets that were opened to get through a NAT (`DirectTransport.open_extra`)."""

    addr: AddrPort
    local: int = 0

    def __str__(self) -> str:
        return str(self.addr)


class DerpPath(NamedTuple):
    """Through relay region `region`, to the peer with node key `key` (on receive: from it)."""

    region: int
    key: NodePublic

    def __str__(self) -> str:
        return f"derp:{self.region}"


Path = UdpPath | DerpPath


class PathKind(StrEnum):
    """What carries a conversation, in the words every surface uses."""

    DIRECT = "direct"
    RELAYED = "relayed"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class PathQuality:
    """One candidate direct path as the policy sees it. Units: seconds, bytes, bytes/s. `wire_mtu` 0 = not probed.
    `local` as in UdpPath. `loss` (a share) and `goodput` are what TCP saw of it; None = not known, or too long ago.
    """

    addr: AddrPort
    latency: float
    wire_mtu: int = 0
    local: int = 0
    loss: float | None = None
    goodput: float | None = None

    @property
    def path(self) -> UdpPath:
        """How a packet goes this way."""
        return UdpPath(self.addr, self.local)


class PathPolicy(Protocol):
    """Which of two direct paths is better. Pure: no clock, no state."""

    def better(self, a: PathQuality, b: PathQuality | None) -> bool:
        """True if `a` should replace `b` (None = there is no path yet)."""
        ...


@dataclass(frozen=True, slots=True)
class RelayQuality:
    """The way through relay region `region`, in the units of PathQuality; None = not known, or too long ago."""

    region: int
    latency: float | None = None
    loss: float | None = None
    goodput: float | None = None


@runtime_checkable
class CarrierPolicy(PathPolicy, Protocol):
    """A PathPolicy that also decides between the best direct path and the relay. Without this method the core's own
    rule holds."""

    def prefers_relay(self, direct: PathQuality, relay: RelayQuality, *, relayed: bool, backlog: bool) -> bool:
        """True if data should go by relay now. Asked about once a second while a direct path works and data flows.

        `relayed`: it goes by relay already. `backlog`: there is more to send than the present way takes. What the way
        not in use was measured to be is remembered for a time that grows with each change; its goodput is None
        afterwards: answering with that way then is a trial. Flapping is prevented by the core only as far as that.
        """
        ...
