"""Whether a topology can be built: what the types do not say. For descriptions that come from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from .topology import INTERNET, NatRules, Topology


def check(topology: Topology) -> None:
    """Raises ValueError, naming the first thing that is wrong."""
    for problem in _problems(topology):
        raise ValueError(problem)


def _problems(topology: Topology) -> Iterator[str]:
    names = [*(host.name for host in topology.hosts), *(router.name for router in topology.routers)]
    yield from (f"two things are called {name!r:.40}" for name in set(names) if names.count(name) > 1)
    for host in topology.hosts:
        if not host.interfaces:
            yield f"host {host.name!r:.40} has no interface"
        yield from _addresses(host.name, host.addresses)
        yield from _ports(host.name, host.listen_port, *host.firewall.open_ports)
    for router in topology.routers:
        yield from _addresses(router.name, (router.address,))
        yield from _ports(router.name, *(forward.port for forward in router.forwards))
        if router.inside == INTERNET:
            yield f"router {router.name!r:.40} has the Internet inside"
        if router.nat is not None:
            yield from _nat(router.name, router.nat)
    inside = [router.inside for router in topology.routers]
    yield from (f"two routers lead out of {one!r:.40}" for one in set(inside) if inside.count(one) > 1)


def _addresses(name: str, addresses: tuple[str, ...]) -> Iterator[str]:
    for address in addresses:
        try:
            ip_address(address)
        except ValueError:
            yield f"{name!r:.40}: {address!r:.60} is no IP address"


def _ports(name: str, *ports: int) -> Iterator[str]:
    yield from (f"{name!r:.40}: {port} is no port" for port in ports if not 0 <= port <= 65535)


def _nat(name: str, rules: NatRules) -> Iterator[str]:
    if rules.step == 0:
        yield f"{name!r:.40}: its ports are 0 apart"
    if not 0 < rules.limit <= 65536:
        yield f"{name!r:.40}: {rules.limit} mappings are too few or too many"
