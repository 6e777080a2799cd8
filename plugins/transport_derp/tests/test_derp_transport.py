"""Two of our clients and our relay, over real loopback sockets: plain, TLS, back-pressure, restart, routes."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path as FilePath

import anyio
import pytest
import trustme
from coder_agent_transport_derp.relay import DerpRelay
from coder_agent_transport_derp.standalone import serve_relay
from coder_agent_transport_derp.transport import DerpTransport, DerpTransportFactory

from coder_agent.base.addresses import AddrPort
from coder_agent.base.burst import Burst
from coder_agent.base.derp_map import DerpMap, DerpNode, DerpRegion
from coder_agent.base.keys import NodePrivate
from coder_agent.base.paths import DerpPath, Path
from coder_agent.hooks.events import Event, RelayChanged
from coder_agent.hooks.interfaces import DialOptions, Transport, TransportContext

pytestmark = pytest.mark.anyio


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
        with anyio.fail_after(20):
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
