"""What STUN servers' answers together say about our NAT, when some of the servers may be wrong or lie. Pure.

One answer is an opinion. Servers on different hosts that agree outvote fewer that do not: so one liar neither makes an
easy NAT look hard, nor sends our peers to somebody else's address for longer than it takes two honest ones to answer.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from itertools import pairwise

from coder_agent.base.addresses import AddrPort

from .interfaces import Address, is_overlay

ENDPOINTS_PER_FAMILY = 3
"""Bound on what one round offers per family: servers that disagree about our host could otherwise name any number."""
MAX_GAP = 64
"""Ports that may lie between two of our mappings for the NAT to count as sequential: other traffic takes some, and a
random one of 64 512 ports is that near only once in five hundred times."""
MAX_LONE_GAP = 8
"""The same when there are only two mappings, and so a single gap to judge by: by chance once in four thousand times."""

_INNER: tuple[IPv4Network | IPv6Network, ...] = (
    *map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16")),
    *map(IPv6Network, ("fc00::/7", "fe80::/10")),
)
"""Not routed on the Internet (RFC 1918, 6598, 3927, 4193, 4291). Documentation prefixes are left out: laboratories use
them as the outside."""
_NOWHERE = (IPv4Network("0.0.0.0/8"), IPv4Network("240.0.0.0/4"))
"""No host's address (RFC 1122 §3.2.1.3, RFC 1112 §4; with the broadcast address)."""


def is_inner(address: Address) -> bool:
    """True for addresses that only mean something within a site, a provider's network or a machine."""
    return address.is_loopback or any(address in network for network in _INNER)


def impossible(mapped: AddrPort, server: AddrPort, own: Collection[Address] = ()) -> str | None:
    """Why `server` cannot have seen us at `mapped`, as a reason to count; None if it may have.

    A server on the Internet does not see packets from private addresses, except if a router turned packets for its
    public address round without changing their source: then the address is one of `own`.
    """
    address, at = mapped.ip, server.ip
    if mapped.port == 0:
        return "stun-port-zero"
    if address.version != at.version:
        return "stun-wrong-family"
    if address.is_unspecified or address.is_multicast or any(address in network for network in _NOWHERE):
        return "stun-no-host-address"
    if is_overlay(address):
        return "stun-overlay-address"
    if address.is_loopback and not at.is_loopback:
        return "stun-loopback-address"
    if is_inner(address) and not is_inner(at) and address not in own:
        return "stun-private-address"
    return None


@dataclass(slots=True)
class _Sight:
    """What one server said; `order` counts our first packet to it among all servers'."""

    mapped: AddrPort
    order: int
    contradicts_itself: bool = False


