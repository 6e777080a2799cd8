"""`Workspace.forward`: a local port and a program behind a real tunnel."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.abc
import pytest
from coder_agent_transport_udp.settings import UdpSettings
from coder_agent_transport_udp.transport import UdpTransportFactory

from coder_agent import forwarding, forwarding_udp
from coder_agent.errors import ConfigError
from coder_agent.forwarding import Forward, forwarded
from coder_agent.node import TailnetNode
from coder_agent.runtime.loopback import forward_loopback
from coder_agent.testing.node_pair import B, node_pair

pytestmark = pytest.mark.anyio
HOSTS = pytest.mark.parametrize("host", ["127.0.0.1", "::1"], ids=["v4", "v6"])


@asynccontextmanager
async def tunnel() -> AsyncIterator[TailnetNode]:
    """A node whose peer forwards to loopback."""
    async with node_pair([UdpTransportFactory(UdpSettings())]) as (a, b):
        loopback = forward_loopback(b)
        try:
            with anyio.fail_after(60):
                yield a
        finally:
            loopback.close()


async def upper(stream: anyio.abc.SocketStream) -> None:
    """A program: answers in capitals when all was said."""
    async with stream:
        said = b"".join([part async for part in stream])
        await stream.send(said.upper())


@asynccontextmanager
async def program() -> AsyncIterator[int]:
    """The port of one in the workspace."""
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, upper)
        yield listener.extra(anyio.abc.SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


async def until(done: Callable[[], bool]) -> None:
    while not done():
        await anyio.lowlevel.checkpoint()


@HOSTS
async def test_half_close_and_all_bytes_both_ways(host: str) -> None:
    sent = b"some words " * 50_000
    async with tunnel() as node, program() as port:
        with forwarded(node, B, port, host, 0) as forward:
            assert forward.address == (host, forward.port)
            async with await anyio.connect_tcp(*forward.address) as stream:
                await stream.send(sent)
                await stream.send_eof()
                assert b"".join([part async for part in stream]) == sent.upper()
            await until(lambda: forward.active == 0)
            assert forward.failed == 0


async def test_a_closed_port_is_seen_as_a_reset_and_counted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        closed = sock.getsockname()[1]
    async with tunnel() as node:
        with forwarded(node, B, closed, "127.0.0.1", 0) as forward:
            async with await anyio.connect_tcp(*forward.address) as stream:
                with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
                    await stream.receive()
            await until(lambda: forward.active == 0)
            assert forward.failed == 1
            assert forward.last_failure


async def test_the_end_of_the_block_resets_connections_and_frees_the_port() -> None:
    async with tunnel() as node, program() as port:
        with forwarded(node, B, port, "127.0.0.1", 0) as forward:
            assert isinstance(forward, Forward)
            stream = await anyio.connect_tcp(*forward.address)
            await stream.send(b"x")
            await until(lambda: len(forward._open) == 1)
        async with stream:
            with pytest.raises(anyio.BrokenResourceError):
                await stream.receive()
        with forwarded(node, B, port, "127.0.0.1", forward.port) as again:
            assert again.port == forward.port


async def test_more_connections_than_allowed_are_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "MAX_CONNECTIONS", 1)
    async with tunnel() as node, program() as port:
        with forwarded(node, B, port, "127.0.0.1", 0) as forward:
            async with await anyio.connect_tcp(*forward.address) as first:
                await until(lambda: forward.active == 1)
                with socket.create_connection(forward.address) as second:  # the kernel answers: we are in its backlog
                    await until(lambda: forward.failed == 1)
                    with pytest.raises(ConnectionResetError):
                        second.recv(1)
                assert forward.last_failure == "more than 1 connections at once"
                await first.send_eof()
                with pytest.raises(anyio.EndOfStream):
                    await first.receive()


async def test_without_descriptors_it_waits_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "PAUSE", 0.0)
    async with tunnel() as node, program() as port:
        with forwarded(node, B, port, "127.0.0.1", 0) as forward:
            assert isinstance(forward, Forward)
            real, forward._listener = forward._listener, _Exhausted(forward._listener)
            async with await anyio.connect_tcp(*forward.address) as stream:
                await until(lambda: forward.failed == 1)
                await stream.send(b"a")
                await stream.send_eof()
                assert await stream.receive() == b"A"
            forward._listener = real


class _Exhausted(socket.socket):
    """A listener whose first `accept` finds no descriptor left."""

    def __init__(self, real: socket.socket) -> None:
        self._real, self._times = real, 0

    def fileno(self) -> int:
        return self._real.fileno()

    def accept(self) -> tuple[socket.socket, object]:
        self._times += 1
        if self._times == 1:
            raise OSError(24, "Too many open files")
        return self._real.accept()


@pytest.mark.parametrize(
    ("host", "port", "hint"),
    [("192.0.2.1", 0, "address of this machine"), ("127.0.0.1", 65536, "address"), ("127.0.0.1", -1, "leave local")],
    ids=["host", "too large", "taken"],
)
async def test_what_cannot_be_listened_on(host: str, port: int, hint: str) -> None:
    async with tunnel() as node:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            wanted = taken.getsockname()[1] if port < 0 else port
            with pytest.raises(ConfigError, match="cannot listen on") as caught, forwarded(node, B, 1, host, wanted):
                pass
            assert hint in (caught.value.hint or "")


@pytest.mark.parametrize("port", [0, -1, 65536])
async def test_ports_that_there_are_not(port: int) -> None:
    async with tunnel() as node:
        with pytest.raises(ConfigError, match="from 1 to 65535"), forwarded(node, B, port, "127.0.0.1", 0):
            pass


async def test_closing_twice_is_nothing() -> None:
    async with tunnel() as node:
        with forwarded(node, B, 9, "127.0.0.1", 0) as forward:
            assert isinstance(forward, Forward)
            forward.close()
            forward.close()


@HOSTS
async def test_datagrams_find_back_to_each_sender(host: str) -> None:
    async with tunnel() as node:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as echo:
            echo.bind(("127.0.0.1", 0))
            echo.setblocking(False)
            with forwarded(node, B, echo.getsockname()[1], host, 0, udp=True) as forward:
                for number in range(3):
                    async with await anyio.create_connected_udp_socket(*forward.address) as sender:
                        await sender.send(b"%d" % number + bytes(1000))
                        await anyio.wait_readable(echo)
                        data, source = echo.recvfrom(65536)
                        echo.sendto(data.upper() + b"!", source)
                        assert await sender.receive() == b"%d" % number + bytes(1000) + b"!"
                assert (forward.active, forward.failed) == (3, 0)
            assert forward.active == 0


async def test_the_most_silent_sender_makes_room_and_refusals_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding_udp, "MAX_SENDERS", 2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        closed = sock.getsockname()[1]
    async with tunnel() as node:
        with forwarded(node, B, closed, "127.0.0.1", 0, udp=True) as forward:
            for _ in range(4):
                async with await anyio.create_connected_udp_socket(*forward.address) as sender:
                    before = forward.failed
                    await sender.send(b"x")
                    await until(lambda before=before: forward.failed > before)  # type: ignore[misc]
            assert forward.active == 2
            assert "nobody listens" in forward.last_failure
