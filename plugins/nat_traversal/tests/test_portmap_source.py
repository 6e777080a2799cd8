"""The port mapping source with real sockets on loopback, where a fake router listens; and how a gateway is found."""

from __future__ import annotations

import itertools
import os
import socket
import struct
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import cast

import anyio
import anyio.abc
import pytest
from coder_agent_nat_traversal import gateway as gateway_module
from coder_agent_nat_traversal.gateway import (
    Gateway,
    find_gateway,
    is_private,
    parse_ip_route,
    parse_netstat,
    parse_proc_route,
    parse_route_print,
)
from coder_agent_nat_traversal.lan_http import fetch
from coder_agent_nat_traversal.portmap import PortMapSource
from coder_agent_nat_traversal.portmap_probe import probe_gateway
from coder_agent_nat_traversal.settings import NatSettings
from coder_agent_nat_traversal.upnp import UpnpShell

from coder_agent.base.nat_facts import NatFacts
from coder_agent.hooks import Candidate, CandidateContext, CandidateKind
from coder_agent.protocols.portmap.igd import Target
from coder_agent.protocols.portmap.safe_xml import MAX_SIZE
from coder_agent.protocols.portmap.upnp import Request, Response, UpnpFailed
from coder_agent.protocols.portmap.values import AskUpnp, Protocol, Site

pytestmark = pytest.mark.anyio
OWN = "127.0.0.1"
PMP = frozenset({Protocol.PMP})
_numbers = itertools.count(1)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def router_address() -> str:
    """A loopback address of this test alone: the ports of the protocols are fixed."""
    number = next(_numbers)
    return f"127.{100 + os.getpid() % 100}.{os.getpid() // 100 % 250}.{number % 250 + 1}"


