"""Two of our clients and our relay, over real loopback sockets: plain, TLS, back-pressure, restart, routes."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path as FilePath

import anyio
import anyio.lowlevel
import pytest
import trustme
from coder_agent_transport_derp.connection import LINK_PATIENCE
from coder_agent_transport_derp.relay import DerpRelay
from coder_agent_transport_derp.standalone import serve_relay
from coder_agent_transport_derp.transport import IDLE_AFTER, DerpTransport, DerpTransportFactory
from coder_agent_transport_derp.wire import TransportWire
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from coder_agent.base.addresses import AddrPort
from coder_agent.base.burst import Burst
from coder_agent.base.derp_map import DerpMap, DerpNode, DerpRegion
from coder_agent.base.keys import NodePrivate
from coder_agent.base.paths import DerpPath, Path
from coder_agent.errors import ConfigError
from coder_agent.hooks.events import Event, RelayChanged
from coder_agent.hooks.interfaces import DialOptions, Transport, TransportContext
from coder_agent.protocols.derp.server import RelaySettings

pytestmark = pytest.mark.anyio


LOOPS: list[object] = ["asyncio"]
if find_spec("uvloop") is not None:  # its transports keep what they are given: the relay must notice
    LOOPS.append(pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"))


every_loop = pytest.mark.parametrize("anyio_backend", LOOPS)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Sink:
    """Keeps what arrives; `wait` returns once a condition holds."""

    def __init__(self) -> None:
        self.packets: list[tuple[bytes, Path]] = []
        self.bursts = 0
        self.errors: list[tuple[Path, OSError]] = []
        self.events: list[Event] = []
        self.writable = 0
        self._changed = anyio.Event()

    def on_burst(self, burst: Burst, path: Path) -> None:
        self.bursts += 1
        self.packets += [(bytes(row), path) for row in burst.rows()]

    def on_drained(self) -> None:
        self._touch()

    def on_writable(self, transport: Transport) -> None:
        self.writable += 1
        self._touch()

    def on_path_error(self, path: Path, error: OSError) -> None:
        self.errors.append((path, error))
        self._touch()

    def emit(self, event: Event) -> None:
        self.events.append(event)
        self._touch()

    def _touch(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def wait(self, condition: Callable[[], object]) -> None:
        with anyio.fail_after(60):
            while not condition():
                await self._changed.wait()


class Peer:
    """A client transport with its key and sink."""

    def __init__(self, transport: DerpTransport, key: NodePrivate, sink: Sink) -> None:
        self.transport = transport
        self.public = key.public()
        self.sink = sink


def region(address: AddrPort, region_id: int = 1, **fields: object) -> DerpRegion:
    node = DerpNode(f"{region_id}a", region_id, "localhost", ipv4=address.host, ipv6="none", derp_port=address.port)
    return DerpRegion(region_id, "test", "Test", (replace(node, **fields),))  # type: ignore[arg-type]


def plain_map(address: AddrPort) -> DerpMap:
    return DerpMap({1: region(address, force_http=True)})


@asynccontextmanager
async def peer(derp_map: DerpMap, home: int = 1, **context: object) -> AsyncIterator[Peer]:
    sink, key = Sink(), NodePrivate.generate(os.urandom)
    settings = TransportContext(sink, key, sink.emit, **context)  # type: ignore[arg-type]
    async with DerpTransportFactory().open(settings) as transport:
        assert isinstance(transport, DerpTransport)
        transport.set_map(derp_map)
        transport.set_home(home)
        if home:
            await sink.wait(lambda: transport.connected(home))
        yield Peer(transport, key, sink)


def rows(count: int, length: int = 1312, headroom: int = 37) -> Burst:
    stride = length + headroom
    buffer = bytearray(count * stride)
    for i in range(count):
        buffer[i * stride + headroom : (i + 1) * stride] = i.to_bytes(4, "big") + bytes([i % 251]) * (length - 4)
    return Burst(memoryview(buffer), headroom, stride, count, length, length, headroom)


@every_loop
async def test_a_burst_crosses_the_relay_as_one_burst() -> None:
    async with serve_relay(DerpRelay()) as address, peer(plain_map(address)) as a, peer(plain_map(address)) as b:
        burst = rows(40)
        sent = [bytes(row) for row in burst.rows()]
        assert a.transport.send(burst, DerpPath(1, b.public))
        await b.sink.wait(lambda: len(b.sink.packets) == 40)
        assert [data for data, _ in b.sink.packets] == sent
        assert {path for _, path in b.sink.packets} == {DerpPath(1, a.public)}
        assert b.sink.bursts < 10


async def test_tls_with_a_private_ca_and_a_rejected_name(tmp_path: FilePath) -> None:
    ca = trustme.CA()
    ca_file = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(ca_file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(context)
    dial = DialOptions(ca_file=str(ca_file))
    async with serve_relay(DerpRelay(), tls=context) as address:
        good = DerpMap({1: region(address)})
        async with peer(good, dial=dial) as a, peer(good, dial=dial) as b:
            assert a.transport.send(rows(3), DerpPath(1, b.public))
            await b.sink.wait(lambda: len(b.sink.packets) == 3)
        wrong = DerpMap({1: region(address, cert_name="other.example")})
        async with peer(wrong, home=0, dial=dial) as c:
            c.transport.set_home(1)
            await c.sink.wait(lambda: c.sink.events)
            event = c.sink.events[0]
            assert isinstance(event, RelayChanged)
            assert not event.connected
            assert "not for other.example" in event.reason


async def test_a_pinned_certificate_replaces_the_chain_and_a_wrong_pin_is_refused() -> None:
    issued = trustme.CA().issue_cert("localhost")
    der = ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued.configure_cert(context)
    async with serve_relay(DerpRelay(), tls=context) as address:
        pinned = region(address, cert_name=f"sha256-raw:{hashlib.sha256(der).hexdigest()}")
        async with peer(DerpMap({1: pinned})) as a:
            assert a.transport.connected(1)
        async with peer(DerpMap({1: region(address, cert_name="sha256-raw:" + "0" * 64)}), home=0) as b:
            b.transport.set_home(1)
            await b.sink.wait(lambda: b.sink.events)
            assert "does not match its pin" in reasons(b)[0]


def reasons(who: Peer) -> list[str]:
    return [event.reason for event in who.sink.events if isinstance(event, RelayChanged)]


def states(who: Peer) -> list[bool]:
    return [event.connected for event in who.sink.events if isinstance(event, RelayChanged)]


async def test_small_packets_survive_the_dial_and_bulk_does_not() -> None:
    async with (
        serve_relay(DerpRelay()) as address,
        peer(plain_map(address)) as b,
        peer(plain_map(address), home=0) as a,
    ):
        path = DerpPath(1, b.public)
        assert a.transport.send(Burst.of(b"handshake"), path)
        assert a.transport.send(rows(40), path)
        assert a.transport.send(Burst.of(b"disco"), path)
        await b.sink.wait(lambda: len(b.sink.packets) == 2)
        assert [data for data, _ in b.sink.packets] == [b"handshake", b"disco"]
        assert a.transport.stats()["drop_not_connected"] == 40


async def test_the_queue_before_the_connection_is_bounded() -> None:
    nowhere = DerpMap({1: DerpRegion(1, nodes=(DerpNode("1a", 1, "localhost", ipv4="none", ipv6="none"),))})
    async with peer(nowhere, home=0) as a:
        for _ in range(1000):
            assert a.transport.send(Burst.of(bytes(1000)), DerpPath(1, a.public))
        assert a.transport.stats()["drop_queue_full"] == 1000 - (64 << 10) // 1000


@every_loop
async def test_home_comes_back_after_a_relay_restart() -> None:
    key, address = NodePrivate.generate(os.urandom), unused_address()
    async with peer(plain_map(address), home=0) as a:
        for arrived in (1, 2):
            async with serve_relay(DerpRelay(key), port=address.port):
                a.transport.set_home(1)
                await a.sink.wait(lambda: a.transport.connected(1))
                assert a.transport.send(Burst.of(b"hello"), DerpPath(1, a.public))
                await a.sink.wait(partial(has_packets, a, arrived))
            await a.sink.wait(lambda: states(a)[-1] is False)


def has_packets(who: Peer, count: int) -> bool:
    return len(who.sink.packets) == count


def unused_address() -> AddrPort:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return AddrPort("127.0.0.1", probe.getsockname()[1])


async def test_other_regions_are_dialled_on_demand_and_closed_when_idle() -> None:
    async with serve_relay(DerpRelay()) as one, serve_relay(DerpRelay()) as two:
        both = DerpMap({1: region(one, force_http=True), 2: region(two, 2, force_http=True)})
        async with peer(both, home=1) as a, peer(both, home=2) as b:
            assert not a.transport.connected(2)
            assert a.transport.send(Burst.of(b"hi"), DerpPath(2, b.public))
            await b.sink.wait(lambda: b.sink.packets)
            assert b.sink.packets == [(b"hi", DerpPath(2, a.public))]
            other, home = a.transport._regions[2], a.transport._regions[1]
            later = asyncio.get_running_loop().time() + 61
            home.tick(later, 60)
            other.tick(later, 60)
            await a.sink.wait(lambda: not a.transport.connected(2))
            assert a.transport.connected(1)
            assert a.transport.stats()["idle_closed"] == 1


async def test_a_peer_is_answered_where_it_was_heard() -> None:
    async with serve_relay(DerpRelay()) as one, serve_relay(DerpRelay()) as two:
        both = DerpMap({1: region(one, force_http=True), 2: region(two, 2, force_http=True)})
        async with peer(both, home=1) as a, peer(both, home=2) as b:
            assert a.transport.send(Burst.of(b"hi"), DerpPath(2, b.public))
            await b.sink.wait(lambda: b.sink.packets)
            assert b.transport.send(Burst.of(b"yo"), DerpPath(1, a.public))  # without dialling region 1
            await a.sink.wait(lambda: a.sink.packets)
            assert a.sink.packets == [(b"yo", DerpPath(2, b.public))]
            assert not b.transport.connected(1)


async def test_a_silent_relay_is_given_up() -> None:
    async with serve_relay(DerpRelay()) as address, peer(plain_map(address)) as a:
        a.transport._regions[1].tick(asyncio.get_running_loop().time() + 121, None)
        await a.sink.wait(lambda: False in states(a))
        assert "silent" in reasons(a)[-1]
        await a.sink.wait(lambda: a.transport.connected(1))


async def test_what_a_sleep_may_have_killed_is_dialled_anew_at_once_and_packets_wait_for_it() -> None:
    async with serve_relay(DerpRelay()) as address, peer(plain_map(address)) as a, peer(plain_map(address)) as b:
        before = a.transport.stats()["connects"]
        a.transport.reconnect("this machine slept")
        assert not a.transport.connected(1)
        assert a.transport.send(Burst.of(b"typed"), DerpPath(1, b.public))
        await b.sink.wait(lambda: b.sink.packets)
        assert b.sink.packets == [(b"typed", DerpPath(1, a.public))]
        assert a.transport.stats()["connects"] == before + 1
        assert "this machine slept" in reasons(a)


async def test_a_dial_that_was_going_on_when_the_machine_fell_asleep_is_begun_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("coder_agent_transport_derp.region.LOGIN_BUDGET", 3600.0)  # nothing else ends the first dial
    with socket.create_server(("127.0.0.1", 0)) as mute:  # takes connections, says nothing
        mute.setblocking(False)
        silent = plain_map(AddrPort("127.0.0.1", mute.getsockname()[1]))
        loop = asyncio.get_running_loop()
        async with peer(silent, home=0) as a:
            a.transport.set_home(1)
            with anyio.fail_after(30):
                first, _ = await loop.sock_accept(mute)
                with first:
                    assert await loop.sock_recv(first, 4096)
                    a.transport.reconnect("this machine slept")
                    second, _ = await loop.sock_accept(mute)
                    second.close()


async def test_a_region_that_nobody_needs_is_not_dialled_again_after_a_sleep() -> None:
    async with serve_relay(DerpRelay()) as address, peer(plain_map(address)) as a:
        a.transport.set_home(0)
        a.transport.reconnect("this machine slept")
        await a.sink.wait(lambda: "this machine slept" in reasons(a))
        await anyio.wait_all_tasks_blocked()
        assert (a.transport.connected(1), a.transport.stats()["connects"]) == (False, 1)


async def test_a_region_kept_warm_is_connected_before_the_first_packet_and_not_idle() -> None:
    async with serve_relay(DerpRelay()) as address, peer(plain_map(address), home=0) as a:
        a.transport.keep_warm(7)  # there is no such region: nothing happens
        a.transport.keep_warm(1)
        await a.sink.wait(lambda: a.transport.connected(1))
        region, now = a.transport._regions[1], asyncio.get_running_loop().time()
        assert region.connection is not None
        region.connection.written_at = now - 1000.0
        region.tick(now, IDLE_AFTER)
        assert a.transport.connected(1)
        region.tick(now + IDLE_AFTER + 1.0, IDLE_AFTER)
        assert not a.transport.connected(1)
        assert a.transport.stats()["idle_closed"] == 1


async def test_after_a_change_of_the_network_a_relay_that_answers_stays() -> None:
    async with serve_relay(DerpRelay()) as address, peer(plain_map(address)) as a:
        connection = a.transport._regions[1].connection
        assert connection is not None
        a.transport.link_changed()
        assert connection.silent_at is not None
        await a.sink.wait(lambda: connection.silent_at is None)
        assert a.transport._regions[1].connection is connection


async def test_after_a_change_of_the_network_a_relay_that_does_not_answer_is_dialled_anew() -> None:
    async with serve_relay(DerpRelay()) as address, peer(plain_map(address)) as a:
        region, before = a.transport._regions[1], a.transport.stats()["connects"]
        a.transport.link_changed()
        region.tick(asyncio.get_running_loop().time() + LINK_PATIENCE, None)  # before the answer could be read
        await a.sink.wait(lambda: a.transport.stats()["connects"] == before + 1)
        assert "since the network changed" in reasons(a)[-2]


async def test_a_relay_connection_from_an_address_that_is_gone_is_replaced_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serve_relay(DerpRelay()) as address, peer(plain_map(address)) as a:
        monkeypatch.setattr("coder_agent_transport_derp.connection.is_ours", lambda address: False)
        before = a.transport.stats()["connects"]
        a.transport.link_changed()
        await a.sink.wait(lambda: a.transport.stats()["connects"] == before + 1)
        assert "no longer has the address" in reasons(a)[-2]


async def test_a_change_of_the_network_begins_a_dial_anew_and_ends_the_pause_before_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("coder_agent_transport_derp.region.LOGIN_BUDGET", 3600.0)  # nothing else ends the first dial
    with socket.create_server(("127.0.0.1", 0)) as mute:  # takes connections, says nothing
        mute.setblocking(False)
        silent = plain_map(AddrPort("127.0.0.1", mute.getsockname()[1]))
        loop = asyncio.get_running_loop()
        async with peer(silent, home=0) as a:
            a.transport.set_home(1)
            with anyio.fail_after(30):
                first, _ = await loop.sock_accept(mute)
                with first:
                    a.transport.link_changed()
                    second, _ = await loop.sock_accept(mute)
                    second.close()


async def test_a_peer_that_is_gone_is_a_path_error() -> None:
    async with serve_relay(DerpRelay()) as address, peer(plain_map(address)) as a:
        async with peer(plain_map(address)) as b:
            assert b.transport.send(Burst.of(b"x"), DerpPath(1, a.public))
            await a.sink.wait(lambda: a.sink.packets)
        await a.sink.wait(lambda: a.sink.errors)
        path, error = a.sink.errors[0]
        assert path == DerpPath(1, b.public)
        assert error.errno == errno.ECONNRESET


async def test_a_changed_map_closes_the_region_and_an_equal_one_does_not() -> None:
    async with serve_relay(DerpRelay()) as address, peer(plain_map(address)) as a:
        a.transport.set_map(plain_map(address))
        assert a.transport.connected(1)
        a.transport.set_map(DerpMap())
        await a.sink.wait(lambda: states(a) == [True, False])
        assert reasons(a)[-1] == "the region left the relay map"
        assert a.transport.send(Burst.of(b"x"), DerpPath(1, a.public))
        assert a.transport.stats()["drop_unknown_region"] == 1


@every_loop
async def test_back_pressure_says_false_and_then_writable() -> None:
    relay = DerpRelay()
    async with serve_relay(relay) as address, peer(plain_map(address)) as a:
        (session,) = relay.core.sessions
        wire = session._wire
        assert isinstance(wire, TransportWire)
        wire.transport.pause_reading()
        burst, path = rows(40), DerpPath(1, NodePrivate.generate(os.urandom).public())
        taken = 0
        while a.transport.send(burst, path):
            taken += 1
        assert a.transport.send(Burst.of(b"a small one"), path)
        before = a.sink.writable
        wire.transport.resume_reading()
        await a.sink.wait(lambda: a.sink.writable > before)
        await a.sink.wait(lambda: a.transport.send(burst, path))
        while relay.metrics().get("frames_received", 0) < (taken + 1) * 40 + 1:
            await anyio.lowlevel.checkpoint()
        assert relay.metrics()["frames_received"] == (taken + 1) * 40 + 1


async def test_a_client_over_its_rate_is_read_more_slowly_and_loses_nothing() -> None:
    relay = DerpRelay(settings=RelaySettings(client_rate=20_000_000, client_burst=1))
    async with serve_relay(relay) as address, peer(plain_map(address)) as a, peer(plain_map(address)) as b:
        for _ in range(10):
            assert a.transport.send(rows(40), DerpPath(1, b.public))
        await b.sink.wait(lambda: len(b.sink.packets) == 400)


@asynccontextmanager
async def websocket_relay(relay: DerpRelay) -> AsyncIterator[AddrPort]:
    """A server that speaks WebSocket only: to `Upgrade: DERP` it answers 426, as many proxies do."""

    class Adapter:
        def __init__(self, socket: ServerConnection) -> None:
            self._socket = socket

        async def receive(self) -> bytes | None:
            try:
                message = await self._socket.recv()
            except ConnectionClosed:
                return None
            assert isinstance(message, bytes)
            return message

        async def send(self, data: bytes) -> None:
            try:
                await self._socket.send(data)
            except ConnectionClosed as exc:
                raise ConnectionResetError from exc

        async def close(self, code: int = 1000) -> None:
            await self._socket.close(code)

    async def handle(socket: ServerConnection) -> None:
        await relay.accept_websocket(Adapter(socket), None)

    async with (
        relay.open(),
        serve(handle, "127.0.0.1", 0, subprotocols=[Subprotocol("derp")], compression=None) as server,
    ):
        yield AddrPort.of(*next(iter(server.sockets)).getsockname()[:2])


async def test_fall_back_to_websocket_is_permanent_and_has_a_reason() -> None:
    async with (
        websocket_relay(DerpRelay()) as address,
        peer(plain_map(address)) as a,
        peer(plain_map(address), force_websockets=True) as b,
    ):
        assert a.transport.forced_websocket() == {1: "HTTP 426 instead of a protocol upgrade"}
        assert b.transport.forced_websocket() == {}
        burst = rows(300)
        sent = [bytes(row) for row in burst.rows()]
        assert a.transport.send(burst, DerpPath(1, b.public))
        await b.sink.wait(lambda: len(b.sink.packets) == 300)
        assert [data for data, _ in b.sink.packets] == sent
        assert b.transport.send(Burst.of(b"back"), DerpPath(1, a.public))
        await a.sink.wait(lambda: a.sink.packets)


async def test_nobody_there_is_a_sentence_and_the_home_is_dialled_again() -> None:
    address = unused_address()
    async with peer(plain_map(address), home=0) as a:
        a.transport.set_home(1)
        await a.sink.wait(lambda: states(a))
        assert "refuses the connection" in reasons(a)[0]
        async with serve_relay(DerpRelay(), port=address.port):
            await a.sink.wait(lambda: a.transport.connected(1))


async def test_extra_headers_and_a_proxy_are_used() -> None:
    heads: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        host, port = heads[0].split()[1].decode().rsplit(":", 1)
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        far_writer.write(heads[1])

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                target.write(data)
            target.close()

        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    try:
        port = server.sockets[0].getsockname()[1]
        dial = DialOptions(headers={"X-Extra": "yes"}, proxy=f"http://127.0.0.1:{port}")
        async with serve_relay(DerpRelay()) as address, peer(plain_map(address), dial=dial) as a:
            assert a.transport.connected(1)
            assert b"CONNECT localhost:" in heads[0]
            assert b"\r\nX-Extra: yes\r\n" in heads[1]
    finally:
        server.close()


async def test_another_backend_than_asyncio_is_refused_in_words() -> None:
    context = TransportContext(Sink(), NodePrivate.generate(os.urandom), lambda event: None)
    failures: list[BaseException] = []

    def outside() -> None:
        coroutine = DerpTransportFactory().open(context).__aenter__()
        try:
            coroutine.send(None)
        except ConfigError as exc:
            failures.append(exc)

    await anyio.to_thread.run_sync(outside)
    assert "asyncio" in str(failures[0])


async def test_an_untrusted_certificate_is_a_sentence() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    async with serve_relay(DerpRelay(), tls=context) as address, peer(DerpMap({1: region(address)}), home=0) as a:
        a.transport.set_home(1)
        await a.sink.wait(lambda: states(a))
        assert "the certificate of localhost does not verify" in reasons(a)[0]


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[AddrPort]:
    """A server that reads a request head and says `answer`."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield AddrPort.of(*server.sockets[0].getsockname()[:2])
    finally:
        server.close()


@pytest.mark.parametrize(
    ("answer", "websocket", "words"),
    [
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", False, "HTTP 503"),
        (b"", False, "ended"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>", True, "HTTP 200"),
        (b"HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n", True, "HTTP 302"),
        (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00", True, "not HTTP/1.1"),
        (DerpRelay().upgrade_head() + b"\x01\0\0\0\x28" + b"x" * 40, False, "magic"),
    ],
    ids=["busy", "nothing", "a page", "elsewhere", "not HTTP", "no magic"],  # the relay's key is another one each time
)  # fmt: skip
async def test_strange_answers_to_the_upgrade(answer: bytes, websocket: bool, words: str) -> None:
    async with answering(answer) as address, peer(plain_map(address), home=0) as a:
        a.transport.set_home(1)
        await a.sink.wait(lambda: states(a))
        assert words in reasons(a)[0]
        assert ("falling back to WebSocket" in reasons(a)[0]) is websocket
        assert not a.transport.forced_websocket(), "a WebSocket that does not work either is no news to keep"
