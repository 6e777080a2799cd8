"""STUN through sockets of its own: one round that asks every server."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

import anyio
import anyio.lowlevel

from coder_agent.base.addresses import AddrPort
from coder_agent.base.derp_map import DerpMap, DerpNode
from coder_agent.hooks import Egress, Purpose
from coder_agent.hooks.egress import OPEN

from ..interfaces import Address, Family, families_of
from ..plan import Probe, literal_address, plan_round, stun_port
from ..report import StunRound
from ..resolver import Resolver

PATIENCE = 1.0
"""Seconds after which those that have not answered are given up, if others have: the last try left after 0.2 s."""
READ_LIMIT = 64
"""Datagrams read before others get a turn: a flood must not stop the clock."""


@dataclass(slots=True)
class StunFindings:
    """What a round found. Nodes are keyed by name; `errors` says why one could not be asked or did not answer."""

    round: StunRound
    latency: dict[tuple[str, Family], float] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    sent: set[Family] = field(default_factory=set)


class Sockets(Protocol):
    """How to send and receive, one socket per family."""

    @property
    def families(self) -> frozenset[Family]:
        """Families that there are sockets of."""
        ...

    def send(self, data: bytes, family: Family, destination: AddrPort) -> None:
        """Send one datagram. Raises OSError."""
        ...

    async def listen(self, family: Family, handler: Callable[[bytes], None]) -> None:
        """Hand over every datagram until cancelled."""
        ...


class UdpSockets:
    """The system's own."""

    def __init__(self, sockets: dict[Family, socket.socket]) -> None:
        self._sockets = sockets

    @property
    def families(self) -> frozenset[Family]:
        """Families that could be bound."""
        return frozenset(self._sockets)

    def send(self, data: bytes, family: Family, destination: AddrPort) -> None:
        """Raises OSError."""
        self._sockets[family].sendto(data, tuple(destination))

    async def listen(self, family: Family, handler: Callable[[bytes], None]) -> None:
        """Hand over every datagram until cancelled."""
        sock = self._sockets[family]
        while True:
            await anyio.wait_readable(sock)
            for _ in range(READ_LIMIT):
                try:
                    data = sock.recv(2048)
                except BlockingIOError:
                    break
                except OSError:  # an ICMP error for something we sent
                    continue
                handler(data)
            await anyio.lowlevel.checkpoint()


@contextmanager
def open_sockets() -> Iterator[UdpSockets]:
    """Bind a socket of each family; one that the system does not have is left out."""
    found: dict[Family, socket.socket] = {}
    kinds: tuple[tuple[Family, socket.AddressFamily], ...] = (("v4", socket.AF_INET), ("v6", socket.AF_INET6))
    with ExitStack() as exits:
        for family, kind in kinds:
            try:
                sock = exits.enter_context(socket.socket(kind, socket.SOCK_DGRAM))
                if family == "v6":
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.setblocking(False)
                sock.bind(("::" if family == "v6" else "0.0.0.0", 0))
                found[family] = sock
            except OSError:
                continue
        yield UdpSockets(found)


def per_node(derp_map: DerpMap) -> tuple[DerpMap, list[DerpNode]]:
    """A map in which every node is a region of its own, numbered by its place in the list: all shall answer."""
    nodes: list[DerpNode] = []
    regions = {}
    for region in derp_map.regions.values():
        for node in region.nodes:
            nodes.append(node)
            regions[len(nodes)] = replace(region, region_id=len(nodes), nodes=(node,), no_measure_no_home=False)
    return DerpMap(regions), nodes


class StunProber:
    """One run over all nodes of a map."""

    def __init__(
        self,
        derp_map: DerpMap,
        sockets: Sockets,
        addresses: list[Address],
        *,
        rng: Callable[[int], bytes] = os.urandom,
        resolver: Resolver | None = None,
        egress: Egress = OPEN,
    ) -> None:
        flat, self._nodes = per_node(derp_map)
        self._sockets = sockets
        self._egress = egress
        self._resolver = resolver or Resolver(egress=egress)
        self._families = families_of(addresses) & sockets.families
        sets = plan_round(flat, self._families, None)
        now = anyio.current_time()
        whole = StunRound(sets, rng, now, own=addresses, enough=len(self._nodes) + 1, patience=PATIENCE)
        self.found = StunFindings(whole)
        self._wake = anyio.Event()
        asked = {probe.region for probes in sets for probe in probes}
        for number, node in enumerate(self._nodes, 1):
            if stun_port(node) is not None and number not in asked:
                self.found.errors[node.name] = "this machine has no address of a family that the server has"

    async def run(self) -> StunFindings:
        """Ask, wait, and say what came of it. Bounded by the round's own time-out."""
        current = self.found.round
        async with anyio.create_task_group() as tasks:
            for family in self._sockets.families:
                tasks.start_soon(self._sockets.listen, family, self._received)
            while not current.finished(anyio.current_time()):
                for probe in current.due(anyio.current_time()):
                    tasks.start_soon(self._ask, probe)
                with anyio.move_on_after(current.deadline() - anyio.current_time()):
                    await self._wake.wait()
                self._wake = anyio.Event()
            tasks.cancel_scope.cancel()
        self._conclude()
        return self.found

    def _received(self, data: bytes) -> None:
        if self.found.round.receive(data, anyio.current_time()) is not None:
            self._wake.set()

    async def _ask(self, probe: Probe) -> None:
        node = probe.node
        address, port = literal_address(node, probe.family), stun_port(node)
        if address == "":
            address = await self._resolver.resolve(node.host_name, probe.family, port or 0)
            if address is None:
                self.found.errors.setdefault(node.name, f"the name {node.host_name} cannot be found")
        if address is None or port is None:
            return
        destination = AddrPort.of(address, port)
        if not self._egress.allows_address(destination.host, port, Purpose.STUN):
            self.found.errors.setdefault(node.name, f"{destination} may not be asked: the egress policy forbids it")
            return
        try:
            self._sockets.send(
                self.found.round.request(probe, destination, anyio.current_time()), probe.family, destination
            )
            self.found.sent.add(probe.family)
        except OSError as error:
            if error.errno == errno.EPERM:  # a local firewall; the system did take the packet
                self.found.sent.add(probe.family)
            reason = error.strerror or str(error)
            self.found.errors.setdefault(node.name, f"a UDP packet to {destination} cannot be sent: {reason}")

    def _conclude(self) -> None:
        current = self.found.round
        for number, node in enumerate(self._nodes, 1):
            heard = {family: current.latency.get((number, family)) for family in current.families_of(number)}
            for family, latency in heard.items():
                if latency is not None:
                    self.found.latency[node.name, family] = latency
                    self.found.errors.pop(node.name, None)
            if heard and not any(heard.values()):
                where = f"{node.stun_test_ip or node.host_name}:{stun_port(node)}"
                self.found.errors.setdefault(node.name, f"no answer over UDP from {where}")
