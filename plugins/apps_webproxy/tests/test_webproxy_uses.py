"""What the server is told of each request: marks for figures and access log, and who used which app for how long."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import anyio
import anyio.abc
import pytest
from coder_agent_apps_webproxy import uses
from coder_agent_apps_webproxy.proxy import DRAIN_STEP
from coder_agent_apps_webproxy.uses import IDLE_SECONDS, MAX_USES, Use, Uses

from coder_agent.hooks.events import WorkspaceConnection

pytestmark = pytest.mark.anyio


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Log:
    """Uses on a clock of the test's own, and what they told."""

    clock: Clock
    told: list[WorkspaceConnection]
    uses: Uses
    agent_id: UUID

    def begin(self, app: str = "8080", *, client: str = "192.0.2.7", user: UUID | None = None) -> Use:
        slug, port = (app, 0) if not app.isdigit() else ("", int(app))
        request: Any = SimpleNamespace(named={b"user-agent": b"curl/8"})
        visit: Any = SimpleNamespace(
            request=request, client=client, address=SimpleNamespace(app=app, slug=slug, port=port)
        )
        ticket: Any = SimpleNamespace(agent_id=self.agent_id, agent="main", workspace_id=uuid4(), user_id=user)
        return self.uses.begin(visit, ticket)


@pytest.fixture
def log() -> Log:
    clock, told = Clock(), []  # type: ignore[var-annotated]
    return Log(clock, told, Uses(told.append, clock), uuid4())


def test_requests_of_one_visitor_are_one_use_until_he_is_silent(log: Log) -> None:
    first, second = log.begin(), log.begin()
    assert first is second
    log.uses.end(first, 100, 2000, 200)
    log.uses.end(second, 50, 1000, 304)
    log.clock.now += IDLE_SECONDS
    log.uses.sweep()
    assert [event.opened for event in log.told] == [True]
    log.clock.now += 1
    log.uses.sweep()
    opening, closing = log.told
    assert (opening.kind, opening.target, opening.ip) == ("port_forwarding", "8080", "192.0.2.7")
    assert opening.user_agent == "curl/8"
    assert closing == replace(opening, opened=False, status=304, rx_bytes=150, tx_bytes=3000)
    log.begin("web")
    assert (log.told[-1].kind, log.told[-1].target, log.told[-1].opened) == ("workspace_app", "web", True)
    assert log.told[-1].id != opening.id


def test_who_is_another_visitor(log: Log) -> None:
    user = uuid4()
    found = [log.begin(), log.begin("9090"), log.begin(client="192.0.2.8"), log.begin(user=user)]
    assert len({id(use) for use in found}) == 4
    assert log.told[-1].user_id == user


def test_what_is_open_keeps_the_use_and_the_stop_of_the_server_ends_it(log: Log) -> None:
    log.begin()
    log.clock.now += 10 * IDLE_SECONDS
    log.uses.sweep()
    assert len(log.uses) == 1
    log.uses.close()
    assert [event.opened for event in log.told] == [True, False]
    assert log.told[1].status is None


def test_uses_are_bounded_and_those_that_are_over_go_first(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_USES == 4096
    monkeypatch.setattr(uses, "MAX_USES", 2)
    log.begin("8001")
    log.uses.end(log.begin("8002"), 0, 0, 200)
    log.clock.now += 1
    log.begin("8003")
    assert [event.target for event in log.told if not event.opened] == ["8002"]
    late = log.begin("8004")
    assert len(log.uses) == 2
    log.uses.end(late, 1, 1, 200)  # an ended use may still be counted on, to no effect


async def test_every_answer_has_an_id_and_an_end(
    opened: Callable[..., AbstractAsyncContextManager[Any]], server: Any
) -> None:
    """An app's answers, our own notice, and one for what cannot be read."""
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as app, anyio.create_task_group() as tasks:
        tasks.start_soon(app.serve, speaking_for_the_server)
        port = app.extra(anyio.abc.SocketAttribute.local_port)
        ask = f"GET /@alice/dev/ports/{port}/x HTTP/1.1\r\nHost: coder.test\r\n{ALICE}\r\n"
        none = f"GET /@alice/dev/apps/none/ HTTP/1.1\r\nHost: coder.test\r\n{ALICE}\r\n"
        bad = "GET /@alice/dev/apps/none HTTP/1.1\r\nHost: coder.test\r\nBad Header: 1\r\n\r\n"
        async with opened() as place:
            reply = await place.raw(f"{ask}{ask}{none}{bad}".encode())
        tasks.cancel_scope.cancel()
    parts = reply.split(b"X-Coder-Request-Id: door-")
    assert [part[:1] for part in parts[1:]] == [b"1", b"2", b"3", b"4"]
    assert [int(part) for part in re.findall(rb"HTTP/1.1 (\d+)", reply)] == [200, 200, 404, 400]
    assert b"theirs" not in reply  # an app does not speak for the server
    assert [event.opened for event in server.events] == [True, False]
    closing = server.events[1]
    assert (closing.target, closing.status, closing.rx_bytes) == (str(port), 200, 2 * len(ask))
    assert closing.tx_bytes == reply.index(b"HTTP/1.1 404")


ALICE = f"Coder-Session-Token: {'alice':0<10}-{'alice':x<22}\r\n"


async def speaking_for_the_server(stream: anyio.abc.ByteStream) -> None:
    """An app with headers that are not its to say."""
    buffered = b""
    async with stream:
        while True:
            while b"\r\n\r\n" not in buffered:
                try:
                    buffered += await stream.receive()
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    return
            buffered = buffered.partition(b"\r\n\r\n")[2]
            await stream.send(
                b"HTTP/1.1 200 OK\r\nX-Coder-Request-Id: theirs\r\nStrict-Transport-Security: theirs\r\n"
                b"Content-Length: 2\r\n\r\nok"
            )


async def test_an_answer_in_progress_is_finished_when_the_server_stops(
    opened: Callable[..., AbstractAsyncContextManager[Any]],
) -> None:
    begun, stopping = anyio.Event(), anyio.Event()
    replies: list[bytes] = []

    async def slow(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")
            begun.set()
            await stopping.wait()
            await anyio.sleep(2 * DRAIN_STEP)  # it stops while this one is still busy
            await stream.send(b"half")

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as app, anyio.create_task_group() as tasks:
        tasks.start_soon(app.serve, slow)
        port = app.extra(anyio.abc.SocketAttribute.local_port)
        ask = f"GET /@alice/dev/ports/{port}/x HTTP/1.1\r\nHost: coder.test\r\nConnection: close\r\n{ALICE}\r\n"

        async def visit(place: Any) -> None:
            replies.append(await place.raw(ask.encode()))
            tasks.cancel_scope.cancel()

        async with opened() as place:
            tasks.start_soon(visit, place)
            await begun.wait()
            stopping.set()
    assert replies[0].endswith(b"halfhalf")
