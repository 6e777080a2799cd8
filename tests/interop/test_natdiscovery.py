"""A second opinion on NATs: what coturn's `turnutils_natdiscovery` (RFC 5780) says of a router, netcheck must say."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coder_agent.protocols.stun import encode_request
from coder_agent.testing import netns, netns_nat
from coder_agent.testing.netns import Host, Lab
from coder_agent.testing.netns_nat import NatKind
from coder_agent.testing.netns_places import Internet, Visitors
from coder_agent.testing.netns_sockets import udp_socket
from coder_agent.testing.processes import run_program

pytestmark = [
    pytest.mark.netns,
    pytest.mark.foreign,
    pytest.mark.skipif(netns.unavailable() is not None, reason=str(netns.unavailable())),
    pytest.mark.skipif(shutil.which("nft") is None, reason="nftables is not installed"),
    pytest.mark.skipif(shutil.which("turnutils_natdiscovery") is None, reason="coturn is not installed"),
]
CODER = str(Path(sys.executable).parent / "coder")
WORDS = {
    "No NAT! (Endpoint Independent Mapping)": ("none", False),
    "NAT with Endpoint Independent Mapping!": ("nat", False),
    "NAT with Address Dependent Mapping!": ("nat", True),
    "NAT with Address and Port Dependent Mapping!": ("nat", True),
}
"""The judge's words: is there a NAT, and do its mappings vary? Without one it goes on to the second line as well."""


@pytest.fixture(scope="module")
def internet() -> Iterator[Internet]:
    with Lab() as lab:
        yield Internet(lab)


@pytest.fixture(scope="module")
def coturn(internet: Internet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A host with two addresses and a coturn that answers on two ports of each, which the judge needs."""
    host = internet.server("coturn", 2)
    command = ["turnserver", "-n", "--no-tls", "--no-dtls", "--no-cli", "--log-file", "stdout", "-p", "3478"]
    everywhere = [*addresses(host), host.address6]
    listening = [part for address in everywhere for part in ("--listening-ip", address, "--relay-ip", address)]
    with run_program(*command, *listening, "--pidfile", str(tmp_path_factory.mktemp("coturn") / "pid"), host=host):
        wait_for_answer(host)
        yield host


def wait_for_answer(host: Host, attempts: int = 100) -> None:
    """Ask the last port that coturn opens until it answers."""
    with udp_socket(host, host.address4) as sock:
        sock.settimeout(0.1)
        for _ in range(attempts):
            sock.sendto(encode_request(os.urandom(12)), (addresses(host)[1], 3479))
            try:
                sock.recv(2048)
                return
            except (TimeoutError, ConnectionError):
                continue
    raise AssertionError("coturn does not answer")


@pytest.fixture
def guests(internet: Internet) -> Iterator[Visitors]:
    with internet.visitors() as visitors:
        yield visitors


def addresses(host: Host) -> list[str]:
    prefix, _, last = host.address4.rpartition(".")
    return [host.address4, f"{prefix}.{int(last) + 1}"]


def netcheck(host: Host, coturn: Host, directory: Path) -> dict[str, Any]:
    """What our netcheck says, asked from `host`, with both addresses as STUN servers."""
    regions = {}
    for number, address in enumerate(addresses(coturn), 1):
        node: dict[str, object] = {"Name": f"{number}", "RegionID": number, "HostName": address, "STUNOnly": True}
        if number == 1:
            node |= {"IPv4": address, "IPv6": coturn.address6}
        regions[str(number)] = {"RegionID": number, "RegionCode": f"r{number}", "Nodes": [node]}
    (directory / "map.json").write_text(json.dumps({"Regions": regions}), "utf-8")
    env = {"HOME": str(directory), "CODER_CONFIG_DIR": str(directory)}
    said = host.run(CODER, "netcheck", "--derp-map", str(directory / "map.json"), "--output", "json", env=env)
    found: dict[str, Any] = json.loads(said)["derp"]["netcheck"]
    return found


def second_opinion(host: Host, coturn: Host) -> tuple[str, bool]:
    said = host.run("turnutils_natdiscovery", "-m", "-L", host.address4, coturn.address4, timeout=60)
    return next(words for line, words in WORDS.items() if line in said)


@pytest.mark.parametrize(
    "kind",
    [
        netns_nat.EASY,
        netns_nat.FULL_CONE,
        netns_nat.SYMMETRIC,
        netns_nat.SEQUENTIAL,
    ],
    ids=lambda kind: kind.name,
)
def test_netcheck_and_the_judge_agree_on_a_router(
    kind: NatKind, coturn: Host, guests: Visitors, tmp_path: Path
) -> None:
    home = guests.home("home", kind)
    ours = netcheck(home.host, coturn, tmp_path)
    assert ("nat", ours["MappingVariesByDestIP"]) == second_opinion(home.host, coturn)
    assert ours["UDP"] is True
    assert ours["GlobalV4"].startswith(f"{home.outside}:")


def test_netcheck_and_the_judge_agree_on_an_open_network(coturn: Host, guests: Visitors, tmp_path: Path) -> None:
    host = guests.public("open").host
    ours = netcheck(host, coturn, tmp_path)
    assert ("none", ours["MappingVariesByDestIP"]) == second_opinion(host, coturn)
    assert ours["GlobalV4"].startswith(f"{host.address4}:")


def test_netcheck_asks_over_ipv6_too(coturn: Host, guests: Visitors, tmp_path: Path) -> None:
    home = guests.home("home", netns_nat.EASY, ipv6=True)
    ours = netcheck(home.host, coturn, tmp_path)
    assert ours["IPv6"] is True
    assert ours["GlobalV6"].startswith(f"[{home.host.address6}]:")
    assert set(ours["RegionV6Latency"]) == {"1"}
