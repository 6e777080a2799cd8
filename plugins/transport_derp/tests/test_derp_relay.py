"""The relay behind an HTTP port, spoken to byte by byte: heads, fast start, junk, stuck clients, shutdown."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from importlib.util import find_spec
from pathlib import Path as FilePath
from typing import cast

import anyio
import anyio.lowlevel
import pytest
from coder_agent_transport_derp import plugin
from coder_agent_transport_derp import relay as relay_module
from coder_agent_transport_derp.relay import DerpRelay
from coder_agent_transport_derp.settings import DerpSettings, relay_key
from coder_agent_transport_derp.socket_wire import SocketWire
from coder_agent_transport_derp.standalone import serve_relay
from coder_agent_transport_derp.wire import TransportWire, copies_what_it_keeps

from coder_agent.base.addresses import AddrPort
from coder_agent.base.keys import NodePrivate
from coder_agent.errors import ConfigError
from coder_agent.protocols.derp import frames
from coder_agent.protocols.derp.login import ClientInfo, client_info_frame
from coder_agent.protocols.derp.server import RelaySettings

pytestmark = pytest.mark.anyio


LOOPS: list[object] = ["asyncio"]
if find_spec("uvloop") is not None:  # its transports keep what they are given: the relay must notice
    LOOPS.append(pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"))


every_loop = pytest.mark.parametrize("anyio_backend", LOOPS)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


FAST_START = b"GET /derp HTTP/1.1\r\nHost: r\r\nUpgrade: DERP\r\nConnection: Upgrade\r\nDerp-Fast-Start: 1\r\n\r\n"
SLOW_START = FAST_START.replace(b"Derp-Fast-Start: 1\r\n", b"")


class Raw:
    """A client that writes what the test says."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, address: AddrPort, first: bytes) -> Raw:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(first)
        return cls(reader, writer)

    async def frame(self) -> tuple[int, bytes]:
        with anyio.fail_after(30):
            head = await self.reader.readexactly(5)
            return head[0], await self.reader.readexactly(int.from_bytes(head[1:], "big"))

    async def ended(self) -> bytes:
        """Everything until the relay closes, by FIN or RST."""
        data = b""
        with anyio.fail_after(30):
            try:
                while chunk := await self.reader.read(65536):
                    data += chunk
            except ConnectionError:
                pass
        self.writer.close()
        return data


def login(relay: DerpRelay, key: NodePrivate) -> bytes:
    return client_info_frame(key, relay.core.public, ClientInfo(), os.urandom)


@every_loop
async def test_fast_start_everything_in_one_write_and_no_http_answer() -> None:
    relay, key = DerpRelay(), NodePrivate.generate(os.urandom)
    me = key.public().raw
    async with serve_relay(relay) as address:
        first = FAST_START + login(relay, key) + frames.note_preferred(True) + frames.send_packet(me, b"early")
        raw = await Raw.connect(address, first)
        assert [(await raw.frame())[0] for _ in range(2)] == [frames.FrameType.SERVER_KEY, frames.FrameType.SERVER_INFO]
        assert await raw.frame() == (frames.FrameType.RECV_PACKET, me + b"early")
        assert relay.metrics()["home_clients"] == 1
        raw.writer.close()


async def test_without_fast_start_the_head_names_version_and_key() -> None:
    relay = DerpRelay()
    async with serve_relay(relay) as address:
        raw = await Raw.connect(address, SLOW_START)
        head = await raw.reader.readuntil(b"\r\n\r\n")
        assert head == relay.upgrade_head()
        assert f"Derp-Public-Key: {relay.core.public.raw.hex()}\r\n".encode() in head
        assert (await raw.frame())[0] == frames.FrameType.SERVER_KEY
        raw.writer.close()


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /derp HTTP/1.1", b"426"),
        (b"GET /derp/latency-check HTTP/1.1", b"200"),
        (b"HEAD /derp/probe HTTP/1.1", b"200"),
        (b"POST /derp/probe HTTP/1.1", b"405"),
        (b"GET /generate_204 HTTP/1.1", b"204"),
        (b"GET /other HTTP/1.1", b"404"),
    ],
)
async def test_plain_http_answers(request_line: bytes, status: bytes) -> None:
    async with serve_relay(DerpRelay()) as address:
        raw = await Raw.connect(address, request_line + b"\r\nHost: r\r\nConnection: close\r\n\r\n")
        assert (await raw.reader.readline()).startswith(b"HTTP/1.1 " + status)
        raw.writer.close()


