"""The server's route: who may, what the query means, bytes both ways, and how it ends. The agent is a socket here."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import anyio
import anyio.abc
import pytest
from coder_agent_server.testing import Api, another_user, first_user, run_server
from coder_agent_terminal import plugin
from coder_agent_terminal.bridge import path_document
from coder_agent_terminal.protocol import Init, Size, UpwardReader
from coder_agent_terminal.routes import Refusal, requested
from starlette.datastructures import QueryParams
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from coder_agent.base.paths import PathKind
from coder_agent.hooks.server_tailnet import TunnelPath
from coder_agent.testing.loopback_tailnet import LoopbackStream, LoopbackTailnet

pytestmark = pytest.mark.anyio
SESSION = UUID("6f1c7c0e-3b0e-4c29-9b8e-2d3a54a4e0c1")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Tailnet(LoopbackTailnet):
    """Every dial leads to one listener, whatever the port."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port = port

    async def dial(self, agent_id: UUID, port: int, *, timeout: float = 30) -> LoopbackStream:
        assert port == 2
        return await super().dial(agent_id, self.port, timeout=timeout)


@dataclass
class Door:
    """The server, its owner, a workspace's agent, and what the agent was sent."""

    url: str
    api: Api
    agent: str
    tailnet: Tailnet
    arrived: list[UpwardReader]
    stop: Any

    def address(self, **query: object) -> str:
        chosen = {"reconnect": SESSION, **query}
        text = "&".join(f"{name}={value}" for name, value in chosen.items() if value is not None)
        return f"{self.url.replace('http', 'ws')}/api/v2/workspaceagents/{self.agent}/pty?{text}"

    def open(self, token: str | None = None, origin: str | None = None, **query: object) -> connect:
        headers = {"Cookie": f"coder_session_token={self.api.token if token is None else token}"}
        if origin:
            headers["Origin"] = origin
        return connect(self.address(**query), additional_headers=headers, compression=None)


@asynccontextmanager
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    """The agent echoes what is typed in capitals, and ends at ``q``."""
    arrived: list[UpwardReader] = []

    async def agent(stream: anyio.abc.SocketStream) -> None:
        reader = UpwardReader()
        async with stream:
            while True:
                try:
                    reader.feed(await stream.receive())
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    return
                if reader.init is not None and reader not in arrived:
                    arrived.append(reader)
                    await stream.send(b"hello\x1b[0m\xff")
                while (message := reader.next()) is not None:
                    await stream.send(message.data.upper().encode())
                    if "q" in message.data:
                        return

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks, run_server(tmp_path, ("terminal", plugin)) as server:
        tasks.start_soon(listener.serve, agent)
        tailnet = Tailnet(port)
        server.running.deployment.tailnet = tailnet  # type: ignore[assignment]
        async with first_user(server.url) as api:
            reply = await api.post("/api/v2/organizations/default/members/me/workspaces", json={"name": "dev"})
            assert reply.status_code == 201, reply.text
            (resource,) = reply.json()["latest_build"]["resources"]
            stopping = server.running.deployment.stopping
            yield Door(server.url, api, resource["agents"][0]["id"], tailnet, arrived, stopping)
        tasks.cancel_scope.cancel()


async def ended(socket: ClientConnection) -> tuple[int, str]:
    """The close frame."""
    with anyio.fail_after(60), pytest.raises(ConnectionClosed) as closed:
        await _drain(socket)
    frame = closed.value.rcvd
    assert frame is not None
    return frame.code, frame.reason


async def _drain(socket: ClientConnection) -> None:
    while True:
        await socket.recv()


async def test_bytes_go_both_ways_and_the_end_is_told(tmp_path: Path) -> None:
    async with door(tmp_path) as place:
        async with place.open(height=24, width=100, command="top") as socket:
            assert await socket.recv() == b"hello\x1b[0m\xff"
            await socket.send(b'{"data":"a')  # messages need not be whole, as with stock clients
            await socket.send(b'b"}')
            assert await socket.recv() == b"AB"
            await socket.send('{"data":"q"}')
            assert await socket.recv() == b"Q"
            assert await ended(socket) == (1000, "the terminal ended")
        assert place.arrived[0].init == Init(SESSION, Size(24, 100), "top")


async def test_the_size_is_80_by_80_unless_said(tmp_path: Path) -> None:
    async with door(tmp_path) as place:
        async with place.open() as socket:
            await socket.recv()
        assert place.arrived[0].init == Init(SESSION, Size(80, 80))


async def test_our_page_is_told_of_the_path_in_text_messages(tmp_path: Path) -> None:
    async with door(tmp_path) as place:
        place.tailnet.paths[UUID(place.agent)] = TunnelPath(PathKind.RELAYED, None, 999, "Paris", 0.0123, reason="why")
        async with place.open(marks="true") as socket:
            heard = [await socket.recv(), await socket.recv()]
            (text,) = [item for item in heard if isinstance(item, str)]
            assert json.loads(text) == {
                "path": {"kind": "relayed", "region": "Paris", "latency_ms": 12.0, "reason": "why"}
            }


