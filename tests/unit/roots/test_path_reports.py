"""When an agent tells its server about paths: gathered, limited, and not where nobody wants to know."""

from __future__ import annotations

import anyio
import pytest

from coder_agent import path_reports
from coder_agent.base.addresses import AddrPort
from coder_agent.base.keys import NodePublic
from coder_agent.base.nat_facts import NatFacts
from coder_agent.base.paths import PathKind
from coder_agent.hooks.events import ControlChanged, PathChanged
from coder_agent.path_reports import GATHER, INTERVAL, PathReporter, nat_kind
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
        self.peers: list[dict[str, object]] = []

    async def report_paths(self, document: object) -> bool:
        assert document == {"peers": self.peers}
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


async def test_while_a_path_is_in_use_the_report_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    server.peers = [{"active": True}]
    monkeypatch.setattr(path_reports, "paths_document", lambda node, peers: {"peers": server.peers})
    reporter = PathReporter(server)  # type: ignore[arg-type]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, reporter)
        reporter.heard(CHANGE)
        await anyio.sleep(35)
        assert len(server.at) == 4
        server.peers = [{"active": False}]
        await anyio.sleep(100)
        assert len(server.at) == 5  # that it is not in use any more
        tasks.cancel_scope.cancel()


def at(text: str) -> AddrPort:
    return AddrPort.parse(text)


@pytest.mark.parametrize(
    ("facts", "endpoints", "kind"),
    [
        (NatFacts(), (), None),
        (NatFacts(udp=False), ("10.0.0.2:7",), "blocked"),
        (NatFacts(udp=True, mapping_varies=True), ("10.0.0.2:7", "192.0.2.1:7"), "hard"),
        (NatFacts(udp=True, mapping_varies=False, public_v4=at("192.0.2.1:7")), ("192.0.2.1:7",), "none"),
        (NatFacts(udp=True, mapping_varies=False, public_v4=at("192.0.2.1:9")), ("10.0.0.2:7", "192.0.2.1:9"), "easy"),
    ],
    ids=["unknown", "no udp", "symmetric", "no nat", "friendly"],
)
def test_the_nat_in_a_word(facts: NatFacts, endpoints: tuple[str, ...], kind: str | None) -> None:
    assert nat_kind(facts, [at(one) for one in endpoints]) == kind