@pytest.mark.parametrize(
    "junk",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 20_000 + b"\r\n",
        FAST_START + b"\xff" * 100,
        FAST_START + frames.frame(frames.FrameType.CLIENT_INFO, bytes(200)),
        FAST_START + frames.send_packet(bytes(32), b"before login"),
    ],
)
async def test_junk_closes_that_connection_only(junk: bytes) -> None:
    relay = DerpRelay()
    async with serve_relay(relay) as address:
        good = await Raw.connect(address, FAST_START + login(relay, NodePrivate.generate(os.urandom)))
        bad = await Raw.connect(address, junk)
        await bad.ended()
        good.writer.write(frames.ping(b"12345678"))
        seen = [(await good.frame())[0] for _ in range(3)]
        assert seen[-1] == frames.FrameType.PONG
        assert relay.metrics()["connections"] == 1
        good.writer.close()


async def test_shutting_down_closes_sessions_without_a_word() -> None:
    relay, key = DerpRelay(), NodePrivate.generate(os.urandom)
    async with serve_relay(relay) as address:
        raw = await Raw.connect(address, FAST_START + login(relay, key))
        await raw.frame()
        await raw.frame()
    assert await raw.ended() == b""
    assert relay.metrics()["connections"] == 0


async def test_a_closed_or_full_relay_closes_what_it_gets() -> None:
    relay = DerpRelay(settings=RelaySettings(max_clients=1))
    async with serve_relay(relay) as address:
        first = await Raw.connect(address, FAST_START)
        await first.frame()
        second = await Raw.connect(address, FAST_START)
        assert await second.ended() == b""
        first.writer.close()


# ---------------------------------------------------------------- pieces


class FakeTransport(asyncio.Transport):
    """Counts; its buffer is what the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0
        self.written: list[object] = []
        self.aborted = False

    def get_write_buffer_size(self) -> int:
        return self.size

    def is_closing(self) -> bool:
        return self.aborted

    def write(self, data: object) -> None:
        self.written.append(data)

    def abort(self) -> None:
        self.aborted = True


def test_only_a_client_that_takes_nothing_is_stuck() -> None:
    transport = FakeTransport()
    wire = TransportWire(transport)
    assert wire.stuck_since(0.0) == 0.0
    wire.blocked, transport.size = True, 1000
    assert wire.stuck_since(1.0) == 0.0
    assert wire.stuck_since(2.5) == 1.5
    transport.size = 999
    assert wire.stuck_since(3.0) == 0.0
    assert wire.stuck_since(5.0) == 2.0
    wire.blocked = False
    assert wire.stuck_since(6.0) == 0.0


def test_a_transport_that_may_keep_views_gets_copies() -> None:
    transport = FakeTransport()
    assert not copies_what_it_keeps(transport)
    wire = TransportWire(transport)
    buffer = bytearray(b"abc")
    wire.write(memoryview(buffer))
    buffer[:] = b"xyz"
    assert transport.written == [b"abc"]
    wire.close()
    wire.write(b"too late")
    assert transport.written == [b"abc"]


class FakeSocket:
    """A WebSocket whose peer says what the test queues."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.closed: int | None = None
        self.send_messages, self.messages = anyio.create_memory_object_stream[bytes](10)

    async def receive(self) -> bytes | None:
        try:
            return await self.messages.receive()
        except anyio.EndOfStream:
            return None

    async def send(self, data: bytes) -> None:
        self.sent.append(data)

    async def close(self, code: int = 1000) -> None:
        self.closed = code
        self.messages.close()
        self.send_messages.close()


async def test_websocket_boundaries_carry_no_meaning() -> None:
    relay, key = DerpRelay(), NodePrivate.generate(os.urandom)
    socket = FakeSocket()
    me = key.public().raw
    data = login(relay, key) + frames.send_packet(me, b"hello")
    for cut in (data[:3], data[3:50], data[50:]):
        socket.send_messages.send_nowait(cut)
    async with relay.open(), anyio.create_task_group() as tasks:
        tasks.start_soon(relay.accept_websocket, socket, None)
        with anyio.fail_after(30):
            while not b"".join(socket.sent).endswith(frames.recv_packet(me, b"hello")):
                await anyio.lowlevel.checkpoint()
        socket.send_messages.close()
    assert socket.closed == 1000
    assert relay.metrics()["connections"] == 0


