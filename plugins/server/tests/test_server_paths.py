"""Path rules of deployment and workspace, and what agents report about paths."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest
from coder_agent_server import path_reports
from coder_agent_server.path_reports import ReportBoard
from coder_agent_server.testing import Api, Server, first_user, make_options, run_server

from coder_agent.agent_api import AgentApi, with_manifest
from coder_agent.base.derp_map import EMBEDDED_REGION_ID, DerpMap, DerpNode, DerpRegion, merge
from coder_agent.base.path_rules import NO_RULES, DirectRule, PathRules
from coder_agent.base.path_rules_json import rules_from_json
from coder_agent.errors import ConfigError
from coder_agent.hooks import DialOptions

pytestmark = pytest.mark.anyio
FREE = {"direct": "auto", "prefer_region": 0, "ipv6": True, "set_by": ""}
PEER = {"peer_id": str(uuid4()), "key": "nodekey:00", "kind": "relayed", "path": "derp:999", "latency_ms": 12.5}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Made:
    """A registered workspace."""

    def __init__(self, document: dict[str, Any], url: str) -> None:
        self.id = UUID(document["id"])
        self.token = document["agent_token"]
        self.agent_id = UUID(document["agent_tokens"][0]["agent_id"])
        self.api = AgentApi(url, self.token, DialOptions())

    @property
    def rules_path(self) -> str:
        return f"/api/v2/workspaces/{self.id}/path-rules"

    @property
    def paths_path(self) -> str:
        return f"/api/v2/workspaces/{self.id}/paths"


async def make(user: Api, server: Server, name: str = "dev") -> Made:
    return Made((await user.post("/api/v2/users/me/workspaces", json={"name": name})).json(), server.url)


@pytest.fixture
async def dev(alice: Api, server: Server) -> Made:
    return await make(alice, server)


class Session:
    """A control connection that only remembers why it was closed."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def close(self, reason: str) -> None:
        self.reasons.append(reason)


def connect(server: Server, made: Made) -> Session:
    session = Session()
    server.running.deployment.presence.begin(made.agent_id, session)
    return session


# ---------------------------------------------------------------- rules


