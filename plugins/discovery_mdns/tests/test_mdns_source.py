"""The source with a node and a network that are written by hand, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_interface

import anyio
import pytest
from coder_agent_discovery_mdns.lan import Found, Lan
from coder_agent_discovery_mdns.names import SERVICE_TYPE, instance_name
from coder_agent_discovery_mdns.responder import Announcement, Heard, _port6, _service
from coder_agent_discovery_mdns.source import POLL_INTERVAL, QUIET_INTERVAL, MdnsSource

from coder_agent.base.addresses import AddrPort
from coder_agent.base.keys import DiscoPublic, NodePublic
from coder_agent.base.node import Node
from coder_agent.testing.virtual_time import VirtualLoop

pytestmark = pytest.mark.anyio
ME = NodePublic(bytes([1]) * 32)
LAN = Lan("eth0", 2, (ip_interface("10.0.0.1/24"), ip_interface("fd00::1/64")))


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "asyncio", {"loop_factory": VirtualLoop}


def peer(number: int) -> Node:
    raw = bytes([number]) * 32
    return Node(id=number, key=NodePublic(raw), disco=DiscoPublic(raw), preferred_derp=0)


class Context:
    """A node as a candidate source sees it."""

    key = ME

    def __init__(self, *peers: Node) -> None:
        self.direct = self
        self.ports: tuple[int | None, int | None] = (4000, 6000)
        self.known = list(peers)
        self.suggested: list[tuple[float, NodePublic, list[AddrPort]]] = []
        self._handlers: list[Callable[[], None]] = []
        self._refresh = asyncio.Queue[str]()
        self._refresh.put_nowait("start")

    def bound_ports(self) -> tuple[int | None, int | None]:
        return self.ports

    def peers(self) -> Sequence[Node]:
        return self.known

    def on_peers(self, handler: Callable[[], None]) -> Callable[[], None]:
        self._handlers.append(handler)
        return lambda: self._handlers.remove(handler)

    def add(self, node: Node) -> None:
        self.known.append(node)
        for handler in self._handlers:
            handler()

    def suggest(self, source: str, peer: NodePublic, endpoints: Sequence[AddrPort]) -> None:
        assert source == "mdns"
        self.suggested.append((anyio.current_time(), peer, list(endpoints)))

    def refresh(self) -> None:
        self._refresh.put_nowait("rebind")

    async def wait_refresh(self) -> str:
        return await self._refresh.get()


class Network:
    """What is announced on the LAN, and what we announce there: `log` has announcements and goodbyes."""

    def __init__(self) -> None:
        self.there: dict[str, Found] = {}
        self.log: list[Announcement | str] = []
        self.asked: list[str] = []
        self.heard: Heard = lambda service, is_there: None
        self.broken = False

    @asynccontextmanager
    async def open(self, announcement: Announcement, heard: Heard) -> AsyncIterator[Network]:
        if self.broken:
            raise OSError("no multicast")
        self.log.append(announcement)
        self.heard = heard
        try:
            yield self
        finally:
            self.log.append("goodbye")

    async def look_up(self, name: str) -> Found | None:
        self.asked.append(name)
        await anyio.sleep(0.01)
        return self.there.get(name)

    def announce(self, node: Node, *addresses: str) -> None:
        name = instance_name(node.key)
        self.there[name] = Found(addresses, 7, 8)
        self.heard(f"{name}.{SERVICE_TYPE}", True)


class Run:
    """A running source."""

    def __init__(self, *peers: Node) -> None:
        self.context, self.network = Context(*peers), Network()
        self.lans = [LAN]
        self.source = MdnsSource(read=lambda: self.lans, open_responder=self.network.open)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Run]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.source.run, self.context)  # type: ignore[arg-type]  # what this source uses of it
            await anyio.sleep(0.1)
            yield self
            tasks.cancel_scope.cancel()

    def addresses(self, node: Node) -> list[AddrPort]:
        """What was last suggested for a peer."""
        return next((found for _, key, found in reversed(self.context.suggested) if key == node.key), [])


async def test_it_announces_a_hash_and_the_data_sockets_ports_and_says_goodbye() -> None:
    async with Run().running() as run:
        assert run.network.log == [
            Announcement(instance_name(ME), ("10.0.0.1", "fd00::1"), 4000, 6000, ("10.0.0.1", 2))
        ]
    assert run.network.log[1:] == ["goodbye"]


async def test_another_port_or_address_is_announced_anew_and_nothing_else_is() -> None:
    async with Run().running() as run:
        run.context.refresh()
        await anyio.sleep(POLL_INTERVAL * 2.5)
        assert len(run.network.log) == 1
        run.context.ports = (4001, None)
        run.context.refresh()
        await anyio.sleep(1)
        assert run.network.log[1:] == [
            "goodbye", Announcement(instance_name(ME), ("10.0.0.1",), 4001, 0, ("10.0.0.1",))
        ]  # fmt: skip
        run.lans = []
        await anyio.sleep(POLL_INTERVAL + 1)
        assert run.network.log[3:] == ["goodbye"]
        run.lans = [LAN]
        await anyio.sleep(POLL_INTERVAL + 1)
        assert len(run.network.log) == 5


async def test_peers_are_found_whether_they_were_there_first_come_later_or_become_known_later() -> None:
    first, later, stranger = peer(2), peer(3), peer(4)
    run = Run(first, later)
    run.network.announce(first, "10.0.0.2")
    async with run.running():
        assert run.addresses(first) == [AddrPort("10.0.0.2", 7)]
        run.network.announce(stranger, "10.0.0.4")
        await anyio.sleep(QUIET_INTERVAL)
        assert run.addresses(stranger) == []
        run.network.announce(later, "fd00::3", "203.0.113.1")
        await anyio.sleep(0.1)
        assert run.addresses(later) == [AddrPort("fd00::3", 8)]
        run.context.add(stranger)
        await anyio.sleep(0.1)
        assert run.addresses(stranger) == [AddrPort("10.0.0.4", 7)]
    assert run.source.counters == {"heard-others": 1, "heard-peers": 1, "addresses-ignored": 1}


async def test_who_says_goodbye_or_is_not_there_any_more_is_forgotten() -> None:
    friend = peer(2)
    run = Run(friend)
    run.network.announce(friend, "10.0.0.2")
    async with run.running():
        run.network.heard(f"{instance_name(friend.key)}.{SERVICE_TYPE}", False)
        assert run.addresses(friend) == []
        await anyio.sleep(QUIET_INTERVAL)
        run.network.announce(friend, "10.0.0.2")
        await anyio.sleep(0.1)
        assert run.addresses(friend) == [AddrPort("10.0.0.2", 7)]
        run.network.there.clear()
        run.context.ports = (1, 1)  # a rebind: everybody is looked for again
        run.context.refresh()
        await anyio.sleep(0.1)
        assert run.addresses(friend) == []


async def test_a_storm_of_announcements_of_one_peer_costs_a_look_up_per_second() -> None:
    friend = peer(2)
    async with Run(friend).running() as run:
        for number in range(1000):
            run.network.announce(friend, f"10.0.0.{2 + number % 200}")
            await anyio.sleep(0.01)
        await anyio.sleep(3 * QUIET_INTERVAL)
        assert len(run.network.asked) <= 13
        assert run.addresses(friend) == [AddrPort("10.0.0.201", 7)]  # the last word counts


async def test_ten_thousand_strangers_leave_nothing_but_a_number() -> None:
    async with Run(peer(2)).running() as run:
        for number in range(10_000):
            run.network.heard(f"{number:032x}.{SERVICE_TYPE}", True)
        run.network.heard("\\\\.\x00junk", True)
        await anyio.sleep(1)
        assert len(run.network.asked) == 1
        assert run.source.counters["heard-others"] == 10_001


async def test_a_machine_without_multicast_goes_on_without() -> None:
    run = Run(peer(2))
    run.network.broken = True
    async with run.running():
        assert run.source.counters["failed"] == 1
        run.network.broken = False
        run.context.ports = (1, 1)
        run.context.refresh()
        await anyio.sleep(0.1)
        assert len(run.network.log) == 1


def test_the_announcement_has_one_port_and_another_for_ipv6_only_where_it_differs() -> None:
    both = _service(Announcement("ab", ("10.0.0.1", "fd00::1"), 4000, 6000, ()))
    assert both.port == 4000
    assert both.properties == {b"v": b"1", b"p6": b"6000"}
    assert both.server == "ab.local."
    assert _port6(both.properties, 4000) == 6000
    same = _service(Announcement("ab", ("fd00::1",), 0, 6000, ()))
    assert same.port == 6000
    assert _port6(same.properties, 6000) == 6000


@pytest.mark.parametrize("text", [b"", b"-1", b"port", b"9" * 400, "٣".encode()])
def test_nonsense_for_a_port_is_no_port(text: bytes) -> None:
    assert _port6({b"p6": text}, 5) == 0
