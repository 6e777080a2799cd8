"""A path core that searches nothing: each peer has one fixed UDP address. For peers that speak WireGuard but no disco.

paths = StaticPaths({peer: AddrPort("10.77.0.1", 51820)})
async with open_node(config, magicsock=paths) as node: ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..base.addresses import AddrPort
from ..base.keys import DiscoPrivate, DiscoPublic, NodePublic
from ..base.paths import Path, PathKind, UdpPath
from ..magicsock.core import Magicsock
from ..magicsock.effects import Effect, Route
from ..magicsock.status import PathStatus
from ..protocols.effects import Dropped

NO_DISCO = DiscoPublic(bytes(32))
"""What to put where a peer's disco key is asked for."""


class StaticPaths(Magicsock):
    """Magicsock's face without its mind: sends no disco, ignores what it receives, and never doubts an address.

    A peer without an address has no route. Not guaranteed: roaming; a peer that moves is lost.
    """

    def __init__(self, addresses: Mapping[NodePublic, AddrPort]) -> None:
        nobody = NodePublic(bytes(32))
        super().__init__(nobody, DiscoPrivate(bytes(31) + b"\x40"), rng=bytes)
        self._routes = {peer: Route(udp=UdpPath(address), derp=None) for peer, address in addresses.items()}

    def upsert_peer(
        self, key: NodePublic, disco: DiscoPublic, *, home: int, endpoints: Sequence[AddrPort], now: float
    ) -> list[Effect]:
        """Nothing: addresses were given at the start."""
        return []

    def route(self, peer: NodePublic, now: float) -> tuple[Route | None, list[Effect]]:
        """The fixed address, always."""
        return self._routes.get(peer), []

    def receive_disco(self, packet: bytes | memoryview, path: Path, now: float) -> list[Effect]:
        """Counted, not answered."""
        dropped = Dropped("no-disco-here")
        self.counters[dropped.reason] += 1
        return [dropped]

    def send_failed(self, path: Path, now: float, *, too_big: bool = False) -> list[Effect]:
        """Nothing: there is no other way."""
        return []

    def path(self, peer: NodePublic) -> PathStatus:
        """Direct, for those who have an address."""
        route = self._routes.get(peer)
        return PathStatus() if route is None else PathStatus(PathKind.DIRECT, route.udp and route.udp.addr, active=True)
