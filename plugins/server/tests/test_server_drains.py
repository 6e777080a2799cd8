"""A server that stops finishes what is in progress, and takes nothing new."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anyio
import httpx2
import pytest
from coder_agent_server.testing import run_server
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from coder_agent.hooks import hookimpl
from coder_agent.hooks.interfaces import ServerContext

pytestmark = pytest.mark.anyio


class Slow:
    """A route whose answer waits for the server's going away."""

    def __init__(self) -> None:
        self.begun = anyio.Event()

    @hookimpl
    def coder_server_routes(self, context: ServerContext) -> Sequence[object]:
        async def slow(request: Request) -> Response:
            self.begun.set()
            await context.stopping.wait()
            return PlainTextResponse("finished")

        return [Route("/slow", slow)]


async def test_a_request_in_progress_is_answered(tmp_path: Path) -> None:
    plugin = Slow()
    answers: list[str] = []

    async def ask(url: str) -> None:
        async with httpx2.AsyncClient() as client:
            answers.append((await client.get(f"{url}/slow")).text)

    with anyio.fail_after(90):
        async with anyio.create_task_group() as tasks:
            async with run_server(tmp_path, ("slow", plugin)) as server:
                tasks.start_soon(ask, server.url)
                await plugin.begun.wait()
            with pytest.raises(httpx2.ConnectError):
                await ask(server.url)
    assert answers == ["finished"]
