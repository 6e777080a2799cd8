"""The machine's own addresses: how peers on the same network, or on an open one, reach us."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal

import anyio
import ifaddr

from coder_agent.base.addresses import CODER_PREFIX, TAILSCALE_PREFIX, AddrPort
from coder_agent.base.nat_facts import NatFacts
from coder_agent.hooks import Candidate, CandidateContext, CandidateKind

from .netcheck.links import read_interfaces, smallest_mtu

Family = Literal["v4", "v6"]
Address = IPv4Address | IPv6Address

POLL_INTERVAL = 30.0
"""Seconds between looks at the interfaces. Reading them costs well under a millisecond; a change shows that late at
most, and the relay carries everything in the meantime."""


def read_addresses() -> list[Address]:
    """Every address of every interface, scopes removed."""
    found: list[Address] = []
    for adapter in ifaddr.get_adapters():
        for entry in adapter.ips:
            text = entry.ip if isinstance(entry.ip, str) else entry.ip[0]
            found.append(ip_address(text.partition("%")[0]))
    return found


def usable(addresses: Iterable[Address]) -> list[Address]:
    """Those that may work for a peer, in a stable order.

    Link-local addresses only when there is nothing better (IPv6's never: they mean nothing without an interface), and
    loopback only when there is nothing else at all. Our own overlay prefixes never: a tunnel must not run inside
    itself. Source: tailscale net/netmon/state.go (LocalAddresses).
    """
    regular: list[Address] = []
    link_local: list[Address] = []
    loopback: list[Address] = []
    for address in dict.fromkeys(addresses):
        if address.is_loopback:
            loopback.append(address)
        elif address.is_unspecified or address.is_multicast or is_overlay(address):
            continue
        elif address.is_link_local:
            if isinstance(address, IPv4Address):
                link_local.append(address)
        else:
            regular.append(address)
    return regular or link_local or loopback


def families_of(addresses: Iterable[Address]) -> frozenset[Family]:
    """Address families in which this machine can reach others."""
    return frozenset(
        "v6" if isinstance(address, IPv6Address) else "v4" for address in usable(addresses) if not address.is_loopback
    )


def is_overlay(address: Address) -> bool:
    """True inside our own tunnels' prefixes."""
    return isinstance(address, IPv6Address) and address.packed[:6] in (TAILSCALE_PREFIX, CODER_PREFIX)


class LocalInterfaces:
    """Interface addresses × the data sockets' ports."""

    name = "local"

    def __init__(self, read: Callable[[], Sequence[Address]] = read_addresses) -> None:
        self._read = read

    async def run(self, context: CandidateContext) -> None:
        """Publish at the start, when asked to look again, and when something changed."""
        published: list[Candidate] | None = None
        asked = False
        while True:
            found = self._candidates(context)
            context.report_nat(NatFacts(mtu=smallest_mtu(read_interfaces())))
            if asked or found != published:
                context.publish(self.name, found)
                published = found
            asked = False
            with anyio.move_on_after(POLL_INTERVAL):
                await context.wait_refresh()
                asked = True

    def _candidates(self, context: CandidateContext) -> list[Candidate]:
        v4, v6 = context.direct.bound_ports()
        found: list[Candidate] = []
        for address in usable(self._read()):
            port = v4 if isinstance(address, IPv4Address) else v6
            if port is not None:
                found.append(Candidate(AddrPort(str(address), port), CandidateKind.LOCAL))
        return found
