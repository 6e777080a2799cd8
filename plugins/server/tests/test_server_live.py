"""The dashboard's memory and its feed: bounded, in the words of the CLI, and for those only who may see it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest
from coder_agent_server.live import changes, history
from coder_agent_server.live.changes import Changes
from coder_agent_server.live.day import BUCKET_SECONDS, MAX_CAUSES, Day
from coder_agent_server.live.history import MAX_ENTRIES, MAX_SESSIONS, AgentHistory, Histories, Session
from coder_agent_server.live.observatory import ClientFacts, Observatory
from coder_agent_server.routes import live as feed
from coder_agent_server.testing import Api, Server
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def peer(peer_id: str = "a", kind: str = "direct", **more: Any) -> dict[str, Any]:
    path = {"direct": "192.0.2.1:7", "relayed": "derp:1", "none": ""}[kind]
    return {"peer_id": peer_id, "kind": kind, "path": path, "active": True, "latency_ms": 2.5, **more}


# ---------------------------------------------------------------- memory


def test_path_changes_are_told_once_in_the_clis_words() -> None:
    told = AgentHistory()
    reports = [peer(kind="none"), peer(kind="relayed"), peer(kind="relayed"), peer(), peer(kind="none")]
    for minute, report in enumerate(reports):
        told.report([report], {"a": "alice"}, {1: "Frankfurt"}, NOON + timedelta(minutes=minute))
    words = [entry.text for entry in told.entries]
    assert words == ["alice: relayed via Frankfurt", "alice: direct, 192.0.2.1:7", "alice: not reachable"]


def test_bytes_become_rates_between_two_reports() -> None:
    told = AgentHistory()
    for second, count in ((0, 1000), (10, 51_000), (20, 51_000), (200, 99_000)):
        report = peer(rx_bytes=count, tx_bytes=2 * count)
        told.report([report], {}, {}, NOON + timedelta(seconds=second))
        if second == 10:
            assert told.rate_of("a") == history.Rate(5_000, 10_000)
        if second == 20:
            assert told.rate_of("a") == history.Rate()
    assert told.rate_of("a") == history.Rate()  # too long ago to say
    told.report([peer(rx_bytes=5, tx_bytes=5)], {}, {}, NOON + timedelta(seconds=205))
    assert told.rate_of("a") == history.Rate()  # the agent was restarted


def test_an_agents_history_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    told = AgentHistory()
    for number in range(2 * MAX_ENTRIES):
        told.report([peer(str(number))], {}, {}, NOON)
        told.open_session(str(number), Session("ssh", "192.0.2.1", NOON))
    assert (len(told.entries), len(told.sessions), len(told.peers)) == (MAX_ENTRIES, MAX_SESSIONS, 1)
    monkeypatch.setattr(history, "MAX_AGENTS", 3)
    agents, known = Histories(), [uuid4() for _ in range(5)]
    for agent_id in known:
        agents.of(agent_id).control.append(1.0)
    agents.of(known[2])  # heard again: others are forgotten first
    agents.of(uuid4())
    assert [bool(agents.look(agent_id).control) for agent_id in known] == [False, False, True, False, True]


def test_a_day_counts_ways_and_causes_and_forgets_yesterday() -> None:
    day = Day()
    day.add("direct", "direct_lan", 600, NOON)
    day.add("relayed", "hard_nat_both", 300, NOON + timedelta(hours=20))
    assert day.totals(NOON + timedelta(hours=20)) == {("direct", "direct_lan"): 600, ("relayed", "hard_nat_both"): 300}
    assert day.totals(NOON + timedelta(hours=30)) == {("relayed", "hard_nat_both"): 300}
    hours = day.hours(NOON + timedelta(hours=20))
    assert (hours[-1], hours[3]) == ((0, 300), (600, 0))
    for number in range(1000):
        day.add("relayed", f"made up {number}", 1, NOON + timedelta(hours=21))
    assert len(day.totals(NOON + timedelta(hours=21))) <= MAX_CAUSES + 3
    for step in range(1000):
        day.add("direct", "", 1, NOON + timedelta(seconds=step * BUCKET_SECONDS))
    assert len(day.hours(NOON)) == 24


def test_only_paths_in_use_count_and_a_silent_agent_not_for_long() -> None:
    now = [NOON]
    live = Observatory(lambda: now[0], dict)
    agent = uuid4()
    live.paths_reported(agent, [peer("a"), {**peer("b", "relayed"), "active": False}])
    now[0] += timedelta(seconds=10)
    live.paths_reported(agent, [peer("a", "relayed", verdict={"code": "udp_blocked_here"})])
    now[0] += timedelta(hours=1)
    live.agent_left(agent)
    assert live.day.totals(now[0]) == {("direct", ""): 10, ("relayed", "udp_blocked_here"): 30}


def test_clients_and_sessions_are_logged_with_who_and_why() -> None:
    live = Observatory(lambda: NOON, dict)
    agent = uuid4()
    client = ClientFacts(uuid4(), agent, uuid4(), "alice", "192.0.2.9", "coder/1", NOON)
    live.client_came(client)
    assert live.client(str(client.peer_id)) is client
    live.session_changed(agent, "1", Session("reconnecting_pty", "", NOON), opened=True, reason="")
    live.session_changed(agent, "2", Session("ssh", "fd7a::1", NOON), opened=True, reason="")
    live.session_changed(agent, "2", Session("ssh", "fd7a::1", NOON), opened=False, reason="it was killed")
    live.client_left(client)
    assert [entry.text for entry in live.history(agent).entries] == [
        "alice connected from 192.0.2.9",
        "terminal opened",
        "SSH opened from fd7a::1",
        "SSH closed from fd7a::1: it was killed",
        "alice disconnected",
    ]
    assert [session.kind for session in live.history(agent).sessions.values()] == ["reconnecting_pty"]
    assert live.clients_of(agent) == []


@pytest.mark.anyio
async def test_a_slow_visitor_costs_a_set_of_ids_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "MAX_DIRTY", 10)
    told = Changes()
    one = uuid4()
    with told.subscribe() as subscription:
        for _ in range(100):
            told.touch(one)
        await subscription.wait(60)
        assert subscription.take() == {one}
        told.touch(one, soon=False)
        with anyio.move_on_after(0.01) as scope:
            await subscription.wait(60)
        assert scope.cancelled_caught  # a mere measurement wakes nobody
        for _ in range(100):
            told.touch(uuid4())
        assert subscription.take() is None  # look at everything
        assert subscription.take() == set()
    assert len(told) == 0


# ---------------------------------------------------------------- the feed


@asynccontextmanager
async def watching(server: Server, token: str, query: str = "") -> AsyncIterator[ClientConnection]:
    url = server.url.replace("http", "ws", 1) + "/api/v2/dashboard/watch" + query
    async with connect(url, additional_headers={"Coder-Session-Token": token}) as socket:
        yield socket


async def news(socket: ClientConnection) -> dict[str, Any]:
    """The next message that is not a tick."""
    with anyio.fail_after(60):
        while (message := json.loads(await socket.recv()))["type"] == "tick":
            pass
    return message  # type: ignore[no-any-return]


async def drain(socket: ClientConnection) -> None:
    while True:
        await socket.recv()


async def add(api: Api, name: str) -> dict[str, Any]:
    reply = await api.post("/api/v2/users/me/workspaces", json={"name": name})
    assert reply.status_code == 201
    return reply.json()  # type: ignore[no-any-return]


@pytest.mark.anyio
async def test_rows_appear_and_go_for_those_who_may_see_them(server: Server, alice: Api, bob: Api) -> None:
    async with watching(server, alice.token) as hers, watching(server, bob.token) as his:
        assert ((await news(hers))["workspaces"], (await news(his))["workspaces"]) == ([], [])
        dev = await add(alice, "dev")
        (row,) = (await news(hers))["workspaces"]
        assert (row["name"], row["agents"][0]["state"]) == ("dev", "waiting")
        await add(bob, "own")
        assert [row["name"] for row in (await news(his))["workspaces"]] == ["own"]  # and never alice's
        assert [row["name"] for row in (await news(hers))["workspaces"]] == ["own"]  # an owner sees all
        await alice.delete(f"/api/v2/workspaces/{dev['id']}")
        assert (await news(hers))["gone"] == [dev["id"]]
    await gone(server)


async def gone(server: Server) -> None:
    """Visitors who left are forgotten."""
    with anyio.fail_after(30):
        while len(server.running.deployment.live.changes):  # noqa: ASYNC110 - the other end of a socket has no event
            await anyio.sleep(0.01)


@pytest.mark.anyio
async def test_one_workspace_is_told_whole_until_it_is_deleted(server: Server, alice: Api) -> None:
    dev = await add(alice, "dev")
    live = server.running.deployment.live
    async with watching(server, alice.token, f"?workspace={dev['id']}") as socket:
        first = await news(socket)
        assert (first["type"], first["workspaces"][0]["shares"]) == ("state", [])
        agent_id = first["workspaces"][0]["agents"][0]["id"]
        live.session_changed(UUID(agent_id), "1", Session("ssh", "", NOON), opened=True, reason="")
        (row,) = (await news(socket))["workspaces"]
        assert row["agents"][0]["log"][0]["text"] == "SSH opened"
        await alice.delete(f"/api/v2/workspaces/{dev['id']}")
        assert (await news(socket))["gone"] == [dev["id"]]
        with pytest.raises(ConnectionClosed):
            await socket.recv()


@pytest.mark.anyio
async def test_health_and_relay_load_are_for_owners(server: Server, alice: Api, bob: Api) -> None:
    async with watching(server, alice.token, "?network=1") as hers, watching(server, bob.token, "?network=1") as his:
        told, less = await news(hers), await news(his)
    assert told["relay"] == {"clients": 0}
    assert told["health"] == {"at": None, "sections": []}
    assert (less["relay"], less["health"], less["clients"]) == (None, None, None)
    assert [region["name"] for region in less["regions"]] == ["Coder Embedded Relay"]


@pytest.mark.anyio
@pytest.mark.parametrize("query", ["?workspace=nonsense", f"?workspace={UUID(int=7)}"])
async def test_what_is_not_there_is_not_watched(server: Server, alice: Api, query: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with watching(server, alice.token, query):
            pass
    assert refused.value.response.status_code == 404


@pytest.mark.anyio
async def test_strangers_foreign_pages_and_crowds_are_refused(
    server: Server, alice: Api, bob: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    dev = await add(alice, "dev")
    for token, query, status in (("", "", 401), (bob.token, f"?workspace={dev['id']}", 404)):
        with pytest.raises(InvalidStatus) as refused:
            async with watching(server, token, query):
                pass
        assert refused.value.response.status_code == status
    url = server.url.replace("http", "ws", 1) + "/api/v2/dashboard/watch"
    cookie = {"Cookie": f"coder_session_token={alice.token}"}
    with pytest.raises(InvalidStatus) as refused:
        await connect(url, additional_headers=cookie, origin="https://elsewhere.example")  # type: ignore[arg-type]
    assert refused.value.response.status_code == 403
    monkeypatch.setattr(feed, "MAX_VISITORS", 0)
    with pytest.raises(InvalidStatus) as refused:
        async with watching(server, alice.token):
            pass
    assert refused.value.response.status_code == 503


@pytest.mark.anyio
async def test_who_is_signed_out_is_sent_to_the_form(server: Server, bob: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "CHECK_SECONDS", 0.0)
    async with watching(server, bob.token) as socket:
        await news(socket)
        assert (await bob.post("/api/v2/users/logout")).status_code == 200
        server.running.deployment.live.workspace_changed(uuid4())
        with pytest.raises(ConnectionClosed) as closed:
            await drain(socket)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == feed.SIGNED_OUT_CODE


@pytest.mark.anyio
async def test_everything_that_can_act_for_a_user_is_listed(alice: Api, bob: Api) -> None:
    await alice.post("/api/v2/users/me/keys/tokens", json={"token_name": "ci"})
    keys = (await alice.get("/api/v2/users/me/keys")).json()
    assert [(key["login_type"], key["token_name"]) for key in keys] == [("token", "ci"), ("password", "")]
    assert (await bob.get("/api/v2/users/alice/keys")).status_code == 404
