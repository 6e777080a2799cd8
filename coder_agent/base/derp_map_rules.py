"""Does a relay map make sense? Upstream trusts whoever made it; an operator's typing errors deserve a sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal

from .derp_map import DerpMap, DerpNode, DerpRegion

MAX_REGION_ID = 65535
"""A relayed path is kept as port number of a made-up address upstream (127.3.3.40:region), so ids must fit a port."""
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
HOST = re.compile(rf"(?=.{{1,254}}\Z){_LABEL}(?:\.{_LABEL})*\.?")
"""DNS names (RFC 1123 §2.1), underscores allowed as resolvers do."""
PIN = re.compile(r"sha256-raw:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. With an ``error`` the map must not be used; a ``warning`` costs something."""

    severity: Literal["error", "warning"]
    message: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.message}"


def validate(derp_map: DerpMap) -> list[Problem]:
    """Everything wrong with `derp_map`, in reading order. Empty = good."""
    found = [problem for key, region in derp_map.regions.items() for problem in _region(key, region)]
    found += node_names(derp_map)
    if not any(region.may_be_home for region in derp_map.regions.values()):
        found.append(_warning("no region can be a home: none has a relay node that is to be measured"))
    for region_id in derp_map.region_score:
        if region_id not in derp_map.regions:
            found.append(_warning(f"RegionScore names region {region_id}, which is not in the map"))
    return found


def _region(key: int, region: DerpRegion) -> Iterator[Problem]:
    where = f"region {key}"
    if key != region.region_id:
        yield _error(f"{where} calls itself {region.region_id}: key and RegionID must be equal")
    if not 1 <= key <= MAX_REGION_ID:
        yield _error(f"{where}: ids go from 1 to {MAX_REGION_ID}")
    if not region.nodes:
        yield _warning(f"{where} has no nodes: it can be neither measured nor reached")
    for node in region.nodes:
        yield from _node(f"{where}, node {node.name!r}", region, node)


def _node(where: str, region: DerpRegion, node: DerpNode) -> Iterator[Problem]:
    if not node.name:
        yield _error(f"{where} has no Name")
    if node.region_id != region.region_id:
        yield _error(f"{where} says it belongs to region {node.region_id}")
    yield from _host_name(where, node.host_name)
    if not 0 <= node.derp_port <= 65535:
        yield _error(f"{where}: DERPPort {node.derp_port} is not in 0…65535")
    if not -1 <= node.stun_port <= 65535:
        yield _error(f"{where}: STUNPort {node.stun_port} is not in -1…65535")
    if node.stun_only and node.stun_port < 0:
        yield _error(f"{where} is STUNOnly but has STUN switched off (STUNPort -1): it does nothing")
    if node.cert_name.startswith("sha256-raw:") and not PIN.fullmatch(node.cert_name):
        yield _error(f"{where}: CertName must be sha256-raw: and 64 lower-case hex digits")
    yield from _addresses(where, node)


def _host_name(where: str, name: str) -> Iterator[Problem]:
    """A DNS name or an IP address, as it goes into a dial, SNI and the Host header."""
    if not name:
        yield _error(f"{where} has no HostName")
    elif "://" in name or "/" in name:
        yield _error(f"{where}: HostName {name!r} is a URL; write the host alone, and the port in DERPPort")
    elif not _is_ip(name) and not HOST.fullmatch(name):
        hint = "; the port belongs into DERPPort" if re.fullmatch(r".*[^:]:\d+", name) else ""
        yield _error(f"{where}: HostName {name!r} is neither a DNS name nor an IP address{hint}")


def _is_ip(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _addresses(where: str, node: DerpNode) -> Iterator[Problem]:
    usable = 0
    for name, text, family in (("IPv4", node.ipv4, IPv4Address), ("IPv6", node.ipv6, IPv6Address)):
        if not text:
            usable += 1
        elif text != "none":
            try:
                family(text)
                usable += 1
            except ValueError:
                yield _warning(f"{where}: {text!r} is no {name} address; it switches {name} off as 'none' does")
    if not usable:
        yield _error(f"{where} cannot be dialled: both IPv4 and IPv6 are switched off")


def node_names(derp_map: DerpMap) -> Iterator[Problem]:
    """Node names that are used twice: what is measured is kept by them (also for a map merged from several sources)."""
    seen: dict[str, int] = {}
    for key, region in derp_map.regions.items():
        for node in region.nodes:
            if node.name and node.name in seen:
                yield _error(f"node name {node.name!r} is used twice, in region {seen[node.name]} and in region {key}")
            seen.setdefault(node.name, key)


def _error(message: str) -> Problem:
    return Problem("error", message)


def _warning(message: str) -> Problem:
    return Problem("warning", message)
