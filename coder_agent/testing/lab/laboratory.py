"""A topology brought to life: its network, a `SimHost` for every host, and a coordinator between them.

lab = Lab(topology_of(Pair("easy", "easy")), seed=1)
a, b = lab.host("a"), lab.host("b")
lab.introduce()
a.send_each(b, 0.1, lab.now + 5)
lab.run(5, until=lambda: a.is_direct(b) and b.is_direct(a))
"""

from __future__ import annotations

from collections.abc import Callable

from ...base.keys import NodePublic
from .clock import Clock
from .host import SimHost
from .network import Network
from .topology import Topology

COORDINATION_DELAY = 0.050
"""Seconds until the coordinator has told one node's news to the others."""
START = 1000.0
"""Virtual time at the start: no code may rely on a clock that begins at zero."""


class Lab:
    """Everything deterministic: the same topology, seed and calls give the same packets at the same times."""

    def __init__(self, topology: Topology, seed: int = 1) -> None:
        self.clock = Clock(seed, START)
        self.network = Network(topology, self.clock)
        self.hosts = [SimHost(self, host.name) for host in topology.hosts]
        self._by_key = {host.key: host for host in self.hosts}
        self._told: dict[SimHost, dict[SimHost, None]] = {}

    @property
    def now(self) -> float:
        """Virtual seconds."""
        return self.clock.now

    def host(self, name: str) -> SimHost:
        """The host of that name. Raises KeyError."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise KeyError(name)

    def by_key(self, key: NodePublic) -> SimHost | None:
        """The host with that node key."""
        return self._by_key.get(key)

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let `seconds` pass, or less if `until` becomes true; says whether it did."""
        return self.clock.run(seconds, until)

    def start(self, *names: str) -> None:
        """These hosts (none named: all) look around, as nodes do before anybody is introduced to them."""
        for host in self.hosts:
            if not names or host.name in names:
                host.start()

    def introduce(self, *names: str, endpoints: bool = True) -> None:
        """These hosts (none named: all) learn of each other, now; later endpoints are told as they change.

        `endpoints` False: the coordinator knows and tells none; call-me-maybe has to do.
        """
        chosen = [host for host in self.hosts if not names or host.name in names]
        for host in chosen:
            host.start()
        for host in chosen:
            for other in chosen:
                if other is not host:
                    host.meet(other, None if endpoints else ())
                    if endpoints:
                        self._told.setdefault(other, {})[host] = None

    def announce(self, host: SimHost) -> None:
        """A host has published endpoints: those who know it hear of them."""
        for listener in self._told.get(host, ()):
            endpoints = host.endpoints
            self.clock.call_at(
                self.now + COORDINATION_DELAY,
                lambda listener=listener, endpoints=endpoints: listener.meet(host, endpoints),  # type: ignore[misc]
            )
