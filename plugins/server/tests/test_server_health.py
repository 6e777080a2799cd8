"""The health report: its shape, who may see it, how often it is made, and every code, brought about by a fault."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trustme
from coder_agent_server.health import checks
from coder_agent_server.health.checks import (
    AccessUrlCheck,
    DatabaseCheck,
    MapSources,
    WebsocketCheck,
    WrongAccessUrl,
)
from coder_agent_server.health.monitor import HealthMonitor
from coder_agent_server.health.report import HealthReport
from coder_agent_server.metrics import DeploymentCollector
from coder_agent_server.problems import Problem
from coder_agent_server.serving import Running, open_server
from coder_agent_server.store.database import Database, open_database
from coder_agent_server.testing import Api, Server, another_user, first_user, make_options, run_server
from sqlalchemy.exc import OperationalError
from websockets.asyncio.server import ServerConnection, serve

from coder_agent.base.derp_map import DerpMap, DerpNode, DerpRegion
from coder_agent.errors import CoderAgentError, TransportBroken
from coder_agent.hooks import DialOptions, hookimpl
from coder_agent.hooks.health import HealthCheck, HealthContext, HealthFinding, HealthWarning, Severity
from coder_agent.hooks.interfaces import DerpMapSource
from coder_agent.hooks.manager import build_plugin_manager
from coder_agent.hooks.settings import Settings, load_settings

pytestmark = pytest.mark.anyio

DIRECT = DialOptions(proxy="")
BASE = {"healthy", "severity", "warnings", "dismissed"}
FIELDS: dict[str, set[str]] = {
    "derp": {"regions", "netcheck", "netcheck_logs"},
    "access_url": {"access_url", "reachable", "status_code", "healthz_response"},
    "websocket": {"body", "code"},
    "database": {"reachable", "latency", "latency_ms", "threshold_ms"},
    "workspace_proxy": {"workspace_proxies"},
    "provisioner_daemons": {"items"},
}
NODE_FIELDS = {
    "node",
    "node_info",
    "can_exchange_messages",
    "round_trip_ping",
    "round_trip_ping_ms",
    "uses_websocket",
    "client_logs",
    "client_errs",
    "stun",
}


@pytest.fixture(autouse=True)
def few_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead relay is tried five times, half a second apart; twice will do here."""
    monkeypatch.setattr("coder_agent_nat_traversal.health.NODE_TRIES", 2)


def codes(section: dict[str, Any]) -> list[str]:
    return [warning["code"] for warning in section["warnings"]]


# ---------------------------------------------------------------- servers, real and bad


class MapPlugin:
    """A source of the relay map, whose answer a test changes."""

    name = "lab"
    refresh = 0.0

    def __init__(self) -> None:
        self.answer: DerpMap | CoderAgentError = DerpMap()

    async def fetch(self) -> DerpMap:
        """What the test said."""
        if isinstance(self.answer, CoderAgentError):
            raise self.answer
        return self.answer

    @hookimpl
    def coder_derp_map_sources(self, settings: Settings) -> Sequence[DerpMapSource]:
        """The hook."""
        return [self]


@asynccontextmanager
async def whole(data_dir: Path, *regions: DerpRegion, **settings: Any) -> AsyncIterator[tuple[Running, Api]]:
    """A server with the real relay and the real checks of relays, and its owner."""
    source = MapPlugin()
    source.answer = DerpMap({region.region_id: region for region in regions})
    names = ["transport_derp", "nat_traversal"]
    host = build_plugin_manager(only=[*names, "lab"], extra=[("lab", source)])
    if any(host.record(name) is None for name in names):
        pytest.skip("the plugins that relay and check relays are not installed")
    async with open_server(make_options(data_dir, **settings), host, load_settings(host)) as running:
        url = f"http://{running.http}"  # not the access URL: a test may have broken that
        async with first_user(url) as api:
            api.timeout = 30.0
            yield running, api


async def report_of(api: Api, query: str = "?force=true") -> dict[str, Any]:
    answer = await api.get(f"/api/v2/debug/health{query}")
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def region(number: int, *nodes: DerpNode) -> DerpRegion:
    return DerpRegion(number, f"r{number}", f"Region {number}", nodes)


