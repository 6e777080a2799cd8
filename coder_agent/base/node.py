"""What a node publishes about itself through the coordinator (tailnet.proto, message Node)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Network

from .addresses import AddrPort
from .keys import DiscoPublic, NodePublic


@dataclass(frozen=True, slots=True)
class Node:
    """A node's public face. `preferred_derp` 0 = no home relay yet: such a node is neither sent nor accepted.

    Units: `derp_latency` maps ``<region>-v4`` / ``<region>-v6`` to seconds; `as_of` is Unix seconds.
    """

    id: int
    key: NodePublic
    disco: DiscoPublic
    preferred_derp: int
    addresses: tuple[IPv6Network, ...] = ()
    allowed_ips: tuple[IPv6Network, ...] = ()
    endpoints: tuple[AddrPort, ...] = ()
    derp_latency: Mapping[str, float] = field(default_factory=dict)
    derp_forced_websocket: Mapping[int, str] = field(default_factory=dict)
    as_of: float = 0.0
