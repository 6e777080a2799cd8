"""Which STUN servers to ask, when, and how often. Pure.

Source: tailscale net/netcheck/netcheck.go (makeProbePlan, makeProbePlanInitial).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address

from coder_agent.base.derp_map import DerpMap, DerpNode, DerpRegion
from coder_agent.protocols.stun import DEFAULT_PORT

from .interfaces import Family

INITIAL_TRIES = 3
INITIAL_INTERVAL = 0.100
"""Seconds between tries when nothing is known yet."""
DEFAULT_RETRANSMIT = 0.200
"""Seconds between tries to a region whose latency is unknown, in a later round."""
FASTEST_REGIONS = 3
"""Regions asked again in a later round (and always the best one)."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask `node` in `family`, `delay` seconds after the round began."""

    region: int
    node: DerpNode
    family: Family
    delay: float


ProbeSet = tuple[Probe, ...]
"""Tries that ask the same thing (region and family): one answer is enough."""


@dataclass(frozen=True, slots=True)
class LastRound:
    """What the last round found: seconds per region and family."""

    latency: Mapping[tuple[int, Family], float]

    def best(self, region: int) -> float | None:
        """The faster of both families."""
        known = [self.latency[key] for key in ((region, "v4"), (region, "v6")) if key in self.latency]
        return min(known, default=None)

    def home(self) -> int:
        """The region with the lowest latency; 0 if none answered."""
        return min(self.latency, key=lambda key: self.latency[key])[0] if self.latency else 0


def stun_port(node: DerpNode) -> int | None:
    """The node's STUN port: 0 means 3478, a negative one that it does not answer STUN."""
    port = node.stun_port or DEFAULT_PORT
    return port if 0 < port <= 65535 else None


def literal_address(node: DerpNode, family: Family) -> str | None:
    """The node's address in `family` if the map states it; "" = look its name up; None = it has none.

    A field that is no address of its family (the map says "none") switches the family off. `stun_test_ip` overrides
    everything.
    """
    stated = node.stun_test_ip or (node.ipv4 if family == "v4" else node.ipv6)
    try:
        address = ip_address(stated or node.host_name)
    except ValueError:
        return None if stated or not node.host_name else ""
    return str(address) if isinstance(address, IPv4Address) == (family == "v4") else None


def https_nodes(derp_map: DerpMap, *, udp_works: bool) -> list[DerpNode]:
    """One relay node per region whose latency only HTTPS can tell: of every region when UDP gets nowhere, else of those
    without STUN. Also when there is just one: a stock server keeps STUN in regions of their own, and its people are
    shown how far each agent is from the relay. Source: coder tailscale net/netcheck/netcheck.go (GetReport).
    """
    regions = [region for region in derp_map.regions.values() if region.may_be_home]
    mute = [r for r in regions if not udp_works or all(stun_port(node) is None for node in r.nodes)]
    return [next(node for node in region.nodes if not node.stun_only) for region in mute]


def plan_round(derp_map: DerpMap, families: frozenset[Family], last: LastRound | None) -> list[ProbeSet]:
    """The sets of one round. `last` None = everything is asked; else only the best regions of the last round."""
    regions = [r for r in derp_map.regions.values() if r.nodes and not r.no_measure_no_home]
    if last is None or not last.latency:
        delays = [attempt * INITIAL_INTERVAL for attempt in range(INITIAL_TRIES)]
        sets = [_probe_set(region, family, delays, families) for region in regions for family in _FAMILIES]
    else:
        sets = _later_sets(regions, families, last)
    return [probes for probes in sets if probes]


_FAMILIES: tuple[Family, Family] = ("v4", "v6")


def _later_sets(regions: Iterable[DerpRegion], families: frozenset[Family], last: LastRound) -> list[ProbeSet]:
    home = last.home()
    candidates = [region for region in regions if not region.avoid or region.region_id == home]
    candidates.sort(key=lambda region: last.best(region.region_id) or float("inf"))
    chosen = candidates[:FASTEST_REGIONS]
    chosen += [region for region in candidates[FASTEST_REGIONS:] if region.region_id == home]
    sets: list[ProbeSet] = []
    for index, region in enumerate(chosen):
        is_home = region.region_id == home
        tries = 4 if is_home else 2 if index < 2 else 1
        for family in _later_families(region.region_id, index, is_home, last):
            retries_v6 = family == "v4" or any(key[1] == "v6" for key in last.latency)
            interval = 1.2 * (last.best(region.region_id) or DEFAULT_RETRANSMIT / 1.2)
            delays = [_later_delay(attempt, interval) for attempt in range(tries if retries_v6 else 1)]
            sets.append(_probe_set(region, family, delays, families))
    return sets


def _later_families(region: int, index: int, is_home: bool, last: LastRound) -> tuple[Family, ...]:
    """Slower regions known in both families take turns; IPv6 that did not work is only tried on the fastest."""
    if not is_home and index >= 2:
        if (region, "v4") in last.latency and (region, "v6") in last.latency:
            return ("v4",) if index % 2 == 0 else ("v6",)
        if not any(key[1] == "v6" for key in last.latency):
            return ("v4",)
    return _FAMILIES


def _later_delay(attempt: int, interval: float) -> float:
    return attempt * interval + (attempt * 0.050 if attempt > 1 else 0.0)


def _probe_set(region: DerpRegion, family: Family, delays: list[float], families: frozenset[Family]) -> ProbeSet:
    """One try per delay, round the region's nodes; those that cannot answer in `family` are left out."""
    probes: list[Probe] = []
    for attempt, delay in enumerate(delays):
        node = region.nodes[attempt % len(region.nodes)]
        address = literal_address(node, family)
        if stun_port(node) is None or address is None:
            continue
        if family in families or (address and ip_address(address).is_loopback) or node.stun_test_ip:
            probes.append(Probe(region.region_id, node, family, delay))
    return tuple(probes)
