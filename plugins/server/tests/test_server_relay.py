"""The real relay behind the real door: two clients exchange packets by upgrade, fast start, TLS and WebSocket."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import anyio
import anyio.abc
import anyio.streams.tls
import pytest
import trustme
from coder_agent_server.routes import relay as relay_routes
from coder_agent_server.serving import Running, open_server
from coder_agent_server.testing import Api, make_options, run_server
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from coder_agent.base.burst import Burst
from coder_agent.base.coordinate import PeerRequest
from coder_agent.base.keys import DiscoPrivate, NodePrivate, NodePublic
from coder_agent.base.node import Node
from coder_agent.hooks.manager import PluginHost, build_plugin_manager
from coder_agent.hooks.settings import load_settings
from coder_agent.protocols.derp.client import DerpClient, PacketsReceived
from coder_agent.protocols.derp.frames import FrameType
from coder_agent.protocols.derp.login import ClientInfo, client_info_frame

pytestmark = pytest.mark.anyio

REQUEST = b"GET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n"


@pytest.fixture
def host() -> PluginHost:
    found = build_plugin_manager(only=["transport_derp"])
    record = found.record("transport_derp")
    if record is None or record.status != "ok":
        pytest.skip("the relay's plugin is not installed")
    return found


@asynccontextmanager
async def run_with_relay(data_dir: Path, host: PluginHost, **settings: Any) -> AsyncIterator[Running]:
    async with open_server(make_options(data_dir, **settings), host, load_settings(host)) as running:
        yield running


class Wire(Protocol):
    """Bytes to and from the relay."""

    async def send(self, item: bytes, /) -> None: ...
    async def receive(self) -> bytes: ...


class Peer:
    """A relay client by hand: the sans-I/O core over any wire."""

    def __init__(self, wire: Wire) -> None:
        self.key = NodePrivate.generate(os.urandom)
        self.core = DerpClient(self.key, rng=os.urandom, now=0.0)
        self.wire = wire
        self.packets: list[tuple[NodePublic, bytes]] = []

    async def login(self) -> None:
        with anyio.fail_after(30):
            while not self.core.ready:
                await self._read()
                if output := self.core.take_output():
                    await self.wire.send(output)

    async def _read(self) -> None:
        for event in self.core.feed(await self.wire.receive(), 0.0):
            if isinstance(event, PacketsReceived):
                self.packets += [(event.source, bytes(row)) for row in event.burst.rows()]

    async def send(self, packet: bytes, to: Peer) -> None:
        burst = Burst(memoryview(bytearray(37) + packet), 37, 37 + len(packet), 1, len(packet), len(packet), 37)
        data = self.core.send(burst, to.key.public(), 0.0)
        assert data is not None
        await self.wire.send(bytes(data))

    async def next_packet(self) -> tuple[NodePublic, bytes]:
        with anyio.fail_after(30):
            while not self.packets:
                await self._read()
        return self.packets.pop(0)


class SocketWire:
    """A relay connection over a WebSocket."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    async def send(self, item: bytes, /) -> None:
        await self._socket.send(item)

    async def receive(self) -> bytes:
        data = await self._socket.recv()
        assert isinstance(data, bytes)
        return data


class Trickle:
    """A wire that first delivers what came with the response head."""

    def __init__(self, stream: anyio.abc.ByteStream, early: bytes) -> None:
        self._stream = stream
        self._early = early

    async def send(self, item: bytes, /) -> None:
        await self._stream.send(item)

    async def receive(self) -> bytes:
        early, self._early = self._early, b""
        return early or await self._stream.receive()


async def upgraded(stream: anyio.abc.ByteStream) -> Wire:
    await stream.send(REQUEST + b"\r\n")
    head = b""
    with anyio.fail_after(30):
        while b"\r\n\r\n" not in head:
            head += await stream.receive()
    head, _, early = head.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"Derp-Version: 2" in head
    return Trickle(stream, early)


def tls_files(folder: Path) -> tuple[dict[str, Any], ssl.SSLContext]:
    ca = trustme.CA()
    cert = ca.issue_cert("127.0.0.1")
    cert.private_key_and_cert_chain_pem.write_to_path(folder / "both.pem")
    trust = ssl.create_default_context()
    ca.configure_trust(trust)
    name = str(folder / "both.pem")
    return {
        "tls_enable": True,
        "tls_address": "127.0.0.1:0",
        "tls_cert_file": name,
        "tls_key_file": name,
    }, trust