async def test_a_websocket_that_breaks_the_rules_is_closed_with_a_code() -> None:
    relay, socket = DerpRelay(), FakeSocket()
    socket.send_messages.send_nowait(b"\xff" * 50)
    async with relay.open():
        await relay.accept_websocket(socket, None)
    assert socket.closed == 1002


async def test_a_websocket_that_does_not_read_blocks_and_recovers() -> None:
    socket = FakeSocket()
    wire = SocketWire(socket)
    wire.write(bytes(300 << 10))
    seen = [wire.blocked]
    relay = DerpRelay()
    async with relay.open(), anyio.create_task_group() as tasks:
        session = relay._connect(wire, None)
        assert session is not None
        tasks.start_soon(wire.run, session)
        with anyio.fail_after(30):
            while wire.blocked:
                await anyio.lowlevel.checkpoint()
        seen.append(wire.blocked)
        socket.send_messages.close()
    assert seen == [True, False]
    assert max(len(message) for message in socket.sent) == 64 << 10


def test_the_key_file_is_made_once_private_and_reused(tmp_path: FilePath) -> None:
    path = tmp_path / "relay.json"
    key = relay_key(path)
    assert relay_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text()) == {"PrivateKey": key.reveal()}
    for text in ("", "[]", "{}", '{"PrivateKey": "privkey:xyz"}', '{"PrivateKey": 5}'):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"relay\.json"):
            relay_key(path)
    with pytest.raises(ConfigError):
        relay_key(tmp_path / "missing" / "relay.json")


def test_settings_make_a_relay() -> None:
    settings = DerpSettings.model_validate({"relay_max_clients": 5, "relay_mesh_key": "ab" * 32})
    relay = DerpRelay.from_settings(settings)
    assert relay.core.settings == RelaySettings(max_clients=5, mesh_key=b"\xab" * 32)
    with pytest.raises(ConfigError):
        DerpSettings.model_validate({"relay_mesh_key": "short"}).mesh_key()


def test_the_plugin_offers_one_transport_and_one_relay() -> None:
    from coder_agent.hooks.settings import Settings

    (factory,) = plugin.coder_transports(Settings())
    (relay,) = plugin.coder_relay_backends(Settings())
    section, program = plugin.coder_settings()
    assert (factory.name, factory.kind, relay.name) == ("derp", "relay", "derp")
    assert section.target == "coder_agent_transport_derp.settings:DerpSettings"
    assert program.plugin == "derp"


async def test_a_wire_paused_again_at_once_stays_blocked() -> None:
    wire = TransportWire(FakeTransport())
    calls: list[str] = []
    wire.pause()
    wire.resume(lambda: calls.append("too early"))
    wire.pause()
    await anyio.lowlevel.checkpoint()
    states = [wire.blocked]
    wire.resume(lambda: calls.append("now"))
    states.append(wire.blocked)
    await anyio.lowlevel.checkpoint()
    states.append(wire.blocked)
    assert (states, calls) == ([True, True, False], ["now"])


@every_loop
async def test_a_client_that_stops_reading_is_cut_off_and_the_others_do_not_notice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay_module, "TICK", 0.05)
    monkeypatch.setattr(relay_module, "WRITE_DEADLINE", 0.1)
    relay, stuck_key, key = DerpRelay(), NodePrivate.generate(os.urandom), NodePrivate.generate(os.urandom)
    async with serve_relay(relay) as address:
        stuck, sender = [await Raw.connect(address, FAST_START + login(relay, k)) for k in (stuck_key, key)]
        for raw in (stuck, sender):
            await raw.frame()
            await raw.frame()
        cast(asyncio.Transport, stuck.writer.transport).pause_reading()
        bulk = frames.send_packet(stuck_key.public().raw, bytes(1312)) * 200
        with anyio.fail_after(60):
            while not relay.metrics().get("drop_write_error"):
                sender.writer.write(bulk)
                await sender.writer.drain()
        assert relay.metrics()["drop_queue_head"] > 0
        sender.writer.write(frames.send_packet(key.public().raw, b"still served"))
        assert await sender.frame() == (frames.FrameType.RECV_PACKET, key.public().raw + b"still served")
        assert relay.metrics()["clients"] == 1
        for raw in (stuck, sender):
            raw.writer.close()
