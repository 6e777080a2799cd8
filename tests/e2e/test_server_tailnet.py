"""The server's own tailnet node: the server runs here, with all its plugins; the agents are real processes.

What is dialled are programs of this process: an echo, a talker that never stops, a reader that waits.
"""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import anyio
import anyio.abc
import pytest
from coder_agent_server.tailnet import member as members
from coder_agent_server.tailnet.shared import SharedTailnet
from coder_agent_server.testing import Api, Server, eventually, first_user, run_server

from coder_agent.base.paths import PathKind
from coder_agent.errors import PeerUnreachable, TransportBroken
from coder_agent.testing.deployment import BIN
from coder_agent.testing.processes import Program, run_program

pytestmark = pytest.mark.anyio
PLUGINS = [(name, f"coder_agent_{name}.plugin") for name in ("transport_derp", "transport_udp", "nat_traversal")]
PATIENCE = 90.0
"""Seconds for a step of a test; other tests share the machine."""
Serve = Callable[[anyio.abc.ByteStream], Awaitable[None]]


@dataclass
class Place:
    """A server, one workspace, and its agent's process."""

    server: Server
    api: Api
    folder: Path
    agent_id: UUID
    token: str
    programs: list[Program] = field(default_factory=list)

    @property
    def tailnet(self) -> SharedTailnet:
        return self.server.running.deployment.tailnet

    @asynccontextmanager
    async def agent(self) -> AsyncIterator[Program]:
        """Run the agent; return when the server has it."""
        environ = {
            "PATH": os.pathsep.join([str(BIN), os.environ.get("PATH", os.defpath)]),
            "HOME": str(self.folder),
            "CODER_AGENT_URL": self.server.url,
            "CODER_AGENT_TOKEN": self.token,
            "CODER_AGENT_PORTS_DIR": str(self.folder / "ports"),
            "CODER_PLUGIN_DISCOVERY_MDNS__ENABLED": "false",
        }
        with run_program("coder-agent", "-v", "run", env=environ, cwd=self.folder) as program:
            self.programs.append(program)
            await self.until(lambda: self.connected)
            try:
                yield program
            finally:  # in a thread: the server, to which it says goodbye, lives here
                program.process.terminate()
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(program.wait)

    @property
    def connected(self) -> bool:
        return self.server.running.deployment.presence.last_seen(self.agent_id) is not None

    async def until(self, look: Callable[[], object]) -> None:
        async def ask() -> object:
            return look()

        await eventually(ask, timeout=PATIENCE)

    async def echoes(self, port: int, word: bytes = b"hello") -> None:
        """One connection, one word there and back."""
        async with await self.tailnet.dial(self.agent_id, port, timeout=PATIENCE) as stream:
            await stream.send(word)
            assert await stream.receive() == word


@asynccontextmanager
async def running(folder: Path, **settings: object) -> AsyncIterator[Place]:
    async with run_server(folder / "data", *PLUGINS, **settings) as server, first_user(server.url) as api:
        (organization,) = (await api.get("/api/v2/organizations")).json()
        made = await api.post(f"/api/v2/organizations/{organization['id']}/members/me/workspaces", json={"name": "dev"})
        document = made.json()
        agent_id = UUID(document["latest_build"]["resources"][0]["agents"][0]["id"])
        place = Place(server, api, folder, agent_id, document["agent_token"])
        with anyio.fail_after(4 * PATIENCE):
            yield place
        for program in place.programs:
            print(program.output[-5000:])