async def test_every_way_in_leads_to_the_same_relay(tmp_path: Path, host: PluginHost) -> None:
    settings, trust = tls_files(tmp_path)
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(run_with_relay(tmp_path, host, **settings))
        http, https = running.http, running.https
        assert http is not None
        assert https is not None

        async def by_upgrade() -> Wire:
            return await upgraded(await stack.enter_async_context(await anyio.connect_tcp(http.host, http.port)))

        async def by_fast_start() -> Wire:
            stream = await stack.enter_async_context(await anyio.connect_tcp(http.host, http.port))
            await stream.send(REQUEST + b"Derp-Fast-Start: 1\r\n\r\n")
            return stream

        async def by_tls() -> Wire:
            plain = await anyio.connect_tcp(https.host, https.port)
            tls = await anyio.streams.tls.TLSStream.wrap(
                plain, hostname="127.0.0.1", ssl_context=trust, standard_compatible=False
            )
            return await upgraded(await stack.enter_async_context(tls))

        async def by_websocket() -> Wire:
            url = f"ws://{http}/derp"
            subprotocols = [Subprotocol("derp")]
            return SocketWire(await stack.enter_async_context(connect(url, subprotocols=subprotocols, proxy=None)))

        peers = [Peer(await open_wire()) for open_wire in (by_upgrade, by_fast_start, by_tls, by_websocket)]
        for peer in peers:
            await peer.login()
        for sender in peers:
            for receiver in peers:
                if sender is not receiver:
                    packet = os.urandom(1312)
                    await sender.send(packet, receiver)
                    assert await receiver.next_packet() == (sender.key.public(), packet)
        metrics = running.deployment.relay
        assert metrics is not None
        assert metrics.metrics()["clients"] == len(peers)


async def test_the_chain_names_the_relays_key_and_who_reads_it_starts_at_once(tmp_path: Path, host: PluginHost) -> None:
    """As stock clients do it with TLS: key out of the chain, then request and login in one write; no answer's head."""
    settings, trust = tls_files(tmp_path)
    async with run_with_relay(tmp_path, host, **settings) as running:
        https, relay = running.https, running.deployment.relay
        assert https is not None
        assert relay is not None
        plain = await anyio.connect_tcp(https.host, https.port)
        async with await anyio.streams.tls.TLSStream.wrap(
            plain, hostname="127.0.0.1", ssl_context=trust, standard_compatible=False
        ) as stream:
            found = stream._ssl_object._sslobj.get_unverified_chain()  # type: ignore[attr-defined]
            chain = [ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in found]
            assert len(chain) >= 2, "the certificate, and behind it the one with the key"
            names = [re.findall(rb"derpkey([0-9a-f]{64})", one) for one in chain]
            assert not any(names[:-1])
            key = NodePublic(bytes.fromhex(names[-1][0].decode()))
            private = NodePrivate.generate(os.urandom)
            login = client_info_frame(private, key, ClientInfo(), os.urandom)
            await stream.send(REQUEST + b"Derp-Fast-Start: 1\r\n\r\n" + login)
            said = b""
            with anyio.fail_after(30):
                while len(said) < 5 + 40 + 5:
                    said += await stream.receive()
            assert said[0] == FrameType.SERVER_KEY
            assert said[5 + 8 : 5 + 40] == key.raw
            assert said[45] == FrameType.SERVER_INFO
        assert relay.metrics()["fast_starts"] == 1


# ---------------------------------------------------------------- relays that ask whom we know


class Anybody:
    """A coordination role that may do everything."""

    def check(self, request: PeerRequest) -> None:
        """Yes."""


async def test_a_relay_of_its_own_asks_whether_we_know_a_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_routes, "VERIFY_PATIENCE", 0.3)
    key = NodePrivate.generate(os.urandom).public()
    disco = DiscoPrivate.generate(os.urandom).public()
    async with run_server(tmp_path) as server, Api(server.url) as relay:

        async def ask(**body: object) -> tuple[int, object]:
            answer = await relay.post("/api/v2/derp/verify", json=body)
            return answer.status_code, answer.json()

        assert await ask(NodePublic=str(key), Source="192.0.2.1") == (200, {"Allow": False})
        session = server.running.deployment.coordinator.connect(uuid4(), Anybody(), name="dev", wake=lambda: None)
        session.request(PeerRequest(update_self=Node(id=1, key=key, disco=disco, preferred_derp=999)))
        assert await ask(NodePublic=str(key)) == (200, {"Allow": True})
        session.close()
        assert (await ask(NodePublic=str(key)))[1] == {"Allow": False}
        assert (await ask(Source="x"))[0] == 400
