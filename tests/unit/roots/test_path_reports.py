"""When an agent tells its server about paths: gathered, limited, and not where nobody wants to know."""

from __future__ import annotations

import anyio
import pytest

from coder_agent import path_reports
from coder_agent.base.keys import NodePublic
from coder_agent.base.paths import PathKind
from coder_agent.hooks.events import ControlChanged, PathChanged
from coder_agent.path_reports import GATHER, INTERVAL, PathReporter
from coder_agent.testing.virtual_time import VirtualLoop

pytestmark = pytest.mark.anyio
CHANGE = PathChanged(NodePublic(bytes(32)), PathKind.DIRECT, "192.0.2.1:7", "derp:1", "pong")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "asyncio", {"loop_factory": VirtualLoop}


class Server:
    """Takes reports, or does not."""

    def __init__(self, *, wants: bool = True) -> None:
        self.at: list[float] = []
        self.wants = wants

    async def report_paths(self, document: object) -> bool:
        assert document == {"peers": []}
        self.at.append(anyio.current_time())
        return self.wants


async def run(reporter: PathReporter) -> None:
    await reporter.run(None, {})  # type: ignore[arg-type]  # the document is made up


@pytest.fixture(autouse=True)
def _no_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(path_reports, "paths_document", lambda node, peers: {"peers": list(peers)})


async def test_a_flapping_path_is_reported_every_ten_seconds_and_the_last_change_is_not_lost() -> None:
    server = Server()
    reporter = PathReporter(server)  # type: ignore[arg-type]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, reporter)
        start = anyio.current_time()
        await anyio.sleep(60)
        assert server.at == []  # nothing happened
        reporter.heard(ControlChanged(True))
        await anyio.sleep(5)
        assert server.at == []  # nothing about paths
        for _ in range(350):
            reporter.heard(CHANGE)
            await anyio.sleep(0.1)
        last = anyio.current_time()
        await anyio.sleep(60)
        tasks.cancel_scope.cancel()
    assert [round(at - start - 65, 3) for at in server.at[:3]] == [GATHER, GATHER + INTERVAL, GATHER + 2 * INTERVAL]
    assert len(server.at) == 5
    assert server.at[-1] > last  # what happened after the fourth report is in the fifth


async def test_a_server_that_does_not_want_reports_is_asked_again_after_a_new_connection_only() -> None:
    server = Server(wants=False)
    reporter = PathReporter(server)  # type: ignore[arg-type]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, reporter)
        for _ in range(20):
            reporter.heard(CHANGE)
            await anyio.sleep(20)
        assert len(server.at) == 1
        reporter.linked()
        await anyio.sleep(20)
        assert len(server.at) == 2
        tasks.cancel_scope.cancel()
