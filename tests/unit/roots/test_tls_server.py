"""TLS of connections that come in, as servers and relays use it, by Python's own client: sizes, slow readers, ends."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
import trustme

from coder_agent import tls_server
from coder_agent.tls_server import TlsGate

pytestmark = pytest.mark.anyio
BODY = bytes(range(256)) * 20_000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Answer(asyncio.Protocol):
    """Says `BODY` to the first line, and closes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(BODY)
        self.transport.close()


class Echo(Answer):
    """Says everything again, and reads no faster than it is read from."""

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


@asynccontextmanager
async def serving(protocol: Callable[[], asyncio.Protocol]) -> AsyncIterator[tuple[TlsGate, int, ssl.SSLContext]]:
    authority = trustme.CA()
    context, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(context)
    authority.configure_trust(trusting)
    gate = TlsGate(context, protocol)
    server = await asyncio.get_running_loop().create_server(gate.protocol, "127.0.0.1", 0)
    try:
        yield gate, server.sockets[0].getsockname()[1], trusting
    finally:
        server.close()


async def dial(port: int, trusting: ssl.SSLContext) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port, ssl=trusting, server_hostname="localhost", limit=4096)


async def test_whoever_reads_slowly_gets_the_whole_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_server, "CLOSE_TIMEOUT", 0.1)
    async with serving(Answer) as (_, port, trusting):
        reader, writer = await dial(port, trusting)
        writer.write(b"?")
        received = bytearray()
        with anyio.fail_after(90):
            while data := await reader.read(65536):
                received += data
                if len(received) % (1 << 20) < 65536:
                    await anyio.sleep(0.05)  # the pace is what is tested: the whole takes several of those 0.1 s
        assert received == BODY
        writer.close()


async def test_whoever_reads_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_server, "CLOSE_TIMEOUT", 0.05)
    ended = anyio.Event()

    class Ending(Answer):
        def data_received(self, data: bytes) -> None:
            self.transport.write(BODY * 4)
            self.transport.close()

        def connection_lost(self, exc: Exception | None) -> None:
            ended.set()

    async with serving(Ending) as (_, port, trusting):
        _, writer = await dial(port, trusting)
        writer.write(b"?")
        with anyio.fail_after(90):
            await ended.wait()
        writer.transport.abort()


async def test_bytes_come_back_as_they_went_both_ways_at_once() -> None:
    async with serving(Echo) as (gate, port, trusting):
        reader, writer = await dial(port, trusting)

        async def send() -> None:
            for start in range(0, len(BODY), 100_003):
                writer.write(BODY[start : start + 100_003])
                await writer.drain()

        with anyio.fail_after(90):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send)
                assert await reader.readexactly(len(BODY)) == BODY
        assert not gate.shaking
        writer.close()


async def test_an_http_server_sees_that_it_is_behind_tls() -> None:
    seen: list[object] = []

    class Looking(Answer):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            seen.extend(transport.get_extra_info(name) for name in ("sslcontext", "ssl_object", "peername", "nonsense"))

    async with serving(Looking) as (gate, port, trusting):
        reader, writer = await dial(port, trusting)
        writer.write(b"?")
        await reader.readexactly(1)
        writer.close()
        assert seen[0] is gate.context
        assert isinstance(seen[1], ssl.SSLObject)
        assert seen[2] is not None
        assert seen[3] is None
