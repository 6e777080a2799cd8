"""Relay maps from files, URLs and plugins: read, checked, merged, kept, and told to everybody who listens."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from coder_agent_server.derp_map import LiveDerpMap
from coder_agent_server.derp_map_keeper import REMEMBERED, DerpMapKeeper, combine, without_stun
from coder_agent_server.derp_map_sources import FileSource, UrlSource, configured_sources
from coder_agent_server.derp_map_text import parse_map
from coder_agent_server.settings import ServerSettings
from coder_agent_server.testing import first_user, run_server

from coder_agent.base.derp_map import DerpMap, DerpNode, DerpRegion
from coder_agent.errors import CoderAgentError, ConfigError, TransportBroken
from coder_agent.hooks import DialOptions, hookimpl
from coder_agent.hooks.interfaces import DerpMapSource
from coder_agent.hooks.settings import Settings

pytestmark = pytest.mark.anyio

MINIMAL = """{"Regions": {"901": {"RegionID": 901, "RegionCode": "lab", "RegionName": "Lab",
  "Nodes": [{"Name": "901a", "RegionID": 901, "HostName": "relay.lab.example"}]}}}"""


def region(number: int, *, stun_only: bool = False, **node: Any) -> DerpRegion:
    return DerpRegion(
        number, f"r{number}", f"Region {number}", (DerpNode(f"{number}a", number, "h", stun_only=stun_only, **node),)
    )


def map_of(*numbers: int) -> DerpMap:
    return DerpMap({number: region(number) for number in numbers})


OWN = map_of(999)
SAME_NAME = DerpMap({2: DerpRegion(2, "r2", "Region 2", (DerpNode("999a", 2, "h"),))})


# ---------------------------------------------------------------- text


def test_the_documented_minimal_map_works() -> None:
    found = parse_map(MINIMAL, "map")
    (node,) = found.regions[901].nodes
    assert (node.host_name, node.derp_port, node.stun_port, node.stun_only) == ("relay.lab.example", 0, 0, False)


def node_of(**fields: object) -> str:
    node = {"Name": "1a", "RegionID": 1, "HostName": "h", **fields}
    return json.dumps({"Regions": {"1": {"RegionID": 1, "Nodes": [node]}}})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"Regions": {\n  "1": }}', r"map is not JSON: expecting value at line 2, column 8"),
        ("", r"not JSON: expecting value at line 1, column 1"),
        ("<html>", r"not JSON"),
        ("[1]", r"the relay map must be a JSON object"),
        ("{}", r"map has no regions"),
        ('{"Regions": {"x": {}}}', r"region 'x': the key must be a region id"),
        ('{"Regions": {"1": {"RegionID": 2, "Nodes": []}}}', r"region 1 calls itself 2"),
        (node_of(RegionID=3), r"says it belongs to region 3"),
        (node_of(HostName=""), r"has no HostName"),
        (node_of(HostName="https://relay.example"), r"is a URL; write the host alone"),
        (
            node_of(HostName="relay.example:443"),
            r"nor an IP address; the port belongs into DERPPort",
        ),
        (node_of(HostName="two words"), r"neither a DNS name nor an IP address"),
        (node_of(DERPPort=70000), r"DERPPort 70000 is not in"),
        (node_of(STUNPort="3478"), r"STUNPort must be a whole number"),
        (node_of(CertName="sha256-raw:12"), r"64 lower-case hex digits"),
        (node_of(IPv4="none", IPv6="none"), r"cannot be dialled"),
        ("[" * 100_000, r"nested too deeply"),
        (" " * (1 << 21), r"larger than"),
    ],
    ids=lambda value: value[:24] if value.startswith(("r", "m", "n")) else "-",
)
def test_a_wrong_map_is_refused_with_the_place(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        parse_map(text, "map")
    if text.startswith("<"):
        assert "web page" in str(caught.value.hint)


@pytest.mark.parametrize(
    "host", ["relay", "a.b.c", "a.b.c.", "192.0.2.1", "2001:db8::1", "under_score.example", "x" * 63]
)
def test_host_forms_that_are_right(host: str) -> None:
    assert parse_map(node_of(HostName=host), "map").regions[1].nodes[0].host_name == host


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(ConfigError, match="not UTF-8"):
        parse_map(b'{"Regions": "\xff\xfe"}', "map")


# ---------------------------------------------------------------- which sources


def test_both_options_at_once_are_refused() -> None:
    with pytest.raises(ConfigError, match="both set"):
        configured_sources(ServerSettings(derp_config_url="http://x/", derp_config_path="y"), DialOptions())
    with pytest.raises(ConfigError, match="not an http or https URL"):
        configured_sources(ServerSettings(derp_config_url="file:///x"), DialOptions())
    with pytest.raises(ConfigError, match="negative"):
        configured_sources(ServerSettings(derp_config_path="x", derp_config_refresh_seconds=-1), DialOptions())


def test_by_default_there_is_none() -> None:
    assert configured_sources(ServerSettings(), DialOptions()) == []


# ---------------------------------------------------------------- merging


def test_a_clash_of_regions_and_a_map_without_relay_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"region 999 exists twice: 'Region 999' and 'Region 999'"):
        combine(OWN, {"file": map_of(999)})
    with pytest.raises(ConfigError, match="no relay"):
        combine(DerpMap(), {"file": DerpMap({1: region(1, stun_only=True)})})
    assert sorted(combine(OWN, {"file": map_of(1, 2), "url": map_of(3)}).regions) == [1, 2, 3, 999]


def test_a_node_name_in_two_sources_is_refused() -> None:
    """Each source is good alone; netcheck and health keep what they find by node name."""
    other = DerpMap({5: DerpRegion(5, "r5", "Region 5", (DerpNode("1a", 5, "elsewhere"),))})
    said = r"node name '1a' is used twice, in region 1 and in region 5; give one another name"
    with pytest.raises(ConfigError, match=said):
        combine(OWN, {"file": map_of(1), "plugin": other})


def test_without_stun_nobody_is_asked() -> None:
    both = DerpMap({1: region(1), 2: region(2, stun_only=True)})
    quiet = without_stun(both)
    assert list(quiet.regions) == [1]
    assert quiet.regions[1].nodes[0].stun_port == -1


# ---------------------------------------------------------------- the keeper


class Scripted:
    """A source that says what a test wants."""

    def __init__(self, *answers: DerpMap | Exception, name: str = "scripted", refresh: float = 0.0) -> None:
        self.name = name
        self.refresh = refresh
        self.answers = list(answers)
        self.asked = anyio.Event()

    async def fetch(self) -> DerpMap:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.asked.set()
        self.asked = anyio.Event()
        if isinstance(answer, Exception):
            raise answer
        return answer


async def next_map(live: LiveDerpMap, wanted: Callable[[DerpMap], bool]) -> DerpMap:
    with anyio.fail_after(30):
        async for derp_map in live.follow():
            if wanted(derp_map):
                return derp_map
    raise AssertionError("the map ended")


async def test_a_reload_brings_a_new_map_and_tells_followers(tmp_path: Path) -> None:
    source = Scripted(map_of(1), map_of(1, 2))
    keeper = DerpMapKeeper(OWN, [source], tmp_path)
    live = await keeper.start()
    assert sorted(live.current.regions) == [1, 999]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keeper.run)
        keeper.reload()
        assert sorted((await next_map(live, lambda m: 2 in m.regions)).regions) == [1, 2, 999]
        tasks.cancel_scope.cancel()


async def test_it_looks_again_by_itself(tmp_path: Path) -> None:
    source = Scripted(map_of(1), map_of(2), refresh=0.01)
    keeper = DerpMapKeeper(OWN, [source], tmp_path)
    live = await keeper.start()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keeper.run)
        assert sorted((await next_map(live, lambda m: 2 in m.regions)).regions) == [2, 999]
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    "failure",
    [
        TransportBroken("down"),
        ConfigError("now it is nonsense"),
        RuntimeError("a bug"),
        DerpMap({999: region(999)}),
        SAME_NAME,
    ],
    ids=["unreachable", "nonsense", "bug", "clash", "same-name"],
)
async def test_the_last_good_map_stays_in_force(
    tmp_path: Path, failure: DerpMap | Exception, caplog: pytest.LogCaptureFixture
) -> None:
    source = Scripted(map_of(1), failure)
    keeper = DerpMapKeeper(OWN, [source], tmp_path)
    live = await keeper.start()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keeper.run)
        asked = source.asked
        keeper.reload()
        with anyio.fail_after(30):
            await asked.wait()
            while not keeper.failures:
                await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert sorted(live.current.regions) == [1, 999]
    assert "its last good map stays in force" in caplog.text


async def test_it_is_remembered_for_a_start_without_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    await DerpMapKeeper(OWN, [Scripted(map_of(1))], tmp_path).start()
    down = Scripted(TransportBroken("down"))
    assert sorted((await DerpMapKeeper(OWN, [down], tmp_path).start()).current.regions) == [1, 999]
    (tmp_path / REMEMBERED).write_text("{broken")
    assert sorted((await DerpMapKeeper(OWN, [down], tmp_path).start()).current.regions) == [999]
    assert "cannot be used" in caplog.text


async def test_a_wrong_map_stops_a_starting_server(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nonsense"):
        await DerpMapKeeper(OWN, [Scripted(ConfigError("nonsense"))], tmp_path).start()
    with pytest.raises(ConfigError, match="no relay"):
        await DerpMapKeeper(DerpMap(), [Scripted(TransportBroken("down"))], tmp_path).start()


# ---------------------------------------------------------------- file and URL


async def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        await FileSource(path, 0.0).fetch()
    path.write_text(MINIMAL)
    assert list((await FileSource(path, 0.0).fetch()).regions) == [901]


@contextmanager
def web(answers: Mapping[str, tuple[int, Mapping[str, str], bytes]]) -> Iterator[str]:
    """A web server of ours; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = answers[self.path]
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_a_url() -> None:
    answers = {
        "/map": (200, {}, MINIMAL.encode()),
        "/moved": (302, {"Location": "http://192.0.2.1/map"}, b""),
        "/gone": (404, {}, b"gone"),
        "/page": (200, {}, b"<!doctype html>"),
    }
    dial = DialOptions(proxy="")
    with web(answers) as url:
        assert list((await UrlSource(f"{url}/map", 0.0, dial).fetch()).regions) == [901]
        with pytest.raises(ConfigError, match=r"redirects to http://192\.0\.2\.1/map"):
            await UrlSource(f"{url}/moved", 0.0, dial).fetch()
        with pytest.raises(TransportBroken, match="answers 404"):
            await UrlSource(f"{url}/gone", 0.0, dial).fetch()
        with pytest.raises(ConfigError, match="not JSON"):
            await UrlSource(f"{url}/page", 0.0, dial).fetch()
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
    with pytest.raises(CoderAgentError):
        await UrlSource(f"http://127.0.0.1:{port}/map", 0.0, dial).fetch()


