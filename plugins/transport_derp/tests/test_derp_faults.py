"""Relays that mean no good: mute, cut off at any byte, with a certificate that is out of date or somebody else's."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest
import trustme
from coder_agent_transport_derp import region as region_module
from coder_agent_transport_derp.relay import DerpRelay
from coder_agent_transport_derp.standalone import serve_relay
from coder_agent_transport_derp.transport import DerpTransport, DerpTransportFactory

from coder_agent.base.addresses import AddrPort
from coder_agent.base.derp_map import DerpMap, DerpNode, DerpRegion
from coder_agent.base.keys import NodePrivate
from coder_agent.hooks import DialOptions
from coder_agent.hooks.interfaces import TransportContext
from coder_agent.protocols.derp import frames
from coder_agent.testing.relay_news import RelayNews

pytestmark = pytest.mark.anyio


def node(name: str, address: AddrPort, *, plain: bool = True) -> DerpNode:
    return DerpNode(name, 1, "localhost", ipv4=address.host, ipv6="none", derp_port=address.port, force_http=plain)


@asynccontextmanager
async def client(*nodes: DerpNode, ca_file: str | None = None) -> AsyncIterator[tuple[DerpTransport, RelayNews]]:
    sink = RelayNews()
    options = DialOptions(proxy="", ca_file=ca_file)
    context = TransportContext(sink, NodePrivate.generate(os.urandom), sink.emit, dial=options)
    async with DerpTransportFactory().open(context) as transport:
        assert isinstance(transport, DerpTransport)
        transport.set_map(DerpMap({1: DerpRegion(1, "r", "R", nodes)}))
        transport.set_home(1)
        yield transport, sink


@asynccontextmanager
async def saying(answer: bytes, *, then_close: bool) -> AsyncIterator[AddrPort]:
    """A server that says `answer` to whatever comes, and then nothing more."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(answer)
        if not then_close:
            await reader.read(-1)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield AddrPort.of(*server.sockets[0].getsockname()[:2])
    finally:
        server.close()


async def test_a_mute_node_is_left_for_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region_module, "LOGIN_BUDGET", 1.5)
    async with (
        saying(b"", then_close=False) as mute,
        serve_relay(DerpRelay()) as good,
        client(node("1a", mute), node("1b", good)) as (transport, sink),
    ):
        await sink.up()
        assert transport.connected(1)


async def test_a_relay_that_is_mute_alone_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region_module, "LOGIN_BUDGET", 0.2)
    async with saying(b"", then_close=False) as mute, client(node("1a", mute)) as (_, sink):
        await sink.said("no")


async def test_closing_at_each_byte_of_the_login_is_survived() -> None:
    head = DerpRelay().upgrade_head()
    key = b"\x01" + (40).to_bytes(4, "big") + "DERP🔑".encode() + bytes(range(32))
    whole = head + key
    for cut in range(len(whole) + 1):
        async with saying(whole[:cut], then_close=True) as address, client(node("1a", address)) as (transport, sink):
            await sink.said("")
            assert not transport.connected(1)


@pytest.mark.parametrize(("fault", "words"), [("expired", "expired"), ("other name", "localhost")])
async def test_a_bad_certificate_is_named_with_the_reason(fault: str, words: str, tmp_path: Path) -> None:
    authority = trustme.CA()
    past = datetime.now(UTC) - timedelta(days=1)
    issued = authority.issue_cert("localhost" if fault == "expired" else "elsewhere.example",
                                  not_after=past if fault == "expired" else None)  # fmt: skip
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued.configure_cert(tls)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with (
        serve_relay(DerpRelay(), tls=tls) as address,
        client(node("1a", address, plain=False), ca_file=str(tmp_path / "ca.pem")) as (_, sink),
    ):
        await sink.said("the certificate of localhost does not verify")
        assert words in sink.events[0].reason


@asynccontextmanager
async def trickling(relay: AddrPort, pause: float) -> AsyncIterator[AddrPort]:
    """What the relay says comes in pieces of three bytes, each after `pause` seconds."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        near, far = await asyncio.open_connection(relay.host, relay.port)

        async def there() -> None:
            while data := await reader.read(65536):
                far.write(data)
            far.close()

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(there)
                while data := await near.read(3):
                    await asyncio.sleep(pause)
                    writer.write(data)
                tasks.cancel_scope.cancel()
        finally:
            for end in (far, writer):
                end.close()
            ended.set()

    ended = anyio.Event()
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield AddrPort.of(*server.sockets[0].getsockname()[:2])
    finally:
        server.close()
        with anyio.fail_after(30):
            await ended.wait()


async def test_a_relay_that_answers_slowly_is_waited_for() -> None:
    async with (
        serve_relay(DerpRelay()) as relay,
        trickling(relay, 0.004) as slow,
        client(node("1a", slow)) as (transport, sink),
    ):
        await sink.up()
        assert transport.connected(1)


async def test_a_relay_that_changes_its_key_is_the_relay_all_the_same() -> None:
    """The key proves nothing about who a relay is (TLS does): it only closes the login's boxes."""
    first, second = DerpRelay(), DerpRelay()
    assert first.core.public != second.core.public
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = AddrPort("127.0.0.1", probe.getsockname()[1])
    async with client(node("1a", address)) as (transport, sink):
        async with serve_relay(first, port=address.port):
            await sink.until(lambda: transport.connected(1))
        await sink.until(lambda: not transport.connected(1))
        async with serve_relay(second, port=address.port):
            await sink.until(lambda: transport.connected(1))


async def test_frames_that_nobody_knows_are_skipped_and_too_long_ones_end_the_connection() -> None:
    relay = DerpRelay()
    async with serve_relay(relay) as address, client(node("1a", address)) as (transport, sink):
        await sink.up()
        (wire,) = relay._wires
        wire.write(b"\x77" + (5).to_bytes(4, "big") + b"other" + frames.health("hello"))
        await sink.said("hello")
        assert transport.connected(1)
        wire.write(b"\x05" + (1 << 30).to_bytes(4, "big"))
        await sink.said("too long")
        await sink.until(lambda: transport.connected(1))