def test_the_deployments_rules_come_from_its_settings(tmp_path: Path) -> None:
    assert make_options(tmp_path).rules == NO_RULES
    found = make_options(tmp_path, block_direct_connections=True, derp_prefer_region=5, block_ipv6=True)
    assert found.rules == PathRules(DirectRule.NEVER, 5, False, "the deployment")
    assert make_options(tmp_path, require_direct_connections=True).rules.direct is DirectRule.ONLY


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"block_direct_connections": True, "require_direct_connections": True}, "exclude each other"),
        ({"derp_prefer_region": 65536}, "derp_prefer_region"),
        ({"derp_prefer_region": -1}, "derp_prefer_region"),
    ],
    ids=["both", "too-large", "negative"],
)
def test_rules_that_cannot_be_are_refused_at_the_start(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_options(tmp_path, **settings)


async def test_a_workspace_has_no_rules_until_it_gets_some(alice: Api, server: Server, dev: Made) -> None:
    assert (await alice.get(dev.rules_path)).json() == {"workspace": FREE, "deployment": FREE, "effective": FREE}
    answer = await alice.put(dev.rules_path, json={"direct": "never", "prefer_region": EMBEDDED_REGION_ID})
    by = "the deployment's rule for alice/dev"
    rules = {"direct": "never", "prefer_region": EMBEDDED_REGION_ID, "ipv6": True, "set_by": by}
    assert answer.json() == {"workspace": rules, "deployment": FREE, "effective": rules}
    assert (await alice.get(dev.rules_path)).json() == answer.json()
    info = (await alice.get(f"/api/v2/workspaceagents/{dev.agent_id}/connection")).json()
    assert info["disable_direct_connections"] is True
    assert info["path_rules"] == rules
    assert (await alice.get("/api/v2/workspaceagents/connection")).json()["path_rules"] == FREE
    assert await dev.api.path_rules() == rules_from_json(rules)
    assert (await alice.put(dev.rules_path, json={})).json()["effective"] == FREE


async def test_a_change_makes_the_agent_ask_and_no_change_does_not(alice: Api, server: Server, dev: Made) -> None:
    session = connect(server, dev)
    await alice.put(dev.rules_path, json={"direct": "auto"})
    assert session.reasons == []
    for _ in range(2):
        await alice.put(dev.rules_path, json={"ipv6": False})
    assert session.reasons == ["the path rules of this workspace changed"]


@pytest.mark.parametrize(
    "body",
    [{"direct": "maybe"}, {"prefer_region": -1}, {"prefer_region": 70000}, {"ipv6": "?"}, {"set_by": "me"}, []],
    ids=repr,
)
async def test_nonsense_for_rules_is_refused(alice: Api, dev: Made, body: Any) -> None:
    assert (await alice.put(dev.rules_path, json=body)).status_code == 400
    assert (await alice.get(dev.rules_path)).json()["workspace"] == FREE


async def test_strangers_and_the_signed_out_learn_nothing(bob: Api, server: Server, dev: Made) -> None:
    unknown = await bob.get(f"/api/v2/workspaces/{uuid4()}/paths")
    for path in (dev.rules_path, dev.paths_path):
        refused = await bob.get(path)
        assert (refused.status_code, refused.json()) == (404, unknown.json())
    assert (await bob.put(dev.rules_path, json={"direct": "never"})).status_code == 404
    async with Api(server.url) as nobody:
        for path in (dev.rules_path, dev.paths_path, "/api/v2/workspaceagents/me/path-rules"):
            assert (await nobody.get(path)).status_code == 401
        assert (await nobody.post("/api/v2/workspaceagents/me/paths", json={})).status_code == 401


@pytest.fixture
async def blocked(tmp_path: Path) -> AsyncIterator[tuple[Server, Api]]:
    async with (
        run_server(tmp_path / "blocked", block_direct_connections=True) as server,
        first_user(server.url) as alice,
    ):
        yield server, alice


async def test_the_deployments_rule_stands_above_the_workspaces(blocked: tuple[Server, Api]) -> None:
    server, alice = blocked
    dev = await make(alice, server)
    refused = await alice.put(dev.rules_path, json={"direct": "only"})
    assert refused.status_code == 409
    assert refused.json()["message"] == "These rules cannot hold: the deployment blocks direct connections."
    wishes = {"ipv6": False, "prefer_region": EMBEDDED_REGION_ID}
    effective = (await alice.put(dev.rules_path, json=wishes)).json()["effective"]
    assert effective == {"direct": "never", "set_by": "the deployment", **wishes}


async def test_a_region_that_cannot_relay_is_refused_but_one_that_left_the_map_may_stay(
    alice: Api, server: Server, dev: Made
) -> None:
    refused = await alice.put(dev.rules_path, json={"prefer_region": 7})
    assert refused.status_code == 400
    known = f"there is {EMBEDDED_REGION_ID} (Coder Embedded Relay)."
    assert refused.json()["message"] == f"Relay region 7 is not in the relay map; {known}"
    live = server.running.deployment.derp_map
    node = DerpNode("7a", 7, "stun.example", stun_only=True)
    before = live.current
    live.replace(merge(before, DerpMap({7: DerpRegion(7, "s", "STUN", (node,))})))
    refused = await alice.put(dev.rules_path, json={"prefer_region": 7})
    assert refused.json()["message"] == f"Relay region 7 has no relay; {known}"
    live.replace(merge(before, DerpMap({7: DerpRegion(7, "r", "R", (replace(node, stun_only=False),))})))
    assert (await alice.put(dev.rules_path, json={"prefer_region": 7})).status_code == 200
    live.replace(before)
    assert (await alice.put(dev.rules_path, json={"prefer_region": 7, "ipv6": False})).status_code == 200
    assert (await alice.get(dev.rules_path)).json()["workspace"]["prefer_region"] == 7


# ---------------------------------------------------------------- reports


async def test_what_an_agent_reports_is_shown_to_who_may_see_its_workspace(
    alice: Api, server: Server, dev: Made
) -> None:
    empty = (await alice.get(dev.paths_path)).json()
    agent = {"agent_id": str(dev.agent_id), "agent_name": "main", "connected": False, "reported_at": None, "peers": []}
    assert empty == {"agents": [agent]}
    connect(server, dev)
    assert await dev.api.report_paths({"peers": [{**PEER, "verdict": {"code": "symmetric_both"}}]})
    shown = (await alice.get(dev.paths_path)).json()["agents"][0]
    assert shown["connected"] is True
    assert datetime.fromisoformat(shown["reported_at"]).tzinfo is UTC
    assert shown["peers"] == [{**PEER, "wire_mtu": None, "active": False, "verdict": {"code": "symmetric_both"}}]
    assert await dev.api.report_paths({"peers": []})
    assert (await alice.get(dev.paths_path)).json()["agents"][0]["peers"] == []


async def test_reports_go_with_their_agent(alice: Api, server: Server, dev: Made) -> None:
    board = server.running.deployment.paths
    connect(server, dev)
    await dev.api.report_paths({"peers": [PEER]})
    assert len(board) == 1
    await alice.delete(f"/api/v2/workspaces/{dev.id}")
    assert len(board) == 0


@pytest.mark.parametrize(
    "body",
    [
        {"peers": [PEER] * 65},
        {"peers": [{**PEER, "kind": "magic"}]},
        {"peers": [{**PEER, "peer_id": "x"}]},
        {"peers": [{**PEER, "key": "k" * 129}]},
        {"peers": [{**PEER, "latency_ms": -1}]},
        {"peers": [{**PEER, "loss": 1.5}]},
        {"peers": "all"},
    ],
    ids=["too-many", "kind", "peer", "key", "latency", "loss", "type"],
)
async def test_nonsense_in_a_report_is_refused(alice: Api, server: Server, dev: Made, body: Any) -> None:
    connect(server, dev)
    async with Api(server.url, dev.token) as agent:
        assert (await agent.post("/api/v2/workspaceagents/me/paths", json=body)).status_code == 400
    assert (await alice.get(dev.paths_path)).json()["agents"][0]["peers"] == []


async def test_an_agent_that_reports_without_end_is_slowed_down(server: Server, dev: Made) -> None:
    connect(server, dev)
    async with Api(server.url, dev.token) as agent:
        codes = [(await agent.post("/api/v2/workspaceagents/me/paths", json={})).status_code for _ in range(31)]
    assert codes == [204] * 30 + [429]


def test_all_reports_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(path_reports, "MAX_CHARACTERS", 1000)
    board, now = ReportBoard(), datetime.now(UTC)
    first, second, third = uuid4(), uuid4(), uuid4()
    for agent_id in (first, second, first, third):
        board.put(agent_id, [{"path": "x" * 400}], now)
    assert board.newest(second) is None  # silent for longest
    assert board.newest(first)
    assert board.newest(third)


# ---------------------------------------------------------------- the agent's side of it


async def test_a_server_without_rules_and_reports_is_taken_as_it_is(server: Server) -> None:
    api = AgentApi(f"{server.url}/somewhere-else", str(uuid4()), DialOptions())
    with anyio.fail_after(30):
        assert await api.path_rules() == NO_RULES
        assert await api.report_paths({"peers": []}) is False


async def test_an_agent_whose_server_cannot_be_asked_keeps_what_it_knew() -> None:
    api = AgentApi("http://127.0.0.1:9", str(uuid4()), DialOptions())
    assert await api.path_rules() is None
    assert await api.report_paths({"peers": []}) is True


def test_a_manifest_that_forbids_direct_paths_is_believed_before_the_rules_are_known() -> None:
    assert with_manifest(NO_RULES, True) == PathRules(DirectRule.NEVER, set_by="the deployment")
    by = PathRules(set_by="the deployment's rule for a/b")
    assert with_manifest(by, True).set_by == by.set_by
    assert with_manifest(by, False) == by
