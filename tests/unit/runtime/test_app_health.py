"""App health checks of an agent: what counts as healthy, what is asked, what is told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID, uuid4

import anyio
import anyio.abc
import pytest

from coder_agent.mounting import listen
from coder_agent.protocols.tailnet.proto import agent_pb2 as pb
from coder_agent.rpc import RpcConnection, RpcError
from coder_agent.runtime.app_health import AppCheck, AppHealth, AppHealthReporter, HealthBook, checks_of, looker
from coder_agent.runtime.mounts import Mounts

pytestmark = pytest.mark.anyio
APP = UUID(int=1)


def check(url: str = "http://localhost:1/", threshold: int = 2) -> AppCheck:
    return AppCheck(APP, "app", url, 5.0, threshold)


def test_one_good_look_is_enough_and_threshold_bad_ones_are_not() -> None:
    book, app = HealthBook(), check(threshold=2)
    book.expect([app])
    assert book.all() == {APP: AppHealth.INITIALIZING}
    assert [book.seen(app, good) for good in (False, False, True)] == [False, False, True]
    assert book.all() == {APP: AppHealth.HEALTHY}
    assert [book.seen(app, False) for _ in range(4)] == [False, False, True, False]
    assert book.all() == {APP: AppHealth.UNHEALTHY}
    assert book.seen(app, True)
    assert [book.seen(app, good) for good in (False, False, True, True)] == [False] * 4


def test_what_is_known_survives_another_manifest_and_others_are_forgotten() -> None:
    book, app = HealthBook(), check()
    book.expect([app])
    book.seen(app, True)
    other = AppCheck(UUID(int=2), "other", "http://localhost:2/", 5.0, 1)
    book.expect([app, other])
    assert book.all() == {APP: AppHealth.HEALTHY, other.id: AppHealth.INITIALIZING}
    book.expect([other])
    assert book.all() == {other.id: AppHealth.INITIALIZING}
    assert not book.seen(app, True)


def test_manifest_apps_without_a_check_are_left_alone_and_intervals_are_bounded() -> None:
    def app(number: int, url: str, seconds: int, health: pb.WorkspaceApp.Health.ValueType) -> pb.WorkspaceApp:
        made = pb.WorkspaceApp(id=UUID(int=number).bytes, slug=str(number), health=health)
        made.healthcheck.CopyFrom(pb.WorkspaceApp.Healthcheck(url=url, threshold=3))
        made.healthcheck.interval.FromSeconds(seconds)
        return made

    initializing, disabled = pb.WorkspaceApp.INITIALIZING, pb.WorkspaceApp.DISABLED
    apps = [app(1, "http://a/", 5, initializing), app(2, "", 5, initializing), app(3, "http://b/", 5, disabled)]
    apps += [app(4, "http://c/", 0, initializing), app(5, "http://d/", 10**9, pb.WorkspaceApp.HEALTHY)]
    found = checks_of(apps)
    assert [(one.slug, one.interval, one.threshold) for one in found] == [
        ("1", 5.0, 3),
        ("4", 1.0, 3),
        ("5", 3600.0, 3),
    ]


# ---------------------------------------------------------------- looking


@asynccontextmanager
async def answering(answer: bytes, host: str = "127.0.0.1") -> AsyncIterator[tuple[int, list[bytes]]]:
    """A program that reads something, says `answer` and keeps the connection open."""
    heard: list[bytes] = []

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            heard.append(await stream.receive())
            if not answer:
                return
            await stream.send(answer)
            await anyio.sleep_forever()

    async with await anyio.create_tcp_listener(local_host=host) as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield listener.extra(anyio.abc.SocketAttribute.local_port), heard
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("answer", "good"),
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n", True, id="a body that never ends"),
        pytest.param(b"HTTP/1.1 404 Not Found\r\n\r\n", True, id="below 500"),
        pytest.param(b"HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n", True, id="redirect"),
        pytest.param(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", True, id="hints first"),
        pytest.param(b"HTTP/1.1 500 No\r\n\r\n", False, id="500"),
        pytest.param(b"HTTP/1.1 503 No\r\n\r\n", False, id="503"),
        pytest.param(b"SSH-2.0-OpenSSH_9\r\n\r\n", False, id="another protocol"),
        pytest.param(b"", False, id="closed without an answer"),
    ],
)
async def test_a_look(answer: bytes, good: bool) -> None:
    async with answering(answer) as (port, heard):
        assert await looker()(check(f"http://localhost:{port}/health?x=1")) is good
    assert heard[0].startswith(b"GET /health?x=1 HTTP/1.1\r\n")


async def test_a_look_at_nobody_at_ipv6_and_at_nonsense(tmp_path: Path, unused_port: Callable[[], int]) -> None:
    look = looker(mounts=Mounts(tmp_path))
    assert not await look(check(f"http://localhost:{unused_port()}/"))
    assert not await look(check("gopher://localhost/"))
    async with answering(b"HTTP/1.1 200 OK\r\n\r\n", "::1") as (port, _):
        assert await look(check(f"http://localhost:{port}/"))


async def test_a_look_at_a_mounted_port(tmp_path: Path) -> None:
    async def serve(stream: anyio.abc.ByteStream) -> None:
        await stream.receive()
        await stream.send(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with listen(8123, serve, folder=tmp_path):
        assert await looker(mounts=Mounts(tmp_path))(check("http://localhost:8123/"))


@pytest.fixture
async def unused_port() -> Callable[[], int]:
    """A port that was free a moment ago: nobody else is told of it."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port: int = listener.extra(anyio.abc.SocketAttribute.local_port)
    await listener.aclose()
    return lambda: port


# ---------------------------------------------------------------- telling


class Server:
    """The far end of a control connection: notes reports; `error` is what it answers instead."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.reports: list[dict[UUID, int]] = []
        self.told = anyio.Event()

    async def unary(
        self, path: str, request: pb.BatchUpdateAppHealthRequest, answer: type, *, timeout: float
    ) -> object:
        assert path == "/coder.agent.v2.Agent/BatchUpdateAppHealths"
        self.reports.append({UUID(bytes=one.id): int(one.health) for one in request.updates})
        self.told.set()
        if self.error is not None:
            raise self.error
        return answer()


async def run_until_told(reporter: AppHealthReporter, server: Server, checks: tuple[AppCheck, ...]) -> None:
    connection: RpcConnection = server  # type: ignore[assignment]  # the one method that is used
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reporter.run, connection, checks)
            await server.told.wait()
            tasks.cancel_scope.cancel()


async def test_changes_are_told_with_everything_that_is_known() -> None:
    healthy, silent = check(), AppCheck(uuid4(), "silent", "http://localhost:2/", 60.0, 5)

    async def look(one: AppCheck) -> bool:
        return one is healthy

    server = Server()
    await run_until_told(AppHealthReporter(look), server, (healthy, silent))
    assert server.reports == [{APP: 3, silent.id: 2}]


async def test_a_server_that_does_not_know_the_call_is_not_asked_again() -> None:
    async def look(one: AppCheck) -> bool:
        return True

    server = Server(RpcError("unknown rpc", code=12))
    await run_until_told(AppHealthReporter(look), server, (check(),))
    assert len(server.reports) == 1


async def test_a_failing_call_ends_the_connection() -> None:
    async def look(one: AppCheck) -> bool:
        return True

    server = Server(RpcError("broken"))
    connection: RpcConnection = server  # type: ignore[assignment]  # the one method that is used
    with pytest.raises(RpcError, match="broken"), anyio.fail_after(30):
        await AppHealthReporter(look).run(connection, (check(),))