class Router:
    """NAT-PMP on port 5351 of an address."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.asked: list[str] = []
        self.booted = False
        self.inside = 0
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setblocking(False)
        self.sock.bind((address, 5351))

    async def serve(self) -> None:
        with self.sock:
            while True:
                await anyio.wait_readable(self.sock)
                data, source = self.sock.recvfrom(100)
                for reply in self.answers(data):
                    self.sock.sendto(reply, source)

    def answers(self, data: bytes) -> list[bytes]:
        epoch = 10 if self.booted else 10_000
        if data[0] != 0:
            return []
        if len(data) == 2:
            self.asked.append("address")
            return [struct.pack("!BBHI4s", 0, 128, 0, epoch, bytes((203, 0, 113, 7)))]
        inside, wanted, life = struct.unpack("!4xHHI", data)
        self.asked.append("map" if life else "delete")
        self.inside = inside
        return [struct.pack("!BBHIHHI", 0, 129, 0, epoch, inside, wanted, life)]


class FakeContext:
    """The part of a node that the source sees."""

    def __init__(self) -> None:
        self.direct = self
        self.port: int | None = 41641
        self.facts = NatFacts()
        self.published: list[list[Candidate]] = []
        self.news = anyio.Event()
        self.reasons = ["start"]
        self.wanted = anyio.Event()

    def bound_ports(self) -> tuple[int | None, int | None]:
        return self.port, None

    def publish(self, source: str, candidates: Sequence[Candidate]) -> None:
        assert source == "portmap"
        self.published.append(list(candidates))
        self.news.set()

    def report_nat(self, facts: NatFacts) -> None:
        self.facts = self.facts.updated(facts)

    async def wait_refresh(self) -> str:
        while not self.reasons:
            self.wanted = anyio.Event()
            await self.wanted.wait()
        return self.reasons.pop()

    def refresh(self) -> None:
        self.reasons.append("test")
        self.wanted.set()

    async def wait_published(self, count: int) -> list[str]:
        while len(self.published) < count:
            self.news = anyio.Event()
            await self.news.wait()
        assert all(candidate.kind is CandidateKind.PORTMAPPED for candidate in self.published[-1])
        return [str(candidate.addr) for candidate in self.published[-1]]


@asynccontextmanager
async def running(source: PortMapSource, context: FakeContext) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(source.run, cast(CandidateContext, context))
        with anyio.fail_after(60):
            yield
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def routing(address: str) -> AsyncIterator[Router]:
    router = Router(address)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(router.serve)
        yield router
        tasks.cancel_scope.cancel()


async def test_the_outside_address_is_published_and_given_back(router_address: str) -> None:
    async def find() -> Gateway:
        return Gateway(router_address, OWN)

    context = FakeContext()
    async with routing(router_address) as router:
        async with running(PortMapSource(PMP, find=find), context):
            assert await context.wait_published(1) == ["203.0.113.7:41641"]
            assert context.facts == NatFacts(port_mapping=frozenset({"pmp"}), port_mapped=True, gateway_asked=True)
        assert router.asked[-1] == "delete"


async def test_another_local_port_is_mapped_instead(router_address: str) -> None:
    async def find() -> Gateway:
        return Gateway(router_address, OWN)

    context = FakeContext()
    async with routing(router_address) as router, running(PortMapSource(PMP, find=find), context):
        await context.wait_published(1)
        context.port = 41642
        context.refresh()
        assert await context.wait_published(3) == ["203.0.113.7:41641"]  # the outside port that peers know
        assert context.published[1] == []
        assert "delete" in router.asked
        assert router.inside == 41642


async def test_an_active_node_notices_a_restarted_gateway(router_address: str) -> None:
    async def find() -> Gateway:
        return Gateway(router_address, OWN)

    context = FakeContext()
    async with routing(router_address) as router, running(PortMapSource(PMP, find=find), context):
        await context.wait_published(1)
        router.booted, router.asked = True, []
        context.refresh()
        while "map" not in router.asked:
            await anyio.lowlevel.checkpoint()
    assert len(context.published) == 1


async def test_without_a_gateway_nothing_is_sent_and_the_facts_say_so() -> None:
    looked = anyio.Event()

    async def find() -> Gateway | None:
        looked.set()
        return None

    context = FakeContext()
    async with running(PortMapSource(PMP, find=find), context):
        await looked.wait()
        while context.facts.gateway_asked is None:
            await anyio.lowlevel.checkpoint()
    assert context.facts == NatFacts(port_mapped=False, gateway_asked=False)
    assert context.published == []


async def test_an_address_that_has_just_gone_is_no_place(router_address: str) -> None:
    async def find() -> Gateway:
        return Gateway(router_address, "192.0.2.77")

    context = FakeContext()
    async with running(PortMapSource(frozenset(Protocol), find=find), context):
        while context.facts.gateway_asked is None:
            await anyio.lowlevel.checkpoint()
    assert context.facts.gateway_asked is False


async def test_the_probe_finds_what_answers_and_returns_when_it_knows(router_address: str) -> None:
    async with routing(router_address) as router:
        found = await probe_gateway(Gateway(router_address, OWN), protocols=frozenset({"pmp"}), timeout=60)
    assert found == {"pmp"}
    assert "map" not in router.asked
    assert await probe_gateway(Gateway(router_address, OWN), timeout=0.01) == frozenset()
    assert await probe_gateway(Gateway(router_address, "192.0.2.77")) == frozenset()
    assert await probe_gateway(Gateway(router_address, OWN), protocols=frozenset()) == frozenset()


def test_switches_choose_the_protocols() -> None:
    assert NatSettings().mapping_protocols() == frozenset(Protocol)
    assert NatSettings(pmp=False, upnp=False).mapping_protocols() == {Protocol.PCP}
    assert NatSettings(port_mapping=False).mapping_protocols() == frozenset()


# ------------------------------------------------------------ HTTP with a router that means no good


@contextmanager
def web(answer: bytes, *, is_open: bool = False) -> Iterator[int]:
    """A web server that answers anything with these bytes; `is_open`: and then says no more."""
    listener = socket.create_server((OWN, 0))
    connections: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections.append(connection)
            try:
                connection.recv(65536)
                connection.sendall(answer)
                if not is_open:
                    connection.close()
            except OSError:
                continue

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for connection in connections:
            connection.close()


async def get(port: int, timeout: float = 60.0) -> Response | None:
    return await fetch(OWN, Request(Target(port, "/"), {}), timeout)


async def test_a_response_is_read() -> None:
    with web(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") as port:
        assert await get(port) == Response(200, b"ok")
    with web(b"HTTP/1.0 500 Fault\r\n\r\nuntil the end") as port:
        assert await fetch(OWN, Request(Target(port, "/"), {"SOAPAction": '"x"'}, b"<x/>"), 20) == Response(
            500, b"until the end"
        )


async def test_a_redirect_is_an_answer_like_any_other() -> None:
    with web(b"HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\nContent-Length: 0\r\n\r\n") as port:
        assert await get(port) == Response(302, b"")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (MAX_SIZE + 1),
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000,
        b"\x00\x01\x02 nonsense\r\n\r\n",
        b"",
    ],
    ids=["huge", "short", "long head", "nonsense", "nothing"],
)
async def test_a_bad_response_is_none(answer: bytes) -> None:
    with web(answer) as port:
        assert await get(port) is None


async def test_a_slow_or_absent_router_is_not_waited_for() -> None:
    with web(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", is_open=True) as port:
        assert await get(port, 0.05) is None
    assert await get(1) is None


async def test_mapping_without_a_device_is_a_word() -> None:
    shell = UpnpShell(os.urandom, Counter())
    with pytest.raises(UpnpFailed, match="no-device"):
        await shell.map(AskUpnp(Site(OWN, OWN, 41641), 41641, 7200))


async def test_answers_of_strangers_do_not_find_a_device(router_address: str) -> None:
    """A flood from elsewhere is counted and ends the search."""
    counters: Counter[str] = Counter()
    shell = UpnpShell(os.urandom, counters)
    answer = (
        b"HTTP/1.1 200 OK\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n"
        b"LOCATION: http://192.0.2.1:80/evil\r\n\r\n"
    )

    async def flood(ask: socket.socket) -> None:
        await anyio.wait_readable(ask)
        _, searcher = ask.recvfrom(2048)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.bind((OWN, 0))
            while True:
                stranger.sendto(answer, searcher)
                await anyio.lowlevel.checkpoint()

    found: list[bool] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ask:
        ask.setblocking(False)
        ask.bind((router_address, 1900))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(flood, ask)
            await shell.search(Site(router_address, OWN, 41641), lambda: found.append(True))
            tasks.cancel_scope.cancel()
    assert found == []
    assert 0 < counters["ssdp-stranger"] <= 256


# ------------------------------------------------------------ the default route

LINUX = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
eth0\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth1\t00000000\t0200000A\t0002\t0\t0\t1\t00000000\t0\t0\t0
eth0\t0000000A\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
nonsense
"""
MACOS = """Routing tables

Internet:
Destination        Gateway            Flags           Netif Expire
default            link#12            UCSg            utun3
default            192.168.1.1        UGScg             en0
127                127.0.0.1          UCS               lo0
"""
WINDOWS = """
Active Routes:
Network Destination        Netmask          Gateway       Interface  Metric
          0.0.0.0          0.0.0.0      192.168.2.1    192.168.2.20     50
          0.0.0.0          0.0.0.0      192.168.1.1    192.168.1.20     25
          0.0.0.0          0.0.0.0         On-link      10.8.0.2        5
"""


def test_default_routes_are_read_on_each_system() -> None:
    assert parse_proc_route(LINUX) == "10.0.0.1"
    assert parse_netstat(MACOS) == "192.168.1.1"
    assert parse_route_print(WINDOWS) == "192.168.1.1"
    assert parse_ip_route("default via 192.168.1.1 dev eth0 proto dhcp\ndefault via 10.0.0.1 dev b") == "192.168.1.1"
    for parse in (parse_proc_route, parse_netstat, parse_route_print, parse_ip_route):
        assert parse("") is None
        assert parse("default via\ndefault\n0.0.0.0 0.0.0.0 x y z") is None


@pytest.mark.parametrize(
    ("address", "expected"),
    [("192.168.1.1", True), ("10.1.2.3", True), ("172.31.0.1", True), ("172.32.0.1", False), ("203.0.113.1", False)],
)
def test_only_home_networks_have_gateways_to_ask(address: str, expected: bool) -> None:
    assert is_private(address) is expected


async def test_a_public_gateway_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def public() -> str:
        return "203.0.113.1"

    monkeypatch.setattr(gateway_module, "_default_route", public)
    assert await find_gateway() is None