def relay_at(port: int, number: int = 901, name: str = "a", **more: Any) -> DerpNode:
    settings = {"stun_port": -1, "force_http": True, "derp_port": port, **more}
    return DerpNode(f"{number}{name}", number, "127.0.0.1", **settings)


async def a_dead_port() -> int:
    """Where nobody listens."""
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = int(server.sockets[0].getsockname()[1])
    server.close()
    await server.wait_closed()
    return port


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(talk: Serve, **how: Any) -> AsyncIterator[int]:
    """A TCP server of ours; yields its port. Its connections end with it."""
    writers: list[asyncio.StreamWriter] = []

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            await talk(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            writer.close()

    server = await asyncio.start_server(serve_one, "127.0.0.1", 0, **how)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()


def answering(text: str) -> Serve:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(text.encode())
        writer.close()

    return talk


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accepts, reads, says nothing."""
    while await reader.read(4096):
        pass


def untrusted_tls() -> ssl.SSLContext:
    """A certificate of an authority that nobody knows."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(tls)
    return tls


class Proxy:
    """A reverse proxy that passes all but requests which ask for one kind of upgrade."""

    def __init__(self, refused: bytes) -> None:
        self.target = 0
        self._refused = refused

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        head = await reader.readuntil(b"\r\n\r\n")
        if b"upgrade: " + self._refused in head.lower():
            writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            writer.close()
            return
        back, forth = await asyncio.open_connection("127.0.0.1", self.target)
        forth.write(head)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_pump, reader, forth)
            tasks.start_soon(_pump, back, writer)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65536):
            sink.write(data)
    except OSError:
        pass
    sink.close()


# ---------------------------------------------------------------- the document


async def test_a_healthy_deployment_in_coders_shape(tmp_path: Path) -> None:
    async with whole(tmp_path, stun_address="127.0.0.1:0", health_check_threshold_database="9s") as (running, api):
        document = await report_of(api)
        assert set(document) == {"time", "healthy", "severity", "coder_version", *FIELDS}
        for name, fields in FIELDS.items():
            assert set(document[name]) == BASE | fields, name
            assert document[name]["healthy"] is True, document[name]
            assert document[name]["warnings"] == [] or name == "access_url"
        assert codes(document["access_url"]) == ["EACS01"]  # none is configured: this one is a guess
        assert (document["healthy"], document["severity"]) == (True, "warning")
        assert document["coder_version"] == running.deployment.version
        (node,) = document["derp"]["regions"]["999"]["node_reports"]
        assert set(node) == BASE | NODE_FIELDS
        assert set(document["derp"]["regions"]["999"]) == BASE | {"region", "node_reports"}
        assert (node["can_exchange_messages"], node["uses_websocket"]) == (True, False)
        assert node["stun"] == {"Enabled": True, "CanSTUN": True, "Error": None}
        assert [lines[1] for lines in node["client_logs"]] == ["logged in", "logged in"]
        assert document["derp"]["netcheck"]["PreferredDERP"] == 999
        assert "Coder Embedded Relay (999)" in document["derp"]["netcheck_logs"][0]
        assert document["access_url"]["healthz_response"] == "OK"
        assert document["websocket"]["code"] == 101


async def test_only_owners_may_look(server: Server, alice: Api) -> None:
    async with another_user(alice, server.url, "bob") as bob, Api(server.url) as anonymous:
        for path in ("/api/v2/debug/health", "/api/v2/debug/health/settings"):
            assert (await bob.get(path)).status_code == 404
            assert (await anonymous.get(path)).status_code == 401
        assert (await bob.put("/api/v2/debug/health/settings", json={})).status_code == 404


async def test_sections_can_be_dismissed(server: Server, alice: Api) -> None:
    settings = "/api/v2/debug/health/settings"
    assert (await alice.get(settings)).json() == {"dismissed_healthchecks": []}
    wanted = {"dismissed_healthchecks": ["DERP", "AccessURL"]}
    answer = await alice.put(settings, json=wanted)
    assert (answer.status_code, answer.json()) == (200, {"dismissed_healthchecks": ["AccessURL", "DERP"]})
    assert (await alice.put(settings, json=wanted)).status_code == 304
    document = await report_of(alice)
    assert {name for name in FIELDS if document[name]["dismissed"]} == {"derp", "access_url"}
    answer = await alice.put(settings, json={"dismissed_healthchecks": ["Weather"]})
    assert answer.status_code == 400
    assert "Weather" in answer.json()["validations"][0]["detail"]


