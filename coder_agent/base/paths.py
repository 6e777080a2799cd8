"""How a packet may travel to a peer, and how good a way is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

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
    """One candidate direct path as the policy sees it. Units: seconds, bytes. `wire_mtu` 0 = not probed. `local` as in
    UdpPath."""

    addr: AddrPort
    latency: float
    wire_mtu: int = 0
    local: int = 0

    @property
    def path(self) -> UdpPath:
        """How a packet goes this way."""
        return UdpPath(self.addr, self.local)


class PathPolicy(Protocol):
    """Which of two direct paths is better. Pure: no clock, no state."""

    def better(self, a: PathQuality, b: PathQuality | None) -> bool:
        """True if `a` should replace `b` (None = there is no path yet)."""
        ...
