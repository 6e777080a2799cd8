"""What port mapping is about: where we are, what we hold, and what the core asks its shell to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address

from ...base.addresses import AddrPort
from ..effects import Dropped


class Protocol(StrEnum):
    """How a gateway may be asked, in the order in which we try. Source: tailscale net/portmapper/portmapper.go."""

    PMP = "pmp"
    PCP = "pcp"
    UPNP = "upnp"


@dataclass(frozen=True, slots=True)
class Site:
    """The IPv4 gateway, our own address towards it, and the UDP port that is to be reachable."""

    gateway: str
    own: str
    port: int


@dataclass(frozen=True, slots=True)
class Mapping:
    """`external` leads to `site.own`:`site.port` until `expires_at`. Times in monotonic seconds."""

    protocol: Protocol
    site: Site
    external: AddrPort
    renew_at: float
    expires_at: float


@dataclass(frozen=True, slots=True)
class UpnpGrant:
    """What a UPnP device gave. `lifetime` in seconds; a permanent lease counts as what was asked for."""

    external: AddrPort
    lifetime: int


@dataclass(frozen=True, slots=True)
class SendToGateway:
    """Send this datagram to port 5351 of the gateway."""

    gateway: str
    data: bytes


@dataclass(frozen=True, slots=True)
class SearchUpnp:
    """Look for UPnP devices; answer with `MappingCore.upnp_found` as soon as the gateway has shown one."""

    site: Site


@dataclass(frozen=True, slots=True)
class AskUpnp:
    """Map by UPnP; answer with `MappingCore.upnp_granted` or `upnp_failed`."""

    site: Site
    wanted: int
    lifetime: int


@dataclass(frozen=True, slots=True)
class ReleaseUpnp:
    """Delete a UPnP mapping. Nobody waits for the answer."""

    site: Site
    external: AddrPort


@dataclass(frozen=True, slots=True)
class Changed:
    """`MappingCore.mapping`, or what is known about the gateway, is not what it was: publish it."""


@dataclass(frozen=True, slots=True)
class GaveUp:
    """An attempt ended without a mapping; `why` names a word per protocol that answered. Another one follows later."""

    why: tuple[tuple[Protocol, str], ...]


Effect = SendToGateway | SearchUpnp | AskUpnp | ReleaseUpnp | Changed | GaveUp | Dropped


def refusal_of(external: AddrPort, lifetime: int, shortest: int) -> str:
    """Why a grant is no use, as a word; "" if it is. A private address is fine: behind two NATs it may still help."""
    try:
        address = IPv4Address(external.host)
    except ValueError:
        return "granted-no-address"
    if address.is_unspecified or address.is_loopback or address.is_multicast or address.is_link_local:
        return "granted-useless-address"
    if not 0 < external.port <= 65535:
        return "granted-port-0"
    if lifetime < shortest:
        return "granted-too-short"
    return ""