async def test_the_echo_is_not_for_strangers(server: Server, alice: Api) -> None:
    url = f"{server.url}/api/v2/debug/ws"
    found = await WebsocketCheck(server.url, "wrong", DIRECT).run()
    assert found.error is not None
    assert found.error.code == "EWS01"
    assert found.details["code"] in (0, 401)
    from websockets.asyncio.client import connect

    async with connect(
        url.replace("http", "ws"), additional_headers={"Coder-Session-Token": alice.token}, proxy=None
    ) as ws:
        for message in ("text", b"bytes"):
            await ws.send(message)
            assert await ws.recv() == message


# ---------------------------------------------------------------- one run, shared and remembered


class Counting:
    """A check that waits for its test."""

    name = "derp"

    def __init__(self) -> None:
        self.runs = 0
        self.started = anyio.Event()
        self.go = anyio.Event()

    async def run(self) -> HealthFinding:
        """One look."""
        self.runs += 1
        self.started.set()
        await self.go.wait()
        return HealthFinding()


@asynccontextmanager
async def monitoring(*found: HealthCheck, **how: Any) -> AsyncIterator[tuple[HealthMonitor, anyio.Event]]:
    monitor, stopping = HealthMonitor(**how), anyio.Event()
    monitor.checks = found
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: monitor.run(stopping, background=False))
        with anyio.fail_after(30):
            yield monitor, stopping
        tasks.cancel_scope.cancel()


async def test_requests_share_one_run_and_a_report_lives_ten_minutes() -> None:
    check, now = Counting(), [0.0]
    async with monitoring(check, clock=lambda: now[0]) as (monitor, _):
        got: list[HealthReport] = []

        async def ask(force: bool) -> None:
            got.append(await monitor.report(force=force))

        async with anyio.create_task_group() as tasks:
            for force in (True, False, True):
                tasks.start_soon(ask, force)
            await check.started.wait()
            check.go.set()
        assert (check.runs, len({id(report) for report in got})) == (1, 1)
        now[0] = 599.0
        assert await monitor.report(force=False) is got[0]
        now[0] = 600.0
        assert await monitor.report(force=False) is not got[0]
        assert check.runs == 2
        await monitor.report(force=True)
        assert check.runs == 3


async def test_who_waits_when_the_server_stops_is_told() -> None:
    check = Counting()
    async with monitoring(check) as (monitor, stopping):
        async with anyio.create_task_group() as tasks:

            async def ask() -> None:
                with pytest.raises(Problem, match="shutting down"):
                    await monitor.report(force=True)

            tasks.start_soon(ask)
            await check.started.wait()
            stopping.set()
        with pytest.raises(Problem, match="shutting down"):
            await monitor.report(force=True)


