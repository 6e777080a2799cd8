"""The agent's own HTTP API: listening ports from /proc, and requests over one stream."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import pytest
from coder_agent_diagnostics.agent_api import AgentApiService
from coder_agent_diagnostics.listening import ListeningPort, listening_inodes, listening_ports, named

pytestmark = pytest.mark.anyio

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def line(port: int, inode: int, state: str = "0A") -> str:
    return f"   0: 0100007F:{port:04X} 00000000:0000 {state} 0:0 00:00000000 00000000  1000        0 {inode}\n"


async def test_only_listeners_above_the_agents_own_ports_count() -> None:
    table = HEAD + line(8080, 1) + line(8, 2) + line(5000, 3, "01") + "junk\n" + line(9, 4).replace("0009", "zzzz")
    assert listening_inodes(table) == {"1": 8080}


async def test_a_port_is_shown_once_and_our_own_not_at_all() -> None:
    inodes = {"1": 8080, "2": 8080, "3": 2112, "4": 22}
    assert named(inodes, {"2": "python3"}, frozenset({"3"})) == [ListeningPort(22), ListeningPort(8080, "python3")]


async def test_a_whole_proc_folder(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net/tcp").write_text(HEAD + line(8080, 11) + line(9000, 12))
    for pid, inode, name in ((7, 11, "vite"), (8, 99, "other")):
        (tmp_path / f"{pid}/fd").mkdir(parents=True)
        (tmp_path / f"{pid}/fd/3").symlink_to(f"socket:[{inode}]")
        (tmp_path / f"{pid}/comm").write_text(f"{name}\n")
    assert listening_ports(tmp_path) == [ListeningPort(8080, "vite"), ListeningPort(9000)]


async def test_our_own_listeners_are_not_apps() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mine:
        assert mine.getsockname()[1] not in [one.port for one in listening_ports()]


async def test_without_proc_there_are_none(tmp_path: Path) -> None:
    assert listening_ports(tmp_path) == []


# ---------------------------------------------------------------- HTTP


@asynccontextmanager
async def served() -> AsyncIterator[anyio.abc.SocketStream]:
    service = AgentApiService(lambda: [ListeningPort(8080, "vite")])

    async def handle(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await service.serve(stream)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            yield stream
        tasks.cancel_scope.cancel()


async def ask(stream: anyio.abc.SocketStream, request: bytes) -> tuple[int, object]:
    await stream.send(request)
    data = b""
    while b"\r\n\r\n" not in data:
        data += await stream.receive()
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(int(one.split(b":")[1]) for one in head.split(b"\r\n") if one.lower().startswith(b"content-length"))
    while len(body) < length:
        body += await stream.receive()
    return int(head.split()[1]), json.loads(body)


async def test_several_requests_of_one_connection() -> None:
    with anyio.fail_after(30):
        async with served() as stream:
            status, document = await ask(stream, b"GET /api/v0/listening-ports HTTP/1.1\r\nHost: agent\r\n\r\n")
            ports = [{"process_name": "vite", "network": "tcp", "port": 8080}]
            assert (status, document) == (200, {"ports": ports})
            assert (await ask(stream, b"GET / HTTP/1.1\r\nHost: agent\r\n\r\n"))[0] == 200
            containers = await ask(stream, b"GET /api/v0/containers?label=a%3D HTTP/1.1\r\nHost: agent\r\n\r\n")
            assert containers == (200, {"containers": []}), "a stock `coder show` asks, and warns when it gets no list"
            assert (await ask(stream, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"))[0] == 405
            assert (await ask(stream, b"GET /api/v0/netcheck HTTP/1.1\r\nHost: agent\r\n\r\n"))[0] == 404


@pytest.mark.parametrize("junk", [b"\x16\x03\x01\x00\x05hello\r\n\r\n", b"GET /\r\n\r\n"], ids=["tls", "no version"])
async def test_junk_is_answered_and_the_connection_ends(junk: bytes) -> None:
    with anyio.fail_after(30):
        async with served() as stream:
            assert (await ask(stream, junk))[0] == 400
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()


async def test_a_head_without_end_is_refused() -> None:
    with anyio.fail_after(30):
        async with served() as stream:
            assert (await ask(stream, b"GET / HTTP/1.1\r\nX: " + b"a" * 20_000))[0] == 431