def test_a_path_in_words_for_the_page() -> None:
    assert path_document(None) == {"kind": "none"}
    assert path_document(TunnelPath(PathKind.DIRECT, latency=0.00123)) == {"kind": "direct", "latency_ms": 1.2}
    assert path_document(TunnelPath(PathKind.NONE, reason="asleep")) == {"kind": "none", "reason": "asleep"}
    relayed = path_document(TunnelPath(PathKind.RELAYED, region=7))
    assert relayed == {"kind": "relayed", "region": "7", "latency_ms": None, "reason": ""}


async def test_a_query_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    async with door(tmp_path) as place:
        nonsense: list[tuple[dict[str, Any], str]] = [
            ({"reconnect": None}, "reconnect"),
            ({"reconnect": "42"}, "reconnect"),
            ({"height": "-1"}, "height"),
            ({"width": "65536"}, "width"),
            ({"width": "9" * 5000}, "width"),
            ({"width": "%C2%B2"}, "width"),
            ({"height": "1e1"}, "height"),
        ]
        for query, field in nonsense:
            with pytest.raises(InvalidStatus) as refused:
                await place.open(**query).__aenter__()
            answer = refused.value.response
            assert answer.status_code == 400
            assert json.loads(answer.body or b"")["validations"][0]["field"] == field
        assert place.tailnet.dialled == []


def test_a_command_that_fits_into_no_opening_message_is_refused() -> None:
    query = f"reconnect={SESSION}&command={'%01' * 11000}".encode()  # six bytes each, as JSON
    with pytest.raises(Refusal) as refused:
        requested(QueryParams(query))
    assert (refused.value.status, refused.value.field) == (400, "command")


async def test_who_may_not_is_refused_before_anything_is_dialled(tmp_path: Path) -> None:
    async with door(tmp_path) as place, another_user(place.api, place.url, "bob") as bob:
        for token, origin, agent, status in [
            ("", None, place.agent, 401),
            ("wrong", None, place.agent, 401),
            (bob.token, None, place.agent, 404),
            (place.api.token, "http://evil.example", place.agent, 403),
            (place.api.token, None, str(uuid4()), 404),
            (place.api.token, None, "42", 400),
        ]:
            place.agent, kept = agent, place.agent
            with pytest.raises(InvalidStatus) as refused:
                await place.open(token, origin).__aenter__()
            place.agent = kept
            assert refused.value.response.status_code == status
        assert place.tailnet.dialled == []


async def test_an_agent_that_is_away_is_said_in_the_close_frame(tmp_path: Path) -> None:
    async with door(tmp_path) as place:
        place.tailnet.gone[UUID(place.agent)] = "workspace dev: its agent is not connected"
        async with place.open() as socket:
            assert await ended(socket) == (1011, "workspace dev: its agent is not connected")


async def test_a_stopping_server_ends_it(tmp_path: Path) -> None:
    async with door(tmp_path) as place, place.open() as socket:
        await socket.recv()
        place.stop.set()
        assert await ended(socket) == (1012, "the server is shutting down")


async def test_signing_out_ends_the_terminal(tmp_path: Path) -> None:
    async with door(tmp_path) as place, place.open() as socket:
        await socket.recv()
        assert (await place.api.post("/api/v2/users/logout")).status_code == 200
        code, _ = await ended(socket)
        assert code == 1008


async def test_a_message_beyond_all_measure_ends_the_connection(tmp_path: Path) -> None:
    async with door(tmp_path) as place, place.open() as socket:
        await socket.recv()
        await socket.send(b"x" * ((1 << 20) + 1))
        assert (await ended(socket))[0] == 1009


async def test_the_page_its_policy_and_its_files(tmp_path: Path) -> None:
    async with door(tmp_path) as place:
        reply = await place.api.get("/@me/dev/terminal?command=%3Cscript%3E")
        assert reply.status_code == 200
        policy = reply.headers["content-security-policy"]
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert "<script>" not in reply.text
        assert 'data-ask="yes"' in reply.text
        for part in reply.text.split('"'):
            if part.startswith("/terminal-files/"):
                file = await place.api.get(part)
                assert file.status_code == 200
                again = await place.api.get(part, headers={"If-None-Match": file.headers["etag"]})
                assert again.status_code == 304
        assert (await place.api.get("/terminal-files/plugin.py")).status_code == 404
        clicked = await place.api.get("/@me/dev.main/terminal?command=ls", headers={"Sec-Fetch-Site": "same-origin"})
        assert 'data-ask=""' in clicked.text
        assert (await place.api.get("/@me/other/terminal")).status_code == 404


async def test_who_is_signed_out_is_sent_to_sign_in_and_back(tmp_path: Path) -> None:
    async with door(tmp_path) as place, Api(place.url) as nobody:
        reply = await nobody.get("/@alice/dev/terminal?command=ls")
        assert reply.status_code == 303
        assert reply.headers["location"] == "/login?next=/%40alice/dev/terminal%3Fcommand%3Dls"