async def test_a_check_that_hangs_or_fails_is_an_error_of_its_section(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fails:
        name = "mine"

        async def run(self) -> HealthFinding:
            raise KeyError("oops")

    monkeypatch.setattr("coder_agent_server.health.monitor.SECTION_SECONDS", 0.05)
    async with monitoring(Counting(), Fails()) as (monitor, _):
        document = (await monitor.report(force=True)).document("v1", [])
    assert document["derp"]["error"] == "EUNKNOWN: The check took longer than 0.05 s."
    assert document["mine"]["error"] == "EUNKNOWN: The check itself failed: KeyError: 'oops'"
    assert (document["healthy"], document["severity"]) == (False, "error")


async def test_plugins_add_sections_and_replace_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Tank:
        def __init__(self, name: str) -> None:
            self.name = name

        async def run(self) -> HealthFinding:
            return HealthFinding(warnings=(HealthWarning("EPLANT01", "low"),), details={"litres": 3})

    class Plugin:
        @hookimpl
        def coder_health_checks(self, context: HealthContext) -> Sequence[HealthCheck]:
            assert sorted(context.derp_map().regions) == [999]
            assert (context.direct_allowed, context.force_websockets) == (True, False)
            return [Tank("water_tank"), Tank("database")]

    async with run_server(tmp_path, ("plants", Plugin())) as server, first_user(server.url) as api:
        document = await report_of(api)
    assert document["water_tank"]["litres"] == 3
    assert codes(document["water_tank"]) == ["EPLANT01"]
    assert document["database"]["reachable"] is True
    assert "the section database is the server's own" in caplog.text


async def test_prometheus_reads_the_last_report_and_causes_none(server: Server, alice: Api) -> None:
    def figures() -> dict[str, float]:
        found = [m for m in DeploymentCollector(server.running.deployment).collect() if "health_severity" in m.name]
        return {sample.labels["section"]: sample.value for metric in found for sample in metric.samples}

    assert figures() == {}
    assert server.running.deployment.health.runs == 0
    await report_of(alice)
    assert figures() == {"derp": 1.0, "access_url": 1.0, "websocket": 0.0, "database": 0.0}
    assert server.running.deployment.health.runs == 1


async def test_a_run_ends_with_the_server(tmp_path: Path) -> None:
    """The relay would be waited for longer than the server takes to stop."""
    asked = anyio.Event()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await silent(reader, writer)

    answers: list[int] = []

    async def ask(api: Api) -> None:
        answers.append((await api.get("/api/v2/debug/health?force=true")).status_code)

    with anyio.fail_after(30):
        async with (
            listening(mute) as port,
            whole(tmp_path, region(901, relay_at(port))) as (running, api),
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(ask, api)
            await asked.wait()
            running.deployment.stopping.set()  # the first thing that a stopping server does
    assert answers == [503]


# ---------------------------------------------------------------- access URL


async def test_access_url_that_leads_nowhere(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{await a_dead_port()}"
    async with whole(tmp_path, access_url=url) as (_, api):
        document = await report_of(api)
    section = document["access_url"]
    assert section["error"].startswith(f"EACS03: This server does not reach itself at its access URL {url}: ")
    assert "refuses the connection" in section["error"]
    assert (section["reachable"], section["severity"], document["severity"]) == (False, "error", "error")
    assert document["websocket"]["error"].startswith("EWS01: ")
    assert document["derp"]["severity"] == "error"  # the embedded relay is behind the same address


@pytest.mark.parametrize(
    ("head", "said"),
    [
        pytest.param("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy", "answers HTTP 503, not 200", id="503"),
        pytest.param(
            "HTTP/1.1 302 Found\r\nLocation: https://sso.example/\r\nContent-Length: 0\r\n\r\n",
            "redirects to https://sso.example/",
            id="redirect",
        ),
    ],
)
async def test_access_url_where_somebody_else_answers(head: str, said: str) -> None:
    async with listening(answering(head)) as port:
        found = await AccessUrlCheck(f"http://127.0.0.1:{port}", True, DIRECT).run()
    assert [warning.code for warning in found.warnings] == ["EACS04"]
    assert said in found.warnings[0].message
    assert (found.is_healthy, found.details["reachable"]) == (False, True)


async def test_access_url_with_a_wrong_certificate() -> None:
    async with listening(silent, ssl=untrusted_tls()) as port:
        found = await AccessUrlCheck(f"https://127.0.0.1:{port}", True, DIRECT).run()
    assert found.error is not None
    assert found.error.code == "EACS03"
    assert f"the certificate of 127.0.0.1:{port} does not verify" in found.error.message
    assert "ca_file" in found.error.message  # what to do


async def test_access_url_that_is_none() -> None:
    found = await WrongAccessUrl("ftp://x", "not an http or https URL").run()
    assert str(found.error).startswith("EACS02: The access URL 'ftp://x' is not one")


# ---------------------------------------------------------------- WebSocket


async def test_a_proxy_that_refuses_websockets(tmp_path: Path) -> None:
    proxy = Proxy(b"websocket")
    async with listening(proxy.talk) as port, whole(tmp_path, access_url=f"http://127.0.0.1:{port}") as (running, api):
        assert running.http is not None
        proxy.target = running.http.port
        document = await report_of(api)
    assert document["websocket"]["error"].startswith(f"EWS01: No WebSocket through http://127.0.0.1:{port}: ")
    assert "Upgrade and Connection" in document["websocket"]["error"]
    assert document["access_url"]["severity"] == "ok"
    assert document["derp"]["regions"]["999"]["healthy"] is True


@pytest.mark.parametrize(
    ("behaviour", "code", "said"),
    [
        pytest.param("hang", "EWS02", "did not come back", id="hangs"),
        pytest.param("close", "EWS02", "opens, but breaks", id="closes"),
        pytest.param("change", "EWS03", "changes what is sent", id="changes"),
    ],
)
async def test_websockets_that_carry_nothing(
    behaviour: str, code: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "ECHO_TIMEOUT", 0.2)

    async def talk(socket: ServerConnection) -> None:
        if behaviour == "close":
            await socket.recv()
            return
        async for _ in socket:
            if behaviour == "change":
                await socket.send(b"something else")

    async with serve(talk, "127.0.0.1", 0) as other:
        port = next(iter(other.sockets)).getsockname()[1]
        found = await WebsocketCheck(f"http://127.0.0.1:{port}", "x", DIRECT).run()
    assert found.error is not None
    assert (found.error.code, said in found.error.message) == (code, True)
    assert found.details["code"] == 101


# ---------------------------------------------------------------- database


async def test_a_slow_database(tmp_path: Path) -> None:
    ticks = iter([0.0, 0.001, 0.0, 0.5, 0.0, 0.020, 0.0, 0.016, 0.0, 0.017])
    async with open_database(tmp_path / "coder.db") as database:
        found = await DatabaseCheck(database, 0.015, lambda: next(ticks)).run()
        fine = await DatabaseCheck(database, 60.0).run()
    assert [warning.code for warning in found.warnings] == ["EDB02"]
    assert "takes 17.0 ms to answer (median of 5), which is not below 15 ms" in found.warnings[0].message
    assert (found.worst, found.is_healthy, found.details["latency"]) == (Severity.WARNING, True, "17.000ms")
    assert (fine.worst, fine.details["reachable"], fine.details["threshold_ms"]) == (Severity.OK, True, 60_000)


class BadDatabase(Database):
    """Raises, or never answers."""

    def __init__(self, hangs: bool) -> None:
        self.hangs = hangs

    def read(self) -> Any:
        """No session."""
        return self

    async def __aenter__(self) -> Any:
        if self.hangs:
            await anyio.sleep_forever()
        raise OperationalError("SELECT 1", {}, Exception("disk I/O error"))

    async def __aexit__(self, *error: object) -> None:
        """Never reached."""


@pytest.mark.parametrize(
    ("hangs", "said"),
    [
        pytest.param(False, "The database cannot be asked: disk I/O error.", id="fails"),
        pytest.param(True, "The database did not answer within 0.05 s.", id="hangs"),
    ],
)
async def test_a_database_that_does_not_answer(hangs: bool, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "PING_TIMEOUT", 0.05)
    found = await DatabaseCheck(BadDatabase(hangs), 0.015).run()
    assert found.error == HealthWarning("EDB01", said)
    assert found.details["reachable"] is False


# ---------------------------------------------------------------- relays


async def test_a_dead_relay_is_an_error_alone_and_a_warning_beside_a_living_one(tmp_path: Path) -> None:
    dead = await a_dead_port()
    async with whole(tmp_path, region(901, relay_at(dead)), region(902)) as (running, api):
        assert running.http is not None
        living = running.http.port
        document = await report_of(api)
        own = region(902, relay_at(living, 902), relay_at(dead, 902, "b"))
        current = running.deployment.derp_map.current.regions
        running.deployment.derp_map.replace(DerpMap({999: current[999], 902: own}))
        later = await report_of(api)
    alone = document["derp"]["regions"]["901"]
    assert (alone["severity"], alone["healthy"], codes(alone)) == ("error", False, ["EDERP02"])
    assert f"127.0.0.1:{dead} refuses the connection" in alone["error"]
    assert "Region Region 901 (901) does not work" in alone["warnings"][0]["message"]
    assert document["derp"]["severity"] == "error"
    assert alone["node_reports"][0]["client_errs"] != []
    both = later["derp"]["regions"]["902"]
    assert (both["severity"], both["healthy"], codes(both)) == ("warning", True, ["EDERP02"])
    assert "its node 902b does not" in both["warnings"][0]["message"]
    assert [node["healthy"] for node in both["node_reports"]] == [True, False]
    assert later["derp"]["severity"] == "warning"


async def test_relays_with_a_wrong_certificate_and_without_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coder_agent_nat_traversal.health.NODE_SECONDS", 1.0)
    async with AsyncExitStack() as stack:
        untrusted = await stack.enter_async_context(listening(silent, ssl=untrusted_tls()))
        mute = await stack.enter_async_context(listening(silent))
        regions = (region(901, relay_at(untrusted, force_http=False)), region(902, relay_at(mute, 902)))
        _, api = await stack.enter_async_context(whole(tmp_path, *regions))
        derp = (await report_of(api))["derp"]
    assert "does not verify" in derp["regions"]["901"]["error"]
    assert "127.0.0.1 takes longer than 1 s" in derp["regions"]["902"]["error"]
    assert derp["regions"]["999"]["healthy"] is True
    assert (derp["healthy"], derp["severity"]) == (False, "error")


async def test_a_relay_behind_a_proxy_that_strips_the_upgrade(tmp_path: Path) -> None:
    proxy = Proxy(b"derp")
    async with listening(proxy.talk) as port, whole(tmp_path, access_url=f"http://127.0.0.1:{port}") as (running, api):
        assert running.http is not None
        proxy.target = running.http.port
        document = await report_of(api)
    (node,) = document["derp"]["regions"]["999"]["node_reports"]
    assert (node["can_exchange_messages"], node["uses_websocket"], node["severity"]) == (True, True, "warning")
    assert "EDERP01" in codes(node)
    assert "refuses the upgrade to DERP (HTTP 400)" in node["warnings"][0]["message"]
    assert document["derp"]["severity"] == "warning"


async def test_stun_that_does_not_answer(tmp_path: Path) -> None:
    with_stun = DerpNode("903a", 903, "127.0.0.1", stun_port=9, stun_only=True)
    async with whole(tmp_path / "one", region(903, with_stun), stun_address="127.0.0.1:0") as (_, api):
        derp = (await report_of(api))["derp"]
    (node,) = derp["regions"]["903"]["node_reports"]
    assert (node["stun"]["Enabled"], node["stun"]["CanSTUN"], node["severity"]) == (True, False, "error")
    assert node["stun"]["Error"] == "no answer over UDP from 127.0.0.1:9"
    assert "ESTUN01" not in codes(derp)  # the embedded responder answers
    async with whole(tmp_path / "two") as (_, api):
        assert codes((await report_of(api))["derp"]) == ["ESTUN01"]
    async with whole(tmp_path / "three", block_direct_connections=True) as (_, api):
        assert codes((await report_of(api))["derp"]) == []  # nobody wants it


async def test_a_map_source_that_fails_and_a_server_without_checks(tmp_path: Path) -> None:
    source = MapPlugin()
    source.answer = TransportBroken("maps.example does not answer")
    async with run_server(tmp_path, ("lab", source)) as server, first_user(server.url) as api:
        derp = (await report_of(api))["derp"]
    assert codes(derp) == ["EUNKNOWN", "EUNKNOWN"]
    assert "No plugin checks relays" in derp["warnings"][0]["message"]
    assert derp["warnings"][1]["message"].endswith("maps.example does not answer")
    assert "The relay map's source lab failed" in derp["warnings"][1]["message"]
    found = await MapSources(None, {}).run()
    assert json.loads(json.dumps(dict(found.details)))["regions"] == {}


async def test_relays_that_admit_known_peers_only_are_told_about_our_checks(server: Server) -> None:
    from coder_agent.base.keys import NodePrivate

    key = NodePrivate.generate(lambda n: b"\x07" * n).public()
    deployment = server.running.deployment
    with deployment.health.vouch(key):
        assert deployment.knows_key(str(key))
    assert not deployment.knows_key(str(key))


async def test_what_is_timed_is_not_kept_waiting_by_other_checks() -> None:
    order: list[str] = []

    class Notes:
        def __init__(self, name: str) -> None:
            self.name = name

        async def run(self) -> HealthFinding:
            order.append(f"{self.name} begins")
            await anyio.lowlevel.checkpoint()
            order.append(f"{self.name} ends")
            return HealthFinding()

    async with monitoring(Notes("derp"), Notes("websocket")) as (monitor, _):
        monitor.alone = [Notes("database")]
        report = await monitor.report(force=True)
    assert order[:2] == ["database begins", "database ends"]
    assert list(report.findings) == ["derp", "websocket", "database"]
