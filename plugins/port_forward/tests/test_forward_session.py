"""Forwards of every kind between two real nodes in one process: the user's side, the agent's side, local programs."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import anyio
import anyio.abc
import pytest
from coder_agent_port_forward import PORT, reverse_listener, tcp, udp
from coder_agent_port_forward.books import Book
from coder_agent_port_forward.gate import Gate
from coder_agent_port_forward.grammar import Forward, Protocol
from coder_agent_port_forward.listening import open_listeners
from coder_agent_port_forward.proxy import ProxyForward
from coder_agent_port_forward.reverse import ReverseForward
from coder_agent_port_forward.service import ForwardService
from coder_agent_port_forward.settings import PortForwardSettings
from coder_agent_port_forward.target import Target
from coder_agent_port_forward.tcp import TcpForward
from coder_agent_port_forward.udp import UdpForward
from coder_agent_transport_udp.settings import UdpSettings
from coder_agent_transport_udp.transport import UdpTransportFactory

from coder_agent.client import Workspace
from coder_agent.errors import ConfigError, PeerUnreachable
from coder_agent.hooks.egress import Egress
from coder_agent.node import TailnetNode, TunnelStream
from coder_agent.runtime.loopback import forward_loopback
from coder_agent.testing.node_pair import B, node_pair
from coder_agent.watching import GIVE_UP_AFTER, SURE_AFTER, Watch

pytestmark = pytest.mark.anyio


@dataclass
class Agent:
    """What forwards and proxies see of a workspace (client.Workspace)."""

    node: TailnetNode
    label: str = "alice/dev"
    status: str = "connected"
    answers: bool = True

    @property
    def agent(self) -> Agent:
        return self

    async def open_tcp(self, port: int) -> TunnelStream:
        return await self.node.dial_tcp(B, port)

    async def ping_tunnel(self, *, timeout: float) -> None:
        if not self.answers:
            raise PeerUnreachable("no answer")

    async def refresh_agent(self) -> Agent:
        return self


@dataclass
class Place:
    """One user, one workspace. `trouble` is what the user was told."""

    node: TailnetNode
    target: Target
    workspace: Workspace
    trouble: list[str] = field(default_factory=list)


@asynccontextmanager
async def place(settings: PortForwardSettings | None = None, limit: int = 100) -> AsyncIterator[Place]:
    async with node_pair([UdpTransportFactory(UdpSettings())]) as (a, b):
        loopback = forward_loopback(b, lambda port: port != 1111)
        service = ForwardService(settings or PortForwardSettings(), Egress())
        b.listen_tcp(PORT, service.serve)
        trouble: list[str] = []
        target = Target(a, B, Gate(limit), lambda book, why, count: trouble.append(why))
        try:
            with anyio.fail_after(60):
                yield Place(a, target, cast(Workspace, Agent(a)), trouble)
        finally:
            loopback.close()


def listening(remote: int, protocol: Protocol = Protocol.TCP) -> tuple[Book, list[socket.socket], int]:
    """Sockets on a port that the system chose, and the book of a forward that they belong to."""
    kind = socket.SOCK_STREAM if protocol is Protocol.TCP else socket.SOCK_DGRAM
    sock = socket.socket(socket.AF_INET, kind)
    sock.setblocking(False)
    sock.bind(("127.0.0.1", 0))
    if protocol is Protocol.TCP:
        sock.listen(1000)
    port = sock.getsockname()[1]
    return Book(Forward(protocol, port, remote)), [sock], port


async def until(done: Callable[[], bool]) -> None:
    while not done():
        await anyio.lowlevel.checkpoint()


async def upper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write((await reader.read()).upper())
    writer.close()


@asynccontextmanager
async def shouting() -> AsyncIterator[int]:
    """A program that answers in capitals once its client is done."""
    async with await asyncio.start_server(upper, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def shout(port: int, text: bytes = b"text", head: bytes = b"", skip: int = 0) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        if head:
            writer.write(head)
            await reader.readexactly(skip)
        writer.write(text)
        writer.write_eof()
        return await reader.read()
    finally:
        writer.close()


# -- TCP ---------------------------------------------------------------------------------------------------------------


async def test_a_connection_goes_through_with_half_close_and_is_counted() -> None:
    async with place() as here, shouting() as remote:
        book, sockets, port = listening(remote)
        forward = TcpForward(here.target, book, sockets)
        assert await shout(port, b"x" * 100_000) == b"X" * 100_000
        await until(lambda: book.active == 0)
        forward.tick(0.0)
        assert (book.opened, book.sent, book.received, book.failed) == (1, 100_000, 100_000, 0)
        forward.close()
        with pytest.raises(ConnectionRefusedError):
            await shout(port)


@pytest.mark.parametrize("remote", [1111, None], ids=["policy", "closed"])
async def test_what_the_workspace_refuses_is_a_reset_here(remote: int | None) -> None:
    if remote is None:
        with socket.create_server(("127.0.0.1", 0)) as gone:
            remote = gone.getsockname()[1]
    async with place() as here:
        book, sockets, port = listening(remote)
        forward = TcpForward(here.target, book, sockets)
        with pytest.raises(ConnectionError):
            await shout(port)
        assert here.trouble == ["refused"]
        assert (book.failed, book.active, here.target.gate.inside) == (1, 0, 0)
        forward.close()


async def test_too_many_are_reset_at_once_and_the_others_live() -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as program:
        async with place(limit=20) as here:
            book, sockets, port = listening(program.getsockname()[1])
            forward = TcpForward(here.target, book, sockets)
            clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(200)]
            await until(lambda: book.refused == 180)
            await until(lambda: here.target.gate.opening == 0)
            assert (book.active, book.opened) == (20, 20)
            assert here.trouble[0] == "more than 20 connections at once"
            assert len(here.trouble) <= 3
            dead = 0
            for client in clients:
                client.setblocking(False)
                try:
                    client.recv(1)
                except BlockingIOError:
                    pass
                except ConnectionResetError:
                    dead += 1
            assert dead == 180
            forward.reset("lost")
            for client in clients:
                with client:
                    if dead < 180:
                        await loop.sock_recv(client, 1)
            assert (book.active, here.target.gate.inside) == (0, 0)
            forward.close()


async def test_when_the_system_has_no_more_sockets_the_rest_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "PAUSE", 0.01)
    real, failures = socket.socket.accept, iter([OSError(errno.EMFILE, "Too many open files")] * 3)

    def accept(self: socket.socket) -> tuple[socket.socket, object]:
        if (error := next(failures, None)) is not None:
            raise error
        return real(self)

    async with place() as here, shouting() as remote:
        book, sockets, port = listening(remote)
        monkeypatch.setattr(socket.socket, "accept", accept)
        forward = TcpForward(here.target, book, sockets)
        assert await shout(port) == b"TEXT"
        assert book.refused == 3
        forward.close()


# -- UDP ---------------------------------------------------------------------------------------------------------------


async def test_datagrams_of_several_senders_come_back_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "MAX_SENDERS", 2)
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as program:
        program.bind(("127.0.0.1", 0))
        program.setblocking(False)
        async with place() as here:
            book, sockets, port = listening(program.getsockname()[1], Protocol.UDP)
            forward = UdpForward(here.target, book, sockets)
            for size in (1, 1200, 65_507):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                    client.setblocking(False)
                    client.connect(("127.0.0.1", port))
                    client.send(bytes(size))
                    data, sender = await loop.sock_recvfrom(program, 65_536)
                    await loop.sock_sendto(program, data, sender)
                    assert await loop.sock_recv(client, 65_536) == bytes(size)
            assert (book.opened, book.active, book.dropped) == (3, 2, 0)
            assert book.sent == book.received == 66_708
            monkeypatch.setattr(udp, "IDLE", -1.0)
            forward.tick(here.node.engine.now())
            assert book.active == 0
            forward.close()


async def test_the_user_hears_that_nobody_listens() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
        gone.bind(("127.0.0.1", 0))
        remote = gone.getsockname()[1]
    async with place() as here:
        book, sockets, port = listening(remote, Protocol.UDP)
        forward = UdpForward(here.target, book, sockets)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"anyone?", ("127.0.0.1", port))
            await until(lambda: bool(here.trouble))
        assert here.trouble == ["refused"]
        forward.close()


# -- proxy -------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def proxy(here: Place) -> AsyncIterator[tuple[Book, int]]:
    book, sockets, port = listening(0)
    book.kind = "proxy"
    forward = ProxyForward(here.target, book, sockets, here.workspace)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(forward.run)
        yield book, port
        forward.close()
        tasks.cancel_scope.cancel()


def socks(host: str, port: int) -> bytes:
    return b"\x05\x01\0" + b"\x05\x01\0\x03" + bytes([len(host)]) + host.encode() + port.to_bytes(2, "big")


async def test_programs_reach_the_workspaces_ports_by_socks_and_by_http() -> None:
    async with place() as here, shouting() as remote, proxy(here) as (book, port):
        assert await shout(port, head=socks("localhost", remote), skip=12) == b"TEXT"
        connect = f"CONNECT 127.0.0.1:{remote} HTTP/1.1\r\n\r\n".encode()
        established = len(b"HTTP/1.1 200 Connection established\r\n\r\n")
        assert await shout(port, head=connect, skip=established) == b"TEXT"
        plain = f"GET http://localhost:{remote}/x HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        assert await shout(port, head=plain) == b"GET /X HTTP/1.1\r\nHOST: X\r\nCONNECTION: CLOSE\r\n\r\nTEXT"
        await until(lambda: book.active == 0)
        assert (book.opened, book.failed, here.target.gate.inside) == (3, 0, 0)


@pytest.mark.parametrize(
    ("host", "number", "code"),
    [("localhost", 8, 2), ("localhost", 1111, 5), ("203.0.113.7", 80, 2), ("example.com", 80, 2)],
    ids=["agents-own", "forbidden", "address", "name"],
)
async def test_what_is_not_allowed_is_answered_with_its_reason(host: str, number: int, code: int) -> None:
    async with place() as here, proxy(here) as (book, port):
        answer = await shout(port, b"", head=socks(host, number), skip=2)
        assert answer[:2] == bytes([5, code])
        assert book.failed == 1
        assert here.trouble[0].startswith(f"{host}:{number}: ")


async def test_an_allowed_host_is_reached_and_a_name_that_leads_home_is_not() -> None:
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))  # sends nothing: which address of ours would be used?
            own = probe.getsockname()[0]
    except OSError:
        pytest.skip("this machine has no address but loopback")
    settings = PortForwardSettings(outbound=f"{own}, *.localhost")
    async with await asyncio.start_server(upper, own, 0) as server:
        remote = server.sockets[0].getsockname()[1]
        async with place(settings) as here, proxy(here) as (_, port):
            assert await shout(port, head=socks(own, remote), skip=12) == b"TEXT"
            assert (await shout(port, b"", head=socks("x.localhost", remote), skip=2))[:2] != b"\x05\0"


async def test_an_agent_without_the_service_is_named() -> None:
    async with place() as here, proxy(here) as (_, port):
        here.workspace.node._listeners.clear()
        b = cast(Agent, here.workspace)

        async def refused(port: int) -> TunnelStream:
            return await b.node.dial_tcp(B, 7)

        b.open_tcp = refused  # type: ignore[method-assign]
        answer = await shout(port, b"", head=b"CONNECT example.com:80 HTTP/1.1\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert b"port_forward plugin" in answer


# -- reverse -----------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@asynccontextmanager
async def reversed_to(here: Place, local: int) -> AsyncIterator[tuple[Book, int]]:
    """A port of the workspace that leads to `local`."""
    remote = free_port()
    book = Book(Forward(Protocol.TCP, local, remote), "reverse")
    forward = ReverseForward(here.target, book, here.workspace, here.trouble.append)
    async with anyio.create_task_group() as tasks:
        await tasks.start(forward.run)
        yield book, remote
        forward.close()
        tasks.cancel_scope.cancel()


async def test_the_workspace_reaches_a_port_of_the_user() -> None:
    async with place() as here, shouting() as local, reversed_to(here, local) as (book, remote):
        assert await asyncio.gather(*[shout(remote, b"%d" % n + b"x" * 50_000) for n in range(10)]) == [
            b"%d" % n + b"X" * 50_000 for n in range(10)
        ]
        await until(lambda: book.active == 0)
        assert (book.opened, book.failed) == (10, 0)


async def test_a_closed_port_of_the_user_is_a_reset_in_the_workspace() -> None:
    async with place() as here, reversed_to(here, free_port()) as (book, remote):
        with pytest.raises(ConnectionError):
            await shout(remote)
        await until(lambda: book.active == 0)
        assert "nothing listens on port" in here.trouble[0]


async def test_connections_that_nobody_fetches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reverse_listener, "MAX_WAITING", 0)
    async with place() as here, shouting() as local, reversed_to(here, local) as (_, remote):
        with pytest.raises(ConnectionError):
            await shout(remote)


@pytest.mark.parametrize("why", ["policy", "busy", "too-many"])
async def test_the_agent_may_refuse_to_listen(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if why == "too-many":
        monkeypatch.setattr(reverse_listener, "MAX_LISTENERS", 0)
    async with place(PortForwardSettings(reverse=why != "policy")) as here:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1] if why == "busy" else free_port()
            book = Book(Forward(Protocol.TCP, 80, port), "reverse")
            forward = ReverseForward(here.target, book, here.workspace, here.trouble.append)
            with pytest.raises(ConfigError, match=f"--reverse {port}: "):
                await forward.run(task_status=anyio.TASK_STATUS_IGNORED)


async def test_a_number_that_was_guessed_gets_nothing() -> None:
    async with place() as here:
        stream = await here.node.dial_tcp(B, PORT)
        await stream.send(b'{"op": "accept", "id": "0123"}\n')
        assert b"does not wait" in await stream.receive()
        await stream.aclose()


# -- listening and watching --------------------------------------------------------------------------------------------


def test_both_loopbacks_are_listened_on_and_a_busy_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        forward = Forward(Protocol.TCP, taken.getsockname()[1], 80)
        with pytest.raises(ConfigError, match="address already in use") as caught:
            open_listeners(forward)
        assert "choose another local one" in str(caught.value.hint)
    for protocol in Protocol:
        sockets = open_listeners(Forward(protocol, free_port(), 80))
        assert sockets[0].getsockname()[0] == "127.0.0.1"
        assert [sock.getsockname()[0] for sock in sockets[1:]] in ([], ["::1"])
        for sock in sockets:
            sock.close()


async def test_a_silent_workspace_is_lost_when_the_server_says_so_or_after_a_minute() -> None:
    async with node_pair([UdpTransportFactory(UdpSettings())]) as (a, _):
        agent, said = Agent(a), list[str]()
        watch = Watch(
            cast(Workspace, agent), busy=lambda: True, lost=said.append, restored=lambda: said.append("restored")
        )
        agent.answers = False
        for _ in range(GIVE_UP_AFTER - 1):
            await watch.look()
        assert said == []
        await watch.look()
        assert said == ["it does not answer any more"]
        agent.answers = True
        await watch.look()
        agent.answers, agent.status = False, "disconnected"
        for _ in range(SURE_AFTER + 3):
            await watch.look()
        assert said[1:] == ["restored", "its agent is disconnected"]
