"""A relay transport that does what `RelayTransport` asks and no more, as somebody else's may: nodes work by it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from coder_agent.base.burst import Burst
from coder_agent.base.derp_map import DerpMap
from coder_agent.base.paths import DerpPath, Path
from coder_agent.hooks.interfaces import DoubtingTransport, RecoveringTransport, RelayTransport, WarmTransport
from coder_agent.protocols.netstack.listening import SynRequest
from coder_agent.testing.lab import Cut, Host, Interface, LinkRules, Region, Topology
from coder_agent.testing.lab.world import LabTransport, VirtualNode, World

ABILITIES = (RecoveringTransport, WarmTransport, DoubtingTransport)


class PlainRelay:
    """The six methods, over the laboratory's relays."""

    name = "plain"
    headroom = 0

    def __init__(self, node: VirtualNode) -> None:
        self._node = node

    def send(self, burst: Burst, path: Path) -> bool:
        assert isinstance(path, DerpPath)
        self._node.world.relay(self._node, burst, path)
        return True

    def stats(self) -> Mapping[str, int]:
        return {}

    def set_map(self, derp_map: DerpMap) -> None:
        """There is none."""

    def set_home(self, region: int) -> None:
        """It is the topology's."""

    def forced_websocket(self) -> Mapping[int, str]:
        return {}

    def connected(self, region: int) -> bool:
        return True


def two() -> tuple[World, VirtualNode, VirtualNode]:
    hosts = tuple(
        Host(name, (Interface(f"10.0.0.{number}"),), home=1, second=2, allow_direct=False)
        for number, name in enumerate("ab", 1)
    )
    topology = Topology(hosts=hosts, stun=(), regions=(Region(1), Region(2)), core=LinkRules(cut=Cut.UDP))
    world = World(1, topology=topology)
    a, b = (world.node(name) for name in "ab")
    for node in (a, b):
        relay: RelayTransport = PlainRelay(node)  # all that a type checker asks for
        node.engine.relay = relay
    world.introduce(a, b, endpoints=False)
    return world, a, b


def answered(world: World, a: VirtualNode, b: VirtualNode, port: int) -> bool:
    """Does a connection come about?"""
    accepted: list[object] = []

    def accept(request: SynRequest) -> None:
        accepted.append(request.accept(world.now))

    b.engine.stack.on_syn = accept
    a.engine.stack.connect(b.address, port, world.now)
    a.engine.kick()
    return world.run(10, lambda: bool(accepted))


def test_it_has_none_of_the_abilities_and_the_laboratorys_has_all() -> None:
    _, a, _ = two()
    assert not any(isinstance(a.engine.relay, ability) for ability in ABILITIES)
    assert all(isinstance(LabTransport(a, "relay"), ability) for ability in ABILITIES)


@pytest.mark.parametrize("event", ["nothing", "sleep", "another network", "relay killed", "relay silent"])
def test_a_node_works_by_it_whatever_happens(event: str) -> None:
    world, a, b = two()
    assert answered(world, a, b, 80)
    match event:
        case "sleep":
            a.engine.woke()
        case "another network":
            a.engine.link_changed(way_out=True)
        case "relay killed":
            world.kill_relay(1)
        case "relay silent":
            world.set_region(1, silent_for=("a",))
    a.engine.keep_warm(2)
    assert answered(world, a, b, 81)
    assert not a.engine.counters["bugs"]