@dataclass(slots=True)
class Mappings:
    """Answers of one round. Servers are told apart by address and port, voters by address alone."""

    _seen: dict[AddrPort, _Sight] = field(default_factory=dict)

    def add(self, server: AddrPort, mapped: AddrPort, order: int) -> None:
        """`server`, first asked as number `order`, saw us at `mapped`. One that changes its mind loses its vote."""
        known = self._seen.get(server)
        if known is None:
            self._seen[server] = _Sight(mapped, order)
        elif known.mapped != mapped:
            known.contradicts_itself = True

    def varies(self) -> bool | None:
        """Does the NAT give each destination another mapping? IPv4 only; None until two servers were heard.

        False also when most hosts agree (two at least): a NAT whose mappings vary does not repeat itself by chance.
        """
        votes = self._votes(is_ipv6=False)
        if sum(1 for sight in self._sound(False).values()) < 2:
            return None
        if len(votes) == 1:
            return False
        agreeing = max(len(hosts) for hosts in votes.values())
        voters = len(set().union(*votes.values()))
        return not (agreeing >= 2 and agreeing > voters - agreeing)

    def endpoints(self) -> list[AddrPort]:
        """What to offer peers, IPv4 first: the mapping that most hosts saw, then others that two hosts saw, then the
        first of each further outside host. Mappings that a majority contradicts, and the one-off ports of a hard NAT,
        are left out.
        """
        offered: list[AddrPort] = []
        for is_ipv6 in (False, True):
            votes = self._votes(is_ipv6)
            ranked = sorted(votes, key=lambda mapped: -len(votes[mapped]))
            if not ranked:
                continue
            outvoted = len(votes[ranked[0]]) >= 2
            chosen: list[AddrPort] = []
            for mapped in ranked:
                new_host = all(mapped.host != other.host for other in chosen)
                if len(votes[mapped]) >= 2 or (new_host and not outvoted):
                    chosen.append(mapped)
            offered += chosen[:ENDPOINTS_PER_FAMILY]
        return offered

    def seen(self) -> dict[AddrPort, int]:
        """How many servers said each mapping, in the order of their answers."""
        return dict(Counter(sight.mapped for sight in self._seen.values()))

    def refuted(self) -> list[AddrPort]:
        """Mappings that fewer hosts saw than the one that two or more agree on: not to be offered any more."""
        found: list[AddrPort] = []
        for is_ipv6 in (False, True):
            votes = self._votes(is_ipv6)
            most = max((len(hosts) for hosts in votes.values()), default=0)
            if most >= 2:
                found += [mapped for mapped, hosts in votes.items() if len(hosts) < 2]
        return found

    def public(self, *, is_ipv6: bool) -> AddrPort | None:
        """How the outside sees the socket: what most saw; of a NAT that counts up, the newest mapping."""
        if not is_ipv6 and self.port_step():
            newest = max(self._sound(False).values(), key=lambda sight: sight.order)
            return newest.mapped
        return next((addr for addr in self.endpoints() if addr.is_ipv6 == is_ipv6), None)

    def port_step(self) -> int:
        """How far consecutive mappings of a varying NAT are apart: 0 = no pattern, negative = it counts down.

        The ports are sorted, so that packets that overtook one another do not matter, and the greatest common divisor
        of the gaps is taken, so that mappings made for other traffic in between do not either. One in three may lie
        anywhere. The order of asking gives the direction.
        """
        if not self.varies():
            return 0
        sights = self._sound(False).values()
        host = Counter(sight.mapped.host for sight in sights).most_common(1)[0][0]
        order = {sight.mapped.port: sight.order for sight in sights if sight.mapped.host == host}
        ports = _densest(sorted(order), math.ceil(2 * len(order) / 3))
        gaps = [after - before for before, after in pairwise(ports)]
        if not gaps or max(gaps) > (MAX_GAP if len(gaps) > 1 else MAX_LONE_GAP):
            return 0
        upwards = sum(1 if order[b] > order[a] else -1 for a, b in pairwise(ports))
        return math.gcd(*gaps) if upwards >= 0 else -math.gcd(*gaps)

    def _sound(self, is_ipv6: bool) -> dict[AddrPort, _Sight]:
        return {
            server: sight
            for server, sight in self._seen.items()
            if sight.mapped.is_ipv6 == is_ipv6 and not sight.contradicts_itself
        }

    def _votes(self, is_ipv6: bool) -> dict[AddrPort, set[str]]:
        """Hosts by the mapping that they saw, in the order of their answers."""
        votes: dict[AddrPort, set[str]] = {}
        for server, sight in self._sound(is_ipv6).items():
            votes.setdefault(sight.mapped, set()).add(server.host)
        return votes


def _densest(ports: list[int], size: int) -> list[int]:
    """The `size` neighbours that lie closest together, and whatever else lies as close to them."""
    if size < 2 or len(ports) < size:
        return []
    start = min(range(len(ports) - size + 1), key=lambda at: ports[at + size - 1] - ports[at])
    first, last = start, start + size - 1
    while first > 0 and ports[first] - ports[first - 1] <= MAX_GAP:
        first -= 1
    while last + 1 < len(ports) and ports[last + 1] - ports[last] <= MAX_GAP:
        last += 1
    return ports[first : last + 1]
