"""The relay map: regions and their nodes, as Tailscale's `tailcfg.DERPMap` and Coder's dialect of it have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

EMBEDDED_REGION_ID = 999
"""Region id of a coder server's own relay (coder's --derp-server-region-id)."""


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

    @property
    def has_relay(self) -> bool:
        """Not only STUN servers."""
        return any(not node.stun_only for node in self.nodes)

    @property
    def may_be_home(self) -> bool:
        """A region without a relay, or one that asks not to be home, never is."""
        return not self.avoid and not self.no_measure_no_home and self.has_relay


@dataclass(frozen=True, slots=True)
class DerpMap:
    """All regions by id."""

    regions: Mapping[int, DerpRegion] = field(default_factory=dict)
    region_score: Mapping[int, float] = field(default_factory=dict)
    omit_default_regions: bool = False


def merge(*maps: DerpMap) -> DerpMap:
    """One map out of several (built-in, from a file, from a URL). Raises ValueError if two define the same region."""
    regions: dict[int, DerpRegion] = {}
    scores: dict[int, float] = {}
    for part in maps:
        for region_id, region in part.regions.items():
            other = regions.get(region_id)
            if other is not None:
                raise ValueError(
                    f"relay region {region_id} exists twice: {_title(other)} and {_title(region)}; give one another id"
                )
            regions[region_id] = region
        scores.update(part.region_score)
    return DerpMap(regions, scores, any(part.omit_default_regions for part in maps))


def rewrite_embedded(derp_map: DerpMap, scheme: str, host: str, port: int | None) -> DerpMap:
    """`derp_map` as a viewer must see it who reaches the server at `scheme`://`host`:`port` (None = the scheme's own).

    The server writes its own idea of its address into the embedded region; behind NAT, a tunnel or a port forward that
    is not where this viewer found it, and the viewer's own address for it is known to work. Other regions, and the
    embedded region's STUN nodes, stay as they are. Source: coder codersdk/workspacesdk, rewriteDERPMap.
    """
    plain = scheme in ("http", "ws")
    derp_port = port or (80 if plain else 443)
    regions = dict(derp_map.regions)
    for region_id, region in derp_map.regions.items():
        if region.embedded_relay:
            nodes = tuple(_at(node, host, derp_port, plain) for node in region.nodes)
            regions[region_id] = replace(region, nodes=nodes)
    return replace(derp_map, regions=regions)


def viewed_from(derp_map: DerpMap, url: str) -> DerpMap:
    """`rewrite_embedded` for a viewer who reaches the server at `url`."""
    parts = urlsplit(url)
    return rewrite_embedded(derp_map, parts.scheme, parts.hostname or "", parts.port)


def _at(node: DerpNode, host: str, port: int, plain: bool) -> DerpNode:
    if node.stun_only:
        return node
    return replace(node, host_name=host, derp_port=port, force_http=plain, cert_name="", ipv4="", ipv6="")


def _title(region: DerpRegion) -> str:
    return repr(region.region_name or region.region_code or "unnamed")
