"""Which addresses are on our LANs: what we announce, and what we believe of others' announcements."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
)

import ifaddr

from coder_agent.base.addresses import CODER_PREFIX, TAILSCALE_PREFIX, AddrPort

MAX_ANNOUNCED = 16
"""Addresses in our announcement, so that it fits into one packet whatever machine this is."""
MAX_PER_PEER = 8
"""Endpoints of one peer that are handed on: more probes than that is no announcement of a stranger worth."""


@dataclass(frozen=True, slots=True)
class Lan:
    """One network interface with the addresses by which it reaches a LAN. `index` is the kernel's (0 = not known)."""

    name: str
    index: int
    addresses: tuple[IPv4Interface | IPv6Interface, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """What an announcement says: addresses as text, and the ports of its IPv4 and IPv6 sockets (0 = none)."""

    addresses: tuple[str, ...]
    port4: int
    port6: int


def read_lans() -> list[Lan]:
    """All interfaces that reach a LAN."""
    found = []
    for adapter in ifaddr.get_adapters():
        texts = (f"{ip.ip if isinstance(ip.ip, str) else ip.ip[0]}/{ip.network_prefix}" for ip in adapter.ips)
        found.append(Lan(adapter.name, adapter.index or 0, tuple(ip_interface(text) for text in texts)))
    return lans_of(found)


def lans_of(interfaces: Iterable[Lan], names: Sequence[str] = ()) -> list[Lan]:
    """Those of `interfaces` (called `names`, if given) that have usable addresses, with only these.

    Not usable: loopback; our own overlay; IPv6 link-local, which means nothing without an interface; an address without
    neighbours (/32, /128), as tunnels have it.
    """
    found = []
    for one in interfaces:
        addresses = tuple(address for address in one.addresses if _reaches_a_lan(address))
        if addresses and (not names or one.name in names):
            found.append(Lan(one.name, one.index, addresses))
    return found


def _reaches_a_lan(address: IPv4Interface | IPv6Interface) -> bool:
    ip = address.ip
    if ip.is_loopback or ip.is_unspecified or ip.is_multicast or address.network.num_addresses == 1:
        return False
    return isinstance(ip, IPv4Address) or not (ip.is_link_local or ip.packed[:6] in (TAILSCALE_PREFIX, CODER_PREFIX))


def announced(lans: Iterable[Lan], *, ipv4: bool, ipv6: bool) -> tuple[str, ...]:
    """The addresses that we announce, for the families in which our data socket listens."""
    wanted = [
        str(address.ip)
        for lan in lans
        for address in lan.addresses
        if (ipv4 if isinstance(address.ip, IPv4Address) else ipv6)
    ]
    return tuple(dict.fromkeys(wanted))[:MAX_ANNOUNCED]


def believable(found: Found, lans: Sequence[Lan], *, ipv4: bool, ipv6: bool) -> tuple[list[AddrPort], int]:
    """The endpoints in an announcement that can be true, and how many others it had.

    Believed are neighbours only: inside one of our subnets and not ourselves. So nobody on the LAN can make us send
    probes anywhere else.
    """
    networks = [address.network for lan in lans for address in lan.addresses]
    ours = {address.ip for lan in lans for address in lan.addresses}
    endpoints: dict[AddrPort, None] = {}
    ignored = 0
    for text in found.addresses:
        try:
            address = ip_address(text)
        except ValueError:
            ignored += 1
            continue
        allowed, port = (ipv4, found.port4) if isinstance(address, IPv4Address) else (ipv6, found.port6)
        good = allowed and 0 < port < 65536 and address not in ours and _is_neighbour(address, networks)
        if good and len(endpoints) < MAX_PER_PEER:
            endpoints[AddrPort.of(address, port)] = None
        else:
            ignored += 1
    return list(endpoints), ignored


def _is_neighbour(address: IPv4Address | IPv6Address, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    return any(
        address in network
        and address != network.network_address
        and not (isinstance(network, IPv4Network) and address == network.broadcast_address)
        for network in networks
        if network.version == address.version
    )
