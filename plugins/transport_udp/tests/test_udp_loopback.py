"""The whole transport over real sockets on loopback, in every offload mode, on both loops."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from coder_agent_transport_udp import sockets
from coder_agent_transport_udp.addresses import AddressBook, Target
from coder_agent_transport_udp.loops import AnyioLoop, AsyncioLoop, open_loop
from coder_agent_transport_udp.settings import UdpSettings
from coder_agent_transport_udp.transport import UdpTransport, UdpTransportFactory

from coder_agent.base.addresses import AddrPort
from coder_agent.base.burst import Burst
from coder_agent.base.keys import NodePrivate, NodePublic
from coder_agent.base.paths import DerpPath, Path, UdpPath
from coder_agent.hooks import Transport, TransportContext
from coder_agent.hooks.interfaces import MeasuringTransport

pytestmark = pytest.mark.anyio

HOSTS = ["127.0.0.1", "::1"]
OFFLOAD = {
    "offload": UdpSettings(),
    "no-gro": UdpSettings(gro=False),
    "no-gso": UdpSettings(gso=False),
    "off": UdpSettings(offload="off"),
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=list(OFFLOAD.values()), ids=list(OFFLOAD))
def settings(request: pytest.FixtureRequest) -> UdpSettings:
    chosen: UdpSettings = request.param
    return chosen


class RecordingSink:
    """Keeps what it is told and lets tests wait for it."""

    def __init__(self) -> None:
        self.packets: list[bytes] = []
        self.bursts: list[int] = []
        self.paths: list[Path] = []
        self.errors: list[tuple[Path, int | None]] = []
        self.drained = 0
        self.writable = 0
        self._changed = anyio.Event()

    def _change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def on_burst(self, burst: Burst, path: Path) -> None:
        self.packets += [bytes(row) for row in burst.rows()]
        self.bursts.append(burst.count)
        self.paths.append(path)

    def on_drained(self) -> None:
        self.drained += 1
        self._change()

    def on_writable(self, transport: Transport) -> None:
        self.writable += 1
        self._change()

    def on_path_error(self, path: Path, error: OSError) -> None:
        self.errors.append((path, error.errno))
        self._change()

    async def until(self, condition: Callable[[], bool]) -> None:
        with anyio.fail_after(30):
            while not condition():
                await self._changed.wait()


class Pair:
    """A sending and a receiving transport."""

    def __init__(self, sender: UdpTransport, receiver: UdpTransport, sent: RecordingSink, got: RecordingSink) -> None:
        self.sender = sender
        self.receiver = receiver
        self.sent = sent
        self.got = got

    def path(self, host: str) -> UdpPath:
        """From the sender to the receiver."""
        port = self.receiver.bound_ports()[":" in host]
        assert port is not None
        return UdpPath(AddrPort(host, port))


@asynccontextmanager
async def open_pair(settings: UdpSettings, *, portable: bool = False) -> AsyncIterator[Pair]:
    async with open_loop(portable=portable) as loop:
        sent, got = RecordingSink(), RecordingSink()
        sender, receiver = UdpTransport(sent, settings, loop), UdpTransport(got, settings, loop)
        try:
            yield Pair(sender, receiver, sent, got)
        finally:
            sender.close()
            receiver.close()


def burst_of(count: int, size: int, *, last: int = 0, headroom: int = 0) -> Burst:
    stride = size + headroom
    buffer = bytearray(stride * count)
    for index in range(count):
        start = index * stride + headroom
        buffer[start : start + size] = index.to_bytes(2, "big") * (size // 2)
    return Burst(memoryview(buffer), headroom, stride, count, size, last or size, headroom)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("headroom", [0, 37])
async def test_a_burst_arrives_row_by_row_intact(settings: UdpSettings, host: str, headroom: int) -> None:
    burst = burst_of(49, 1312, last=48, headroom=headroom)
    expected = [bytes(row) for row in burst.rows()]
    async with open_pair(settings) as pair:
        assert pair.sender.send(burst, pair.path(host))
        await pair.got.until(lambda: len(pair.got.packets) >= 49)
        assert pair.got.packets == expected
        source = AddrPort(host, pair.sender.bound_ports()[":" in host] or 0)
        assert set(pair.got.paths) == {UdpPath(source)}
        assert pair.receiver.stats()["rx_packets"] == pair.sender.stats()["tx_packets"] == 49
        assert pair.receiver.stats()["rx_bytes"] == pair.sender.stats()["tx_bytes"] == burst.size_bytes


@pytest.mark.skipif(sys.platform != "linux", reason="offload is Linux's")
async def test_with_offload_a_burst_is_one_call_each_way() -> None:
    async with open_pair(UdpSettings()) as pair:
        assert pair.sender.send(burst_of(49, 1312), pair.path("127.0.0.1"))
        await pair.got.until(lambda: len(pair.got.packets) >= 49)
        assert pair.got.bursts == [49]
        assert pair.sender.stats()["tx_calls"] == 1


async def test_without_offload_the_receiver_still_sees_bursts() -> None:
    async with open_pair(UdpSettings(offload="off")) as pair:
        assert pair.sender.send(burst_of(49, 1312), pair.path("127.0.0.1"))
        await pair.got.until(lambda: len(pair.got.packets) >= 49)
        assert pair.got.bursts == [49]
        assert pair.sender.stats()["tx_calls"] == 49


async def test_mixed_sizes_keep_their_order(settings: UdpSettings) -> None:
    bursts = [burst_of(3, 1312), burst_of(1, 32), burst_of(2, 148), burst_of(9, 1312, last=100), burst_of(70, 64)]
    expected = [bytes(row) for burst in bursts for row in burst.rows()]
    async with open_pair(settings) as pair:
        for burst in bursts:
            assert pair.sender.send(burst, pair.path("127.0.0.1"))
        await pair.got.until(lambda: len(pair.got.packets) >= len(expected))
        assert pair.got.packets == expected


async def test_the_portable_loop_carries_bursts_both_ways_and_survives_a_rebind() -> None:
    async with open_pair(UdpSettings(), portable=True) as pair:
        for _ in range(2):
            pair.got.packets.clear()
            pair.sent.packets.clear()
            path = pair.path("127.0.0.1")
            assert pair.sender.send(burst_of(49, 1312), path)
            await pair.got.until(lambda: len(pair.got.packets) >= 49)
            assert pair.receiver.send(Burst.of(b"thanks"), pair.got.paths[-1])
            await pair.sent.until(lambda: pair.sent.packets == [b"thanks"])
            pair.receiver.rebind()
            assert pair.path("127.0.0.1") == path


async def test_a_rebind_keeps_the_ports_and_wakes_whoever_waits() -> None:
    async with open_pair(UdpSettings()) as pair:
        before = pair.receiver.bound_ports()
        link = pair.receiver._v4
        assert link is not None
        link.sender._blocked = True
        pair.receiver.rebind()
        assert pair.receiver.bound_ports() == before
        assert pair.sender.send(Burst.of(b"after"), pair.path("127.0.0.1"))
        await pair.got.until(lambda: pair.got.packets == [b"after"] and pair.got.writable == 1)
        assert pair.receiver.stats()["rebinds"] == 1


class Refusing:
    """A socket of which the first sends fail with an error, in place of the real one."""

    def __init__(self, sock: socket.socket, *failures: OSError) -> None:
        self._sock = sock
        self._failures = list(failures)

    def sendto(self, data: Any, address: Any) -> int:
        if self._failures:
            raise self._failures.pop(0)
        return self._sock.sendto(data, address)


@pytest.mark.parametrize("portable", [False, True])
async def test_a_full_socket_says_so_and_asks_again(portable: bool) -> None:
    async with open_pair(UdpSettings(ipv6=False), portable=portable) as pair:
        link = pair.sender._v4
        assert link is not None
        link.sender._sock = Refusing(link.bound.sock, BlockingIOError())  # type: ignore[assignment]
        assert not pair.sender.send(Burst.of(b"one"), pair.path("127.0.0.1"))
        assert not pair.sender.send(Burst.of(b"two"), pair.path("127.0.0.1"))
        assert pair.sender.stats()["tx_full"] == 2
        await pair.sent.until(lambda: pair.sent.writable == 1)
        assert pair.sender.send(Burst.of(b"three"), pair.path("127.0.0.1"))
        await pair.got.until(lambda: bool(pair.got.packets))
        assert pair.got.packets == [b"three"]


async def test_a_dead_path_is_reported_after_the_send() -> None:
    async with open_pair(UdpSettings(ipv6=False)) as pair:
        link = pair.sender._v4
        assert link is not None
        dead = [OSError(errno.EHOSTUNREACH, "no route")] * 2
        link.sender._sock = Refusing(link.bound.sock, *dead)  # type: ignore[assignment]
        path = pair.path("127.0.0.1")
        assert pair.sender.send(Burst.of(b"one"), path)
        assert pair.sender.send(Burst.of(b"two"), path)
        assert pair.sent.errors == []
        await pair.sent.until(lambda: bool(pair.sent.errors))
        assert pair.sent.errors == [(path, errno.EHOSTUNREACH)]


async def test_what_cannot_be_sent_to_is_lost_and_counted() -> None:
    async with open_pair(UdpSettings(ipv6=False)) as pair:
        for path in (
            UdpPath(AddrPort("name.example", 1)),
            UdpPath(AddrPort("127.0.0.1", 0)),
            UdpPath(AddrPort("::1", 9)),  # IPv6 is switched off
            DerpPath(1, NodePublic(bytes(32))),
        ):
            assert pair.sender.send(Burst.of(b"x"), path)
        assert pair.sender.stats()["tx_lost_no_socket"] == 4
        assert pair.sender.bound_ports()[1] is None


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere fragments cannot be forbidden")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_probe_goes_whole_or_not_at_all_and_data_as_before(host: str) -> None:
    async with open_pair(UdpSettings()) as pair:
        sender, path = pair.sender, pair.path(host)
        assert isinstance(sender, MeasuringTransport)
        link = sender._v6 if ":" in host else sender._v4
        assert link is not None
        level, option = (socket.IPPROTO_IPV6, 23) if ":" in host else (socket.IPPROTO_IP, 10)
        usual = link.bound.sock.getsockopt(level, option)
        assert sender.send_whole(Burst.of(bytes(8972)), path)
        assert not sender.send_whole(Burst.of(bytes(65536)), path)
        assert sender.stats()["tx_probes_refused"] == 1
        assert sender.stats()["tx_lost_too_big"] == 0, "data was not concerned"
        assert link.bound.sock.getsockopt(level, option) == usual
        await pair.got.until(lambda: bool(pair.got.packets))
        assert [len(packet) for packet in pair.got.packets] == [8972]


async def test_a_probe_to_nowhere_is_refused() -> None:
    async with open_pair(UdpSettings(ipv6=False)) as pair:
        assert not pair.sender.send_whole(Burst.of(b"x"), UdpPath(AddrPort("::1", 9)))
        assert not pair.sender.send_whole(Burst.of(b"x"), DerpPath(1, NodePublic(bytes(32))))


async def test_too_large_a_datagram_is_lost_and_counted() -> None:
    async with open_pair(UdpSettings(ipv6=False)) as pair:
        assert pair.sender.send(Burst.of(bytes(65508)), pair.path("127.0.0.1"))
        assert pair.sender.stats()["tx_lost_too_big"] == 1
        assert pair.sender.send(Burst.of(bytes(65507)), pair.path("127.0.0.1"))
        await pair.got.until(lambda: bool(pair.got.packets))
        assert [len(packet) for packet in pair.got.packets] == [65507]


async def test_junk_of_every_size_from_a_stranger_does_no_harm(settings: UdpSettings) -> None:
    async with open_pair(settings) as pair:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            for size in (0, 1, 19, 1500, 9000, 65507, 0):
                stranger.sendto(bytes(size), pair.path("127.0.0.1").addr)
        assert pair.sender.send(Burst.of(b"end"), pair.path("127.0.0.1"))
        await pair.got.until(lambda: b"end" in pair.got.packets)
        assert [len(packet) for packet in pair.got.packets] == [1, 19, 1500, 9000, 65507, 3]
        assert pair.receiver.stats()["rx_empty"] == 2


async def test_a_taken_port_is_replaced_and_both_families_share_theirs() -> None:
    async with open_loop() as loop:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as occupied:
            occupied.bind(("", 0))
            taken = occupied.getsockname()[1]
            transport = UdpTransport(RecordingSink(), UdpSettings(), loop, taken)
            v4, v6 = transport.bound_ports()
            transport.close()
        assert v4 not in (None, taken)
        assert v6 == taken  # IPv6 had the configured port free
        transport = UdpTransport(RecordingSink(), UdpSettings(port=taken), loop)
        assert transport.bound_ports() == (taken, taken)
        transport.close()
        assert transport.bound_ports() == (None, None)


async def test_a_host_without_udp_keeps_a_transport_that_loses_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> socket.socket:
        raise OSError(errno.EAFNOSUPPORT, "no such family")

    monkeypatch.setattr(sockets, "_bind", refuse)
    async with open_loop() as loop:
        transport = UdpTransport(RecordingSink(), UdpSettings(), loop)
        assert transport.bound_ports() == (None, None)
        assert transport.send(Burst.of(b"x"), UdpPath(AddrPort("127.0.0.1", 9)))
        assert transport.stats()["receive_buffer"] == 0
        monkeypatch.undo()
        transport.rebind()
        assert transport.bound_ports()[0] is not None
        transport.close()


async def test_the_kernel_grants_what_the_stats_say() -> None:
    async with open_pair(UdpSettings(receive_buffer=65536, send_buffer=32768)) as pair:
        stats = pair.sender.stats()
        assert stats["receive_buffer"] >= 65536
        assert stats["send_buffer"] >= 32768


async def test_the_factory_opens_what_the_hook_promises() -> None:
    sink = RecordingSink()
    context = TransportContext(sink=sink, node_key=NodePrivate(bytes(32)), emit=lambda event: None)
    factory = UdpTransportFactory(UdpSettings())
    assert factory.kind == "direct"
    async with factory.open(context) as transport:
        port = transport.bound_ports()[0]
        assert port
        assert transport.send(Burst.of(b"to myself"), UdpPath(AddrPort("127.0.0.1", port)))
        await sink.until(lambda: sink.packets == [b"to myself"])
    assert transport.bound_ports() == (None, None)


async def test_the_loop_is_asyncios_own_unless_asked_otherwise() -> None:
    async with open_loop() as loop:
        assert isinstance(loop, AsyncioLoop)
    async with open_loop(portable=True) as loop:
        assert isinstance(loop, AnyioLoop)


def test_addresses_are_normalised_and_bounded() -> None:
    book = AddressBook(limit=3)
    assert book.path(("::ffff:192.0.2.1", 5, 0, 0)) == UdpPath(AddrPort("192.0.2.1", 5))
    assert book.path(("192.0.2.1", 5)) is book.path(("192.0.2.1", 5))
    assert book.target(AddrPort("::ffff:192.0.2.1", 5)) == Target(False, ("192.0.2.1", 5))
    assert book.target(AddrPort("2001:DB8::1", 5)) == Target(True, ("2001:db8::1", 5, 0, 0))
    assert book.target(AddrPort("192.0.2.1", 70000)) is None
    for port in range(1, 50):
        book.path(("192.0.2.1", port))
        book.target(AddrPort("192.0.2.1", port))
    assert len(book._paths) <= 3
    assert len(book._targets) <= 3


def test_a_link_local_peer_is_answered_through_its_interface() -> None:
    book = AddressBook()
    heard = book.path(("fe80::1", 5, 0, 7))
    assert heard == UdpPath(AddrPort("fe80::1", 5))
    assert book.target(heard.addr) == Target(True, ("fe80::1", 5, 0, 7))
