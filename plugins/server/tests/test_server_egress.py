"""A server under an egress policy: what it hands out, where it goes for maps, and what its figures say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest
from coder_agent_server.derp_map_sources import UrlSource
from coder_agent_server.testing import run_server

from coder_agent.base.derp_map import DerpMap, DerpNode, DerpRegion
from coder_agent.errors import ConfigError
from coder_agent.hooks import DerpMapSource, DialOptions, Egress, EgressPolicy, Purpose, Settings, Verdict, hookimpl

pytestmark = pytest.mark.anyio
FIGURES: Mapping[str, Any] = {"prometheus_enable": True, "prometheus_address": "127.0.0.1:0"}


class Policy:
    """Inside are the coder server and names that end in .in."""

    name = "inside"

    def __init__(self) -> None:
        self.trusted: list[str] = []

    def judge(self, host: str, address: str | None, port: int, purpose: Purpose) -> Verdict:
        return Verdict(host.endswith(".in") or host in self.trusted, "the list")

    def trust(self, host: str, reason: str) -> None:
        self.trusted.append(host)


def relay(number: int, host: str) -> DerpRegion:
    return DerpRegion(number, f"r{number}", f"Region {number}", (DerpNode(f"{number}a", number, host),))


class Plugin:
    """The policy, and a source that names relays on both sides."""

    name = "rack"
    refresh = 0.0

    def __init__(self) -> None:
        self.policy = Policy()

    @hookimpl
    def coder_egress_policy(self, settings: Settings) -> EgressPolicy:
        return self.policy

    @hookimpl
    def coder_derp_map_sources(self, settings: Settings) -> Sequence[DerpMapSource]:
        return [self]

    async def fetch(self) -> DerpMap:
        return DerpMap({901: relay(901, "relay.in"), 902: relay(902, "relay.out")})


async def test_relays_outside_are_not_handed_out_and_that_is_counted(tmp_path: Path) -> None:
    plugin = Plugin()
    settings = {**FIGURES, "derp_server_stun_addresses": ["stun.out:3478"]}
    async with run_server(tmp_path, ("policed", plugin), **settings) as server:
        assert set(server.running.deployment.derp_map.current.regions) == {901, 999}
        assert plugin.policy.trusted == ["127.0.0.1"]  # the access URL
        nodes = server.running.deployment.derp_map.current.regions[999].nodes
        assert [node.host_name for node in nodes if node.stun_only] == []
        at = server.running.metrics
        assert at is not None
        async with httpx2.AsyncClient(base_url=f"http://{at}") as client:
            figures = (await client.get("/metrics")).text
    assert 'coder_airgap_refused_total{purpose="relay"} 2.0' in figures
    assert 'coder_airgap_refused_total{purpose="peer"} 0.0' in figures


async def test_without_a_policy_there_is_no_such_figure(tmp_path: Path) -> None:
    async with run_server(tmp_path, **FIGURES) as server, httpx2.AsyncClient() as client:
        assert "airgap" not in (await client.get(f"http://{server.running.metrics}/metrics")).text


async def test_a_map_url_outside_is_the_operators_mistake() -> None:
    egress = Egress(Policy())
    source = UrlSource("https://maps.out/derpmap", 0.0, DialOptions(proxy="none", egress=egress))
    with pytest.raises(ConfigError, match=r"^derp_config_url: maps\.out:443 may not be reached from here: the list$"):
        await source.fetch()
    assert egress.refused == {"connect": 1}
