"""`coder netcheck` as users run it: real programs on machines of their own, on networks that let ever less through."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coder_agent.testing.deployment import Deployment
from coder_agent.testing.netns import Host, Lab, unavailable

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(unavailable() is not None, reason=str(unavailable())),
    pytest.mark.skipif(shutil.which("nft") is None, reason="nft (nftables) is not installed"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A server and a user, each on a machine of its own."""
    with Lab() as lab:
        hosts = (lab.host("server"), lab.host("user"), lab.host("agent"))
        lab.switch(*hosts)
        with Deployment(tmp_path_factory.mktemp("netcheck"), hosts[0].address4, hosts) as deployment:
            deployment.start_server()
            deployment.sign_in()
            yield deployment


@pytest.fixture
def server(place: Deployment) -> Iterator[Host]:
    """The server's machine; what a test blocks there is let through again."""
    assert place.server.host is not None
    yield place.server.host
    place.server.host.try_run("nft", "delete", "table", "inet", "cut")


def block(host: Host, what: str = "") -> None:
    """What arrives there is lost without a word: all of it, or what matches."""
    host.run("nft", "add table inet cut; add chain inet cut arriving { type filter hook input priority 0; }")
    host.run("nft", f"add rule inet cut arriving {what} drop")


def derp(place: Deployment, *flags: str) -> dict[str, Any]:
    """The part of Coder's document about relays and STUN."""
    found: dict[str, Any] = place.user.coder("netcheck", "--output", "json", *flags).json()["derp"]
    return found


def test_a_healthy_network(place: Deployment) -> None:
    said = place.user.coder("netcheck")
    assert said.code == 0, said
    lines = {line.split("  ")[0]: line for line in said.out.splitlines() if line}
    assert lines["UDP"].endswith("works")
    assert lines["IPv4"].partition("seen from outside as ")[2].startswith("10.77.")
    assert "home" in next(line for line in said.out.splitlines() if "(999)" in line)
    document = derp(place)
    assert (document["healthy"], document["severity"]) == (True, "ok")
    (node,) = document["regions"]["999"]["node_reports"]
    assert node["can_exchange_messages"] is True
    assert node["stun"]["CanSTUN"] is True
    assert document["netcheck"]["PreferredDERP"] == 999
    assert document["netcheck"]["RegionV4Latency"]["999"] > 0
    assert document["netcheck"]["ICMPv4"] is True  # tests run as root, who may always ask


def test_udp_is_blocked_and_the_relay_works(place: Deployment, server: Host) -> None:
    block(server, "meta l4proto udp")
    said = place.user.coder("netcheck")
    assert said.code == 0, said
    assert "UDP is blocked" in said.err
    document = derp(place)
    assert document["netcheck"]["UDP"] is False
    assert document["netcheck"]["PreferredDERP"] == 999  # by its latency over HTTPS
    assert document["netcheck"]["RegionV4Latency"] == {}
    assert document["regions"]["999"]["node_reports"][0]["stun"]["Error"].startswith("no answer over UDP")


def test_nothing_gets_through(place: Deployment, server: Host, tmp_path: Path) -> None:
    map_file = tmp_path / "map.json"
    map_file.write_text(json.dumps({"Regions": {"999": derp(place)["regions"]["999"]["region"]}}), "utf-8")
    block(server)
    said = place.user.coder("netcheck")
    assert said.code == 1
    assert said.err.count("error: ") == 1
    assert said.err.startswith("Checking the network")
    assert "does not answer within 3 s" in said.err
    assert "--derp-map" in said.err
    said = place.user.coder("netcheck", "--derp-map", str(map_file))
    assert said.code == 1
    assert "nothing answers, neither over UDP nor over HTTPS" in said.err
    assert "does not answer within 1.5 s" in said.out  # why the relay could not be reached


def test_a_small_mtu_is_warned_of(place: Deployment) -> None:
    assert place.user.host is not None
    place.user.host.run("ip", "link", "add", "small0", "mtu", "1280", "type", "veth", "peer", "name", "small1")
    place.user.host.run("ip", "address", "add", "10.99.0.1/24", "dev", "small0")
    place.user.host.run("ip", "link", "set", "small0", "up")
    said = place.user.coder("netcheck")
    assert "interface small0 has an MTU of 1280" in said.err
    document = place.user.coder("netcheck", "--output", "json").json()["interfaces"]
    assert [warning["code"] for warning in document["warnings"]] == ["EIF01"]
    assert {"name": "small0", "mtu": 1280, "addresses": ["10.99.0.1/24"]} in [
        {**each, "addresses": [a for a in each["addresses"] if not a.startswith("fe80")]}
        for each in document["interfaces"]
    ]
    place.user.host.run("ip", "link", "delete", "small0")


def test_a_redacted_report_is_replayed_and_names_nobody(place: Deployment, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    said = place.user.coder("netcheck", "--report", str(path))
    assert said.code == 0, said
    assert f"coder lab replay {path}" in said.err
    assert "Embedded" not in path.read_text("utf-8")  # the relay's name
    replayed = place.user.coder("lab", "replay", str(path), "--output", "json")
    assert replayed.code == 0, replayed
    document = replayed.json()
    # One STUN server cannot tell how a NAT behaves, and the report does not pretend to know it.
    assert (document["reported"]["code"], document["replayed"]["code"]) == ("unknown", "direct_punched")
    assert document["same"] is False
    assert "takes two STUN servers" in place.user.coder("lab", "replay", str(path)).err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "cannot read the relay map", id="missing"),
        pytest.param("{", "is not a relay map: it is not JSON", id="junk"),
        pytest.param('{"Regions": 5}', "is not a relay map: the relay map: Regions must be", id="wrong-type"),
        pytest.param('{"Regions": {}}', "has no regions", id="no-regions"),
    ],
)
def test_a_map_file_that_is_no_use(place: Deployment, tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "map.json"
    if content is not None:
        path.write_text(content, "utf-8")
    said = place.user.coder("netcheck", "--derp-map", str(path))
    assert said.code == 1
    assert message in said.err
    assert "Traceback" not in said.err


def test_without_a_login_it_says_what_to_do(place: Deployment, tmp_path: Path) -> None:
    said = place.user.coder("netcheck", env={"CODER_CONFIG_DIR": str(tmp_path)})
    assert said.code == 1
    assert "coder login" in said.err