# ---------------------------------------------------------------- in a server


async def test_a_plugin_adds_regions_to_a_running_server(tmp_path: Path) -> None:
    source = Scripted(map_of(1), map_of(1, 2))

    class Plugin:
        @hookimpl
        def coder_derp_map_sources(self, settings: Settings) -> Sequence[DerpMapSource]:
            return [source]

    async with run_server(tmp_path, ("rack", Plugin())) as server, first_user(server.url) as alice:
        document = (await alice.get("/api/v2/workspaceagents/connection")).json()
        assert sorted(document["derp_map"]["Regions"]) == ["1", "999"]
        server.running.reload()
        await next_map(server.running.deployment.derp_map, lambda found: 2 in found.regions)
        document = (await alice.get("/api/v2/workspaceagents/connection")).json()
        assert sorted(document["derp_map"]["Regions"]) == ["1", "2", "999"]


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
async def test_sighup_reloads() -> None:
    from coder_agent.cli.serving import stop_signal

    reloaded = anyio.Event()
    async with stop_signal(reloaded.set):
        os.kill(os.getpid(), signal.SIGHUP)
        with anyio.fail_after(30):
            await reloaded.wait()


async def test_sources_warn_of_what_costs_something(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        parse_map(node_of(IPv4="not-an-address"), "map")
    assert "is no IPv4 address" in caplog.text
