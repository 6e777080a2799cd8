"""Clients that do harm, on real sockets: half-open by the thousand, flooding, never reading, claiming another's key."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest
import trustme
from coder_agent_transport_derp.daemon.door import Door
from coder_agent_transport_derp.relay import DerpRelay
from coder_agent_transport_derp.tls_server import TlsGate

from coder_agent.base.addresses import AddrPort
from coder_agent.base.keys import NodePrivate
from coder_agent.protocols.derp import frames
from coder_agent.protocols.derp.frames import FrameType
from coder_agent.protocols.derp.login import ClientInfo, client_info_frame
from coder_agent.protocols.derp.server import RelaySettings

pytestmark = pytest.mark.anyio
UPGRADE = b"GET /derp HTTP/1.1\r\nHost: r\r\nUpgrade: DERP\r\nConnection: Upgrade\r\nDerp-Fast-Start: 1\r\n\r\n"
HALF_OPEN = 2000
"""Connections of each kind; the bound is the same for 10,000, and CI need not open them."""
MB = 1 << 20


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The relay's, with fast start, and its clients'."""
    folder: Path = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    DerpRelay().load_chain(server, str(folder / "cert.pem"), str(folder / "key.pem"))
    authority.configure_trust(client)
    return server, client


class Running:
    """A relay with TLS, and its clients."""

    def __init__(self, relay: DerpRelay, door: Door, gate: TlsGate, at: AddrPort, trust: ssl.SSLContext) -> None:
        self.relay, self.door, self.gate, self.at, self.trust = relay, door, gate, at, trust
        self.writers: list[asyncio.StreamWriter] = []

    async def dial(self, *, tls: bool = True) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        how = {"ssl": self.trust, "server_hostname": "localhost"} if tls else {}
        reader, writer = await asyncio.open_connection(self.at.host, self.at.port, **how)  # type: ignore[arg-type]
        self.writers.append(writer)
        return reader, writer

    async def enter(self, key: NodePrivate) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Log in, starting fast."""
        reader, writer = await self.dial()
        writer.write(UPGRADE + client_info_frame(key, self.relay.core.public, ClientInfo(), os.urandom))
        assert (await frame(reader))[0] == FrameType.SERVER_KEY
        assert (await frame(reader))[0] == FrameType.SERVER_INFO
        return reader, writer


async def frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    with anyio.fail_after(10):
        head = await reader.readexactly(5)
        return head[0], await reader.readexactly(int.from_bytes(head[1:], "big"))


@asynccontextmanager
async def running(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], most: int = 10_000, settings: RelaySettings | None = None
) -> AsyncIterator[Running]:
    relay = DerpRelay(settings=settings)
    door = Door(relay)
    gate = TlsGate(contexts[0], door.protocol, most)
    async with relay.open():
        server = await asyncio.get_running_loop().create_server(gate.protocol, "127.0.0.1", 0, backlog=4096)
        name = server.sockets[0].getsockname()
        found = Running(relay, door, gate, AddrPort.of(name[0], name[1]), contexts[1])
        try:
            yield found
        finally:
            server.close()
            for writer in found.writers:
                writer.transport.abort()
                with suppress(OSError):
                    await writer.wait_closed()


async def test_half_open_connections_do_not_keep_a_good_client_out(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    """Some say nothing, some stop in the TLS handshake; then one that means it."""
    async with running(contexts) as place:
        for number in range(HALF_OPEN):
            _, writer = await place.dial(tls=False)
            if number % 2:
                writer.write(b"\x16\x03\x01\x02\x00\x01")
        with anyio.fail_after(10):
            while len(place.gate.shaking) < HALF_OPEN:  # noqa: ASYNC110  (sockets: there is nothing to wait on)
                await anyio.sleep(0.01)
        with anyio.fail_after(1):
            await place.enter(NodePrivate.generate(os.urandom))
        assert len(place.gate.shaking) == HALF_OPEN


async def test_handshakes_are_bounded_in_number(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async with running(contexts, most=5) as place:
        readers = [(await place.dial(tls=False))[0] for _ in range(8)]
        closed = 0
        for reader in readers[5:]:
            with anyio.fail_after(5), suppress(ConnectionError):
                assert await reader.read(1) == b""
            closed += 1
        assert (closed, len(place.gate.shaking)) == (3, 5)


async def test_a_reader_that_never_reads_slows_nobody(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """What is sent to it is bounded and counted; everybody else gets every byte meanwhile."""
    keys = [NodePrivate.generate(os.urandom) for _ in range(3)]
    async with running(contexts) as place:
        stuck_reader, _ = await place.enter(keys[0])
        stuck_reader._transport.pause_reading()  # type: ignore[attr-defined]  # the kernel's buffers fill
        reader, _ = await place.enter(keys[1])
        _, sender = await place.enter(keys[2])
        stuck, good = keys[0].public().raw, keys[1].public().raw
        lost = place.relay.core.drops
        sent = 0
        with anyio.fail_after(30):
            while not lost["queue_head"]:
                sender.write(frames.send_packet(stuck, bytes(60_000)) * 10)
                sender.write(frames.send_packet(good, b"%08d" % sent))
                await sender.drain()
                kind, payload = await frame(reader)
                assert (kind, payload[32:]) == (FrameType.RECV_PACKET, b"%08d" % sent)
                sent += 1
        (session,) = place.relay.core.registry.all(stuck)
        assert session.outbox.waiting_bytes <= 2 * MB


async def test_a_flood_is_slowed_and_others_are_not(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    keys = [NodePrivate.generate(os.urandom) for _ in range(3)]
    async with running(contexts, settings=RelaySettings(client_rate=200_000, client_burst=70_000)) as place:
        _, flooder = await place.enter(keys[0])
        reader, _ = await place.enter(keys[1])
        _, modest = await place.enter(keys[2])
        flooder.write(frames.send_packet(bytes(32), bytes(1200)) * 20_000)  # 25 MB to nobody
        for number in range(50):
            modest.write(frames.send_packet(keys[1].public().raw, b"%d" % number))
            assert (await frame(reader))[1][32:] == b"%d" % number
        assert place.relay.core.counters["frames_received"] < 5_000


async def test_nobody_takes_a_key_that_he_cannot_prove(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    mine, thief = (NodePrivate.generate(os.urandom) for _ in range(2))
    async with running(contexts) as place:
        reader, _ = await place.enter(mine)
        stolen = bytearray(client_info_frame(thief, place.relay.core.public, ClientInfo(), os.urandom))
        stolen[5:37] = mine.public().raw
        other, writer = await place.dial()
        writer.write(UPGRADE + bytes(stolen))
        with anyio.fail_after(5), suppress(ConnectionError):
            await other.read()  # to its end: it is closed
        assert len(place.relay.core.registry.all(mine.public().raw)) == 1
        _, sender = await place.enter(thief)
        sender.write(frames.send_packet(mine.public().raw, b"for the owner"))
        assert (await frame(reader))[1][32:] == b"for the owner"


async def test_fast_starts_are_counted(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async with running(contexts) as place:
        await place.enter(NodePrivate.generate(os.urandom))
        assert place.relay.metrics()["fast_starts"] == 1
