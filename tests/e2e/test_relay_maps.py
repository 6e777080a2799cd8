"""Relay maps beside the server's own: a file that changes under a transfer, a URL whose server dies."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from coder_agent.testing.deployment import Deployment, until
from coder_agent.testing.exchange import serve_directory
from coder_agent.testing.processes import Program

pytestmark = [pytest.mark.slow]
PROGRAMS = Path(__file__).parent / "programs"
EMBEDDED = 999
SIZE, PACE = 60_000_000, 10_000_000
"""The transfer lasts 6 s, whatever the machine."""


def start_relay(place: Deployment) -> tuple[Program, int, int]:
    """A `coder derp` without TLS; its ports: relay and STUN."""
    anywhere = "127.0.0.1:0"
    command = ("coder", "derp", "--address", anywhere, "--stun-address", anywhere, "--drain-seconds", "0")
    relay = place.start(place.server, *command)
    port = int(relay.wait_for(r"Relaying at http://127\.0\.0\.1:(\d+)/derp")[1])
    return relay, port, int(relay.wait_for(r"STUN responder at udp port (\d+)")[1])


def region(number: int, port: int, stun: int, **more: Any) -> dict[str, Any]:
    """As it stands in a map."""
    node = {"Name": f"{number}a", "RegionID": number, "HostName": "127.0.0.1", "IPv6": "none", **more}
    node |= {"STUNPort": stun} if more.get("STUNOnly") else {"DERPPort": port, "STUNPort": stun, "ForceHTTP": True}
    return {"RegionID": number, "RegionCode": f"r{number}", "RegionName": f"Region {number}", "Nodes": [node]}


def write_map(path: Path, *regions: dict[str, Any]) -> None:
    path.write_text(json.dumps({"Regions": {str(one["RegionID"]): one for one in regions}}))


def known(place: Deployment) -> list[int]:
    """The regions that a command which starts now is told."""
    report = place.user.coder("netcheck", "-o", "json", timeout=90).json()["derp"]
    return sorted(int(number) for number in report["regions"])


def test_a_file_changes_under_a_transfer_and_nobody_drops(tmp_path: Path) -> None:
    with Deployment(tmp_path) as place:
        file = tmp_path / "derpmap.json"
        relay, port, stun = start_relay(place)
        write_map(file, region(901, port, stun, STUNOnly=True))
        server = place.start_server("--derp-config-path", str(file))
        place.sign_in()
        dev = place.create("dev")
        agent = place.start_agent(dev)
        agent.wait_for(r"relay map: regions 901, 999$")
        bytes_port = place.start(place.workspace, sys.executable, str(PROGRAMS / "bytes_server.py")).event("listening")
        follower = (str(PROGRAMS / "map_follower.py"), dev.name, str(bytes_port["port"]), str(SIZE), str(PACE))
        user = place.start(place.user, sys.executable, *follower)
        assert user.event("open")["kind"] == "relayed"
        assert user.event("map")["regions"] == [901, EMBEDDED]
        user.event("progress")

        def replaced(*numbers: int) -> None:
            write_map(file, *(region(number, port, stun) for number in numbers))
            server.process.send_signal(signal.SIGHUP)
            expected = [*numbers, EMBEDDED]
            until("the user's map", lambda: user.events("map")[-1]["regions"] == expected)
            agent.wait_for(rf"relay map: regions {', '.join(map(str, expected))}$")

        replaced(901, 902)
        replaced(902)
        file.write_text('{"Regions": {')
        server.process.send_signal(signal.SIGHUP)
        server.wait_for(r"is not JSON: .* line 1.*last good map stays in force")
        assert not user.events("done"), "the transfer was over before the map had changed"
        assert user.event("done", 60)["equal"] is True
        assert user.wait() == 0
        assert agent.output.count("relay map: regions") == 3
        assert known(place) == [902, EMBEDDED]
        assert "Traceback" not in relay.stop() + server.output + agent.output


def test_a_map_outlives_the_server_that_it_came_from(tmp_path: Path) -> None:
    with Deployment(tmp_path) as place:
        _, port, stun = start_relay(place)
        folder = tmp_path / "http"
        folder.mkdir()
        write_map(folder / "map.json", region(901, port, stun))
        with serve_directory(folder) as http:
            server = place.start_server("--derp-config-url", f"http://127.0.0.1:{http}/map.json")
            place.sign_in()
            assert known(place) == [901, EMBEDDED]
        server.process.send_signal(signal.SIGHUP)
        server.wait_for(r"relay map: .*its last good map stays in force")
        assert known(place) == [901, EMBEDDED]
        server.stop()
        again = place.start_server()
        again.wait_for(r"relay map: ")
        assert known(place) == [901, EMBEDDED]
