"""`coder health` as owners run it: a real server, a relay of its own in its map, which dies."""

from __future__ import annotations

import json
import socket
from pathlib import Path

from coder_agent.testing.deployment import Deployment, kill
from coder_agent.testing.processes import Program


def free_port() -> int:
    """A TCP port that nobody has at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as busy:
        return int(busy.getsockname()[1])


def relay(place: Deployment, folder: Path) -> tuple[Program, int]:
    """`coder derp`, which lets in only whom our server knows."""
    folder.mkdir()
    at = free_port()
    program = place.start(
        place.server,
        "coder",
        "derp",
        *("--address", f"127.0.0.1:{at}"),
        *("--stun-address", "disable"),
        *("--key-file", str(folder / "key")),
        *("--coder-url", place.url),
        *("--drain-seconds", "0"),
    )
    program.wait_for(r"Relaying at http://\S+/derp")
    return program, at


def test_health_with_a_second_relay_that_dies(tmp_path: Path) -> None:
    with Deployment(tmp_path) as place:
        place.port = free_port()
        program, at = relay(place, tmp_path / "relay")
        node = {
            "Name": "901a",
            "RegionID": 901,
            "HostName": "127.0.0.1",
            "DERPPort": at,
            "STUNPort": -1,
            "ForceHTTP": True,
        }
        region = {"RegionID": 901, "RegionCode": "lab", "RegionName": "Lab", "Nodes": [node]}
        derp_map = tmp_path / "map.json"
        derp_map.write_text(json.dumps({"Regions": {"901": region}}), "utf-8")
        place.start_server("--derp-config-path", str(derp_map), "--health-check-threshold-database", "9s")
        place.sign_in()

        said = place.user.coder("health", "--force")
        assert said.code == 0, said
        assert "This deployment is healthy." in said.out
        assert "2 of 2 regions work" in said.out
        (row,) = [line.split() for line in said.out.splitlines() if "901a" in line]
        assert row[:4] == ["Lab", "(901)", "901a", "yes"]
        found = place.user.coder("health", "--output", "json")
        assert found.code == 0, found
        document = found.json()
        assert (document["healthy"], document["severity"]) == (True, "ok")
        (report,) = document["derp"]["regions"]["901"]["node_reports"]
        assert report["can_exchange_messages"] is True  # the relay was told that the server knows its checks

        kill(program)
        again = place.user.coder("health", "--output", "json")
        assert json.loads(again.out)["time"] == document["time"]  # remembered
        said = place.user.coder("health", "--force")
        assert said.code == 1, said
        assert "1 of 2 regions work" in said.out
        assert "This deployment is not healthy." in said.out
        assert "EDERP02: Region Lab (901) does not work: " in said.err
        assert f"127.0.0.1:{at} refuses the connection" in said.err
        assert "what to do: " in said.err
        assert "Traceback" not in said.err
        dead = place.user.coder("health", "--output", "json")
        assert dead.code == 1
        assert json.loads(dead.out)["derp"]["severity"] == "error"


def test_health_is_for_owners(place: Deployment, tmp_path: Path) -> None:
    anonymous = {"CODER_CONFIG_DIR": str(tmp_path / "nobody")}
    said = place.user.coder("health", env={**anonymous, "CODER_URL": place.url})
    assert said.code == 1
    assert "coder login" in said.err
    said = place.user.coder("health", env={**anonymous, "CODER_URL": place.url, "CODER_SESSION_TOKEN": "wrong-token"})
    assert said.code == 1
    assert "Traceback" not in said.err
