"""What a node forwards to loopback, and what it joins local sockets to: real sockets at both ends of a real tunnel."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import anyio
import pytest
from coder_agent_transport_udp.settings import UdpSettings
from coder_agent_transport_udp.transport import UdpTransportFactory

from coder_agent.errors import LocalProtocolError, TransportBroken
from coder_agent.node import Splice, TailnetNode, TunnelStream
from coder_agent.protocols.netstack.config import StackConfig
from coder_agent.runtime import loopback_tcp, loopback_udp
from coder_agent.runtime.loopback import Loopback, forward_loopback
from coder_agent.testing.node_pair import B, node_pair

pytestmark = pytest.mark.anyio
RESET = struct.pack("ii", 1, 0)
FAMILIES = pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")], ids=["v4", "v6"]
)


@asynccontextmanager
async def forwarding(
    refused: frozenset[int] = frozenset(), stack: StackConfig | None = None
) -> AsyncIterator[tuple[TailnetNode, Loopback]]:
    """A node, and what its peer forwards to loopback."""
    async with node_pair([UdpTransportFactory(UdpSettings())], stack=stack) as (a, b):
        loopback = forward_loopback(b, lambda port: port not in refused)
        try:
            with anyio.fail_after(60):
                yield a, loopback
        finally:
            loopback.close()


async def until(done: Callable[[], bool]) -> None:
    while not done():
        await anyio.lowlevel.checkpoint()


@asynccontextmanager
async def forward_to(node: TailnetNode) -> AsyncIterator[socket.socket]:
    loopback = forward_loopback(node)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.setblocking(False)
        yield sock
    loopback.close()


def udp_socket(family: socket.AddressFamily, host: str) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind((host, 0))
    return sock


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.setblocking(False)
        yield sock


def port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


# -- UDP ---------------------------------------------------------------------------------------------------------------


@FAMILIES
@pytest.mark.parametrize("size", [0, 1, 1200, 1472, 65_507])
async def test_datagrams_reach_a_program_and_its_answers_come_back(
    family: socket.AddressFamily, host: str, size: int
) -> None:
    loop = asyncio.get_running_loop()
    with udp_socket(family, host) as program:
        async with forwarding() as (a, loopback):
            async with await a.open_udp(B, port_of(program)) as datagrams:
                await datagrams.send(bytes(size))
                data, sender = await loop.sock_recvfrom(program, 65_536)
                assert data == bytes(size)
                await loop.sock_sendto(program, b"%d" % size, sender)
                assert await datagrams.receive() == b"%d" % size
            assert len(loopback.udp) == 1


async def test_every_port_of_a_peer_is_a_socket_of_its_own() -> None:
    loop = asyncio.get_running_loop()
    with udp_socket(socket.AF_INET, "127.0.0.1") as program:
        async with forwarding() as (a, _):
            one, two = [await a.open_udp(B, port_of(program)) for _ in range(2)]
            await one.send(b"one")
            _, first = await loop.sock_recvfrom(program, 100)
            await two.send(b"two")
            _, second = await loop.sock_recvfrom(program, 100)
            assert first != second
            await loop.sock_sendto(program, b"to two", second)
            await loop.sock_sendto(program, b"to one", first)
            assert [await one.receive(), await two.receive()] == [b"to one", b"to two"]


async def test_the_sender_hears_that_nobody_listens() -> None:
    with udp_socket(socket.AF_INET, "127.0.0.1") as gone:
        port = port_of(gone)
    async with forwarding() as (a, loopback):
        datagrams = await a.open_udp(B, port)
        await datagrams.send(b"anyone?")
        with pytest.raises(anyio.BrokenResourceError):
            await datagrams.receive()
        assert len(loopback.udp) == 0


async def test_the_policy_closes_a_udp_port() -> None:
    with udp_socket(socket.AF_INET, "127.0.0.1") as program:
        async with forwarding(refused=frozenset([port_of(program)])) as (a, loopback):
            datagrams = await a.open_udp(B, port_of(program))
            await datagrams.send(b"please")
            with pytest.raises(anyio.BrokenResourceError):
                await datagrams.receive()
            assert loopback.udp.counters["refused"] == 1


async def test_flows_are_bounded_and_the_idlest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loopback_udp, "MAX_FLOWS", 3)
    loop = asyncio.get_running_loop()
    with udp_socket(socket.AF_INET, "127.0.0.1") as program:
        async with forwarding() as (a, loopback):
            for number in range(5):
                await (await a.open_udp(B, port_of(program))).send(b"%d" % number)
                assert (await loop.sock_recvfrom(program, 100))[0] == b"%d" % number
            assert len(loopback.udp) == 3
            assert loopback.udp.counters["flows-evicted"] == 2


async def test_idle_flows_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loopback_udp, "IDLE", 0.0)
    monkeypatch.setattr(loopback_udp, "SWEEP", 0.01)
    loop = asyncio.get_running_loop()
    with udp_socket(socket.AF_INET, "127.0.0.1") as program:
        async with forwarding() as (a, loopback):
            await (await a.open_udp(B, port_of(program))).send(b"once")
            await loop.sock_recvfrom(program, 100)
            await until(lambda: not len(loopback.udp))


async def test_a_node_listens_and_answers() -> None:
    async with node_pair([UdpTransportFactory(UdpSettings())]) as (a, b):
        server, client = b.listen_udp(5353), await a.open_udp(B, 5353)
        with anyio.fail_after(30):
            await client.send(b"q" * 5000)
            question, origin = await server.receive()
            await server.send((question + b"!", origin))
            assert await client.receive() == b"q" * 5000 + b"!"
        with pytest.raises(LocalProtocolError):
            b.listen_udp(5353)
        await server.aclose()
        b.listen_udp(5353)


async def test_what_no_datagram_can_hold_is_an_error() -> None:
    async with node_pair([UdpTransportFactory(UdpSettings())]) as (a, _):
        async with await a.open_udp(B, 9) as datagrams:
            with pytest.raises(ValueError, match="65527"):
                await datagrams.send(bytes(65_528))
        with pytest.raises(anyio.ClosedResourceError):
            await datagrams.send(b"")
        with pytest.raises(anyio.ClosedResourceError):
            await datagrams.receive()


async def test_a_reader_that_sleeps_costs_bounded_memory() -> None:
    async with node_pair([UdpTransportFactory(UdpSettings())]) as (a, b):
        server, client = b.listen_udp(53), await a.open_udp(B, 53)
        with anyio.fail_after(60):
            while not server.dropped:
                await client.send(bytes(60_000))


# -- TCP ---------------------------------------------------------------------------------------------------------------


@FAMILIES
async def test_a_connection_reaches_either_loopback_with_half_close(family: socket.AddressFamily, host: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"seen %d" % len(await reader.read()))  # answers only after our end
        writer.close()

    server = await asyncio.start_server(serve, host, 0, family=family)
    async with server, forwarding() as (a, _):
        stream = await a.dial_tcp(B, port_of(server.sockets[0]))
        await stream.send(bytes(1_000_000))
        await stream.send_eof()
        assert await read_all(stream) == b"seen 1000000"
        await stream.aclose()


async def test_a_closed_port_and_a_forbidden_one_refuse(listener: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        closed = port_of(gone)
    async with forwarding(refused=frozenset([port_of(listener)])) as (a, loopback):
        for port in (closed, port_of(listener)):
            with pytest.raises(TransportBroken, match="refused"):
                await a.dial_tcp(B, port)
        assert loopback.tcp.counters["refused"] == 1
        assert len(loopback.tcp) == 0


async def test_connections_are_bounded(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loopback_tcp, "MAX_CONNECTIONS", 2)
    async with forwarding() as (a, loopback):
        streams = [await a.dial_tcp(B, port_of(listener)) for _ in range(2)]
        with pytest.raises(TransportBroken, match="refused"):
            await a.dial_tcp(B, port_of(listener))
        assert loopback.tcp.counters["refused-too-many"] == 1
        for stream in streams:
            stream.abort()
        while len(loopback.tcp):
            await anyio.lowlevel.checkpoint()
        (await a.dial_tcp(B, port_of(listener))).abort()


async def test_a_reset_by_the_program_is_a_reset_for_the_peer(listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    async with forwarding() as (a, _):
        stream = await a.dial_tcp(B, port_of(listener))
        program, _ = await loop.sock_accept(listener)
        program.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        program.close()
        with pytest.raises(anyio.BrokenResourceError):
            await stream.receive()


async def test_a_reset_by_the_peer_is_a_reset_for_the_program(listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    async with forwarding() as (a, _):
        stream = await a.dial_tcp(B, port_of(listener))
        program, _ = await loop.sock_accept(listener)
        with program:
            program.setblocking(False)
            stream.abort()
            with pytest.raises(ConnectionResetError):
                await loop.sock_recv(program, 100)


async def test_a_program_that_does_not_read_holds_the_sender_up(listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    total = 24 << 20
    async with forwarding() as (a, _):
        stream = await a.dial_tcp(B, port_of(listener))
        program, _ = await loop.sock_accept(listener)
        sent = 0

        async def write() -> None:
            nonlocal sent
            while sent < total:
                await stream.send(bytes(1 << 18))
                sent += 1 << 18
            await stream.send_eof()

        with program:
            program.setblocking(False)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(write)
                with anyio.move_on_after(0.5):
                    await until(lambda: sent == total)
                assert sent < total  # send buffer, window and the program's socket are full
                received = 0
                while data := await loop.sock_recv(program, 1 << 20):
                    received += len(data)
        assert received == total


# -- local sockets, joined to the tunnel -------------------------------------------------------------------------------


def ends() -> tuple[socket.socket, socket.socket]:
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    return near, far


def never(what: object) -> None:
    pytest.fail(str(what))


async def read_all(stream: TunnelStream) -> bytes:
    return b"".join([chunk async for chunk in stream])


async def upper(stream: TunnelStream) -> None:
    await stream.send((await read_all(stream)).upper())


async def test_a_local_socket_is_joined_to_a_dial() -> None:
    loop = asyncio.get_running_loop()
    opened: list[Splice] = []
    ended: list[Splice] = []
    async with node_pair([UdpTransportFactory(UdpSettings())]) as (a, b):
        b.listen_tcp(80, upper)
        near, far = ends()
        a.dial_splice(near, B, 80, on_open=opened.append, on_fail=never, on_end=ended.append)
        with far, anyio.fail_after(30):
            await loop.sock_sendall(far, b"shout")
            far.shutdown(socket.SHUT_WR)
            assert await loop.sock_recv(far, 100) == b"SHOUT"
            assert await loop.sock_recv(far, 100) == b""
        assert opened == ended
        assert (ended[0].to_tunnel, ended[0].to_local, ended[0].error) == (5, 5, "")


async def test_a_dial_that_fails_resets_the_local_socket_and_says_why() -> None:
    loop = asyncio.get_running_loop()
    why: list[str] = []
    async with node_pair([UdpTransportFactory(UdpSettings())]) as (a, _):
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as far:
            near, _ = server.accept()
            near.setblocking(False)
            far.setblocking(False)
            a.dial_splice(near, B, 80, on_open=never, on_fail=why.append, on_end=never)
            with anyio.fail_after(30), pytest.raises(ConnectionResetError):
                await loop.sock_recv(far, 100)
    assert why == ["refused"]


async def test_a_dial_without_an_answer_ends_and_so_does_one_too_many() -> None:
    why: list[str] = []
    few = StackConfig(max_connections=0)
    async with node_pair([UdpTransportFactory(UdpSettings())], stack=few) as (a, _):
        near, far = ends()
        with far:
            a.dial_splice(near, B, 80, on_open=never, on_fail=why.append, on_end=never)
            with anyio.fail_after(30):
                while not why:
                    await anyio.lowlevel.checkpoint()
    async with node_pair([UdpTransportFactory(UdpSettings())]) as (a, b):
        b.on_syn = lambda request: None
        near, far = ends()
        with far:
            a.dial_splice(near, B, 80, on_open=never, on_fail=why.append, on_end=never, timeout=0.05)
            with anyio.fail_after(30):
                await until(lambda: len(why) == 2)
    assert why == ["too many connections", "no answer within 0.05 s"]


async def test_what_was_counted_as_living_is_gone_in_the_end() -> None:
    before = Splice.living
    async with node_pair([UdpTransportFactory(UdpSettings())]) as (a, b):
        b.listen_tcp(80, upper)
        with anyio.fail_after(30):
            for _ in range(5):
                near, far = ends()
                far.close()
                splice = await (await a.dial_tcp(B, 80)).join(near)
                assert splice.error == ""
            near, far = ends()
            with far, anyio.move_on_after(0.05):
                await (await a.dial_tcp(B, 80)).join(near)
            assert near.fileno() == -1
    assert Splice.living == before


async def test_connections_to_an_agent_that_restarted_are_reset() -> None:
    loop = asyncio.get_running_loop()
    factory = [UdpTransportFactory(UdpSettings())]
    async with node_pair(factory) as (a, b), node_pair(factory) as (_, again), forward_to(b) as listener:
        stream = await a.dial_tcp(B, port_of(listener))
        program, _ = await loop.sock_accept(listener)
        with program, anyio.fail_after(30):
            a.remove_peer(b.key)
            a.upsert_peer(again.self_node())
            again.upsert_peer(a.self_node())
            with pytest.raises(anyio.BrokenResourceError):
                await stream.receive()