@asynccontextmanager
async def program(serve: Serve) -> AsyncIterator[int]:
    """A program in the workspace; yields its port."""

    async def connection(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            try:
                await serve(stream)
            except (anyio.BrokenResourceError, anyio.EndOfStream):
                pass

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, connection)
        yield listener.extra(anyio.abc.SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


async def echo(stream: anyio.abc.ByteStream) -> None:
    async for data in stream:
        await stream.send(data)
    await stream.send_eof()


async def test_the_life_of_a_relayed_connection(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Through the relay in memory; an agent that is not there, comes, is killed, comes again."""
    caplog.set_level(logging.INFO)
    async with running(tmp_path, block_direct_connections=True) as place, program(echo) as port:
        tailnet, agent_id = place.tailnet, place.agent_id
        with pytest.raises(PeerUnreachable, match=r"alice/dev\.main: its agent has never connected"):
            await tailnet.dial(agent_id, port)
        assert tailnet.path(agent_id) is None
        assert "tailnet of this server: open" not in caplog.text  # nothing is opened for nobody

        async with place.agent() as agent:
            await place.echoes(port)
            path = tailnet.path(agent_id)
            assert path is not None
            assert (path.kind, path.region_name) == (PathKind.RELAYED, "Coder Embedded Relay")
            assert "forbids direct connections" in path.reason
            await half_closes(place, port)
            await refuses(place)
            assert tailnet.metrics()["open_connections"] == 0

            stream = await tailnet.dial(agent_id, port, timeout=PATIENCE)
            agent.process.kill()
            with pytest.raises(anyio.BrokenResourceError) as broken:
                await stream.receive()
            assert "alice/dev.main: its agent" in str(broken.value.__cause__)
            await stream.aclose()
        began = time.monotonic()
        with pytest.raises(PeerUnreachable, match=r"its agent is not connected since \d{4}-.* \(\d+ (s|min) ago\)"):
            await tailnet.dial(agent_id, port, timeout=PATIENCE)
        assert time.monotonic() - began < PATIENCE / 2  # not waited for

        async with place.agent():  # with new keys
            await place.echoes(port)
            no_socket = place.server.running.deployment.relay
            assert no_socket is not None
            await leaves_when_idle(place, port)
        await place.until(lambda: not place.connected)


async def half_closes(place: Place, port: int) -> None:
    async with await place.tailnet.dial(place.agent_id, port, timeout=PATIENCE) as stream:
        await stream.send(b"bye")
        await stream.send_eof()
        heard = b"".join([chunk async for chunk in stream])
        assert heard == b"bye"


async def refuses(place: Place) -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        free = listener.extra(anyio.abc.SocketAttribute.local_port)
    with pytest.raises(TransportBroken, match=f"alice/dev.main: port {free}: .*refused"):
        await place.tailnet.dial(place.agent_id, free, timeout=PATIENCE)


async def leaves_when_idle(place: Place, port: int) -> None:
    """An agent without connections leaves, one with stays; the node closes with the last, and opens again."""
    tailnet = place.tailnet
    opened = tailnet._open
    assert opened is not None
    async with await tailnet.dial(place.agent_id, port, timeout=PATIENCE):
        opened.remove_idle(0.0)
        assert tailnet.metrics()["agents"] == 1
    opened.remove_idle(3600.0)
    assert tailnet.metrics()["agents"] == 1
    opened.remove_idle(0.0)
    assert tailnet.metrics()["agents"] == 0
    assert tailnet.path(place.agent_id) is None
    await place.echoes(port)


async def test_the_direct_path_many_streams_and_bulk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Direct as soon as it can be; a thousand streams at once; a limit that is waited for; uploads and slow readers."""
    async with running(tmp_path) as place, program(echo) as port, place.agent():
        await place.echoes(port)
        tailnet, agent_id = place.tailnet, place.agent_id

        def is_direct() -> bool:
            path = tailnet.path(agent_id)
            return path is not None and path.kind is PathKind.DIRECT and path.addr is not None

        await place.until(is_direct)
        await thousand(place, port)
        await uploads(place)
        await slow_reader(place)
        await slow_program(place)
        monkeypatch.setattr(members, "MAX_CONNECTIONS", 2)
        await waits_for_room(place, port)


async def thousand(place: Place, port: int) -> None:
    """A thousand connections that are all open at one moment."""
    count, everybody = 0, anyio.Event()

    async def one(number: int) -> None:
        nonlocal count
        async with await place.tailnet.dial(place.agent_id, port, timeout=PATIENCE) as stream:
            count += 1
            if count == 1000:
                everybody.set()
            await everybody.wait()
            word = b"stream %d" % number
            await stream.send(word)
            assert await stream.receive() == word

    async with anyio.create_task_group() as tasks:
        for number in range(1000):
            tasks.start_soon(one, number)
    assert place.tailnet.metrics()["open_connections"] == 0


async def uploads(place: Place) -> None:
    """64 MiB into a program that adds them up."""
    block, blocks = os.urandom(1 << 20), 64
    wanted = hashlib.sha256(block * blocks).hexdigest()

    async def add_up(stream: anyio.abc.ByteStream) -> None:
        total = hashlib.sha256()
        async for data in stream:
            total.update(data)
        await stream.send(total.hexdigest().encode())

    async with (
        program(add_up) as port,
        await place.tailnet.dial(place.agent_id, port, timeout=PATIENCE) as stream,
    ):
        for _ in range(blocks):
            await stream.send(block)
        await stream.send_eof()
        assert (await stream.receive()).decode() == wanted


async def slow_reader(place: Place) -> None:
    """A program that talks without end is stopped while nobody listens, and others are served meanwhile."""
    sent = 0

    async def talk(stream: anyio.abc.ByteStream) -> None:
        nonlocal sent
        while True:
            await stream.send(bytes(1 << 16))
            sent += 1 << 16

    async with (
        program(talk) as port,
        program(echo) as other,
        await place.tailnet.dial(place.agent_id, port, timeout=PATIENCE) as stream,
    ):
        stands = await standstill(lambda: sent)
        assert stands < 64 << 20  # windows and socket buffers on the way, not a queue that grows
        await place.echoes(other)
        heard = 0
        while heard <= stands:
            heard += len(await stream.receive())


async def slow_program(place: Place) -> None:
    """A program that does not read stops who sends to it."""
    sent = 0
    # A plain socket: the kernel answers for it, and nothing reads. (anyio and asyncio read ahead until their first
    # pause, without a bound.)
    with socket.create_server(("127.0.0.1", 0)) as program:
        stream = await place.tailnet.dial(place.agent_id, program.getsockname()[1], timeout=PATIENCE)

        async def send() -> None:
            nonlocal sent
            while True:
                await stream.send(bytes(1 << 16))
                sent += 1 << 16

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            assert await standstill(lambda: sent) < 64 << 20
            tasks.cancel_scope.cancel()
        stream.abort()


async def standstill(look: Callable[[], int]) -> int:
    """What `look` answers when it has answered the same for a second."""
    last, since = look(), time.monotonic()
    while time.monotonic() - since < 1.0:
        await anyio.sleep(0.05)
        if look() != last:
            last, since = look(), time.monotonic()
    return last


async def waits_for_room(place: Place, port: int) -> None:
    tailnet, agent_id = place.tailnet, place.agent_id
    first = await tailnet.dial(agent_id, port, timeout=PATIENCE)
    second = await tailnet.dial(agent_id, port, timeout=PATIENCE)
    with pytest.raises(PeerUnreachable, match="no connection became free"):
        await tailnet.dial(agent_id, port, timeout=0.2)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(place.echoes, port)
        await anyio.wait_all_tasks_blocked()
        await first.aclose()
    await second.aclose()


MOUNTER = """
import anyio, coder_agent
from coder_agent import asgi

async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"7")]})
        await send({"type": "http.response.body", "body": b"mounted"})

async def main():
    async with coder_agent.listen(8123, asgi.handler(app)), asgi.lifespan(app):
        print("mounted", flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


async def test_mounted_applications_and_app_health(tmp_path: Path) -> None:
    """A program mounts an ASGI application at a port that nobody listens on; the agent says how its apps are."""
    async with running(tmp_path, block_direct_connections=True) as place:
        await declare(place, "mounted", 8123)
        await declare(place, "absent", 9)
        (tmp_path / "mounter.py").write_text(MOUNTER)
        environ = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(tmp_path)}
        environ["CODER_AGENT_PORTS_DIR"] = str(tmp_path / "ports")
        async with place.agent():
            with run_program(str(BIN / "python"), str(tmp_path / "mounter.py"), env=environ, cwd=tmp_path) as mounter:
                await anyio.to_thread.run_sync(mounter.wait_for, "mounted")
                async with await place.tailnet.dial(place.agent_id, 8123, timeout=PATIENCE) as stream:
                    await stream.send(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    heard = b"".join([chunk async for chunk in stream])
                assert heard.endswith(b"mounted")
                await until_health(place, {"mounted": "healthy", "absent": "unhealthy"})
            await until_health(place, {"mounted": "unhealthy", "absent": "unhealthy"})


async def declare(place: Place, slug: str, port: int) -> None:
    """An app whose health is looked at every second."""
    url = f"http://localhost:{port}"
    body = {"slug": slug, "url": url, "healthcheck_url": url, "healthcheck_interval": 1, "healthcheck_threshold": 1}
    made = await place.api.post(f"/api/v2/workspaceagents/{place.agent_id}/apps", json=body)
    assert made.status_code in (200, 201), made.text


async def until_health(place: Place, wanted: dict[str, str]) -> None:
    async def ask() -> bool:
        document = (await place.api.get(f"/api/v2/workspaceagents/{place.agent_id}")).json()
        return {app["slug"]: app["health"] for app in document["apps"]} == wanted

    await eventually(ask, timeout=PATIENCE)
