"""The relay map: regions and their nodes, as Tailscale's `tailcfg.DERPMap` and Coder's dialect of it have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

EMBEDDED_REGION_ID = 999
"""Region id of a coder server's own relay (coder.md §1.1)."""


@dataclass(frozen=True, slots=True)
class DerpNode:
    """One relay or STUN host. `stun_port` 0 = 3478, negative = none; `derp_port` 0 = 443 (80 with force_http)."""

    name: str
    region_id: int
    host_name: str
    cert_name: str = ""
    ipv4: str = ""
    ipv6: str = ""
    stun_port: int = 0
    stun_only: bool = False
    derp_port: int = 0
    insecure_for_tests: bool = False
    force_http: bool = False
    stun_test_ip: str = ""
    can_port_80: bool = False


@dataclass(frozen=True, slots=True)
class DerpRegion:
    """A group of relays that forward for each other; nodes in order of priority."""

    region_id: int
    region_code: str = ""
    region_name: str = ""
    nodes: tuple[DerpNode, ...] = ()
    embedded_relay: bool = False
    avoid: bool = False
    no_measure_no_home: bool = False
    latitude: float = 0.0
    longitude: float = 0.0


@dataclass(frozen=True, slots=True)
class DerpMap:
    """All regions by id."""

    regions: Mapping[int, DerpRegion] = field(default_factory=dict)
    region_score: Mapping[int, float] = field(default_factory=dict)
    omit_default_regions: bool = False
