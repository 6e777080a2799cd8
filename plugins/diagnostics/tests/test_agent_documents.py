"""What an agent says about itself: the documents that stock clients read."""

from __future__ import annotations

import json
from uuid import UUID

import pytest
from coder_agent_diagnostics.agent_api import AgentApiService
from coder_agent_diagnostics.agent_documents import manifest_document, metrics_text, netcheck_document

from coder_agent.base.addresses import AddrPort
from coder_agent.base.nat_facts import NatFacts
from coder_agent.hooks.interfaces import AgentFacts, LivingService

pytestmark = pytest.mark.anyio

FACTS = AgentFacts("http://127.0.0.1", UUID(int=1), UUID(int=2), "main", "dev", "alice", "~/src", {"TOKEN": "hush"})
NAT = NatFacts(
    udp=True,
    ipv4=True,
    mapping_varies=True,
    public_v4=AddrPort.parse("198.51.100.7:41641"),
    port_mapping=frozenset({"pmp"}),
    gateway_asked=True,
    mtu=1280,
)


async def test_netcheck_says_what_the_node_knows() -> None:
    document = netcheck_document(AgentFacts("", UUID(int=1), UUID(int=2), nat=NAT, home=999))
    info = document["net_info"]
    assert isinstance(info, dict)
    assert (info["MappingVariesByDestIP"], info["UDP"], info["IPv6"]) == (True, True, False)
    assert (info["UPnP"], info["PMP"]) == (False, True)
    assert (info["PreferredDERP"], info["GlobalV4"], info["GlobalV6"]) == (999, "198.51.100.7:41641", "")
    interfaces = document["interfaces"]
    assert isinstance(interfaces, dict)
    assert interfaces["severity"] == "warning"
    assert "MTU 1280" in interfaces["warnings"][0]["message"]


async def test_what_is_not_known_is_null() -> None:
    assert netcheck_document(FACTS)["net_info"] is None, "nobody has looked yet"
    forbidden = AgentFacts("", UUID(int=1), UUID(int=2), nat=NatFacts(direct_allowed=False))
    info = netcheck_document(forbidden)["net_info"]
    assert isinstance(info, dict)
    assert (info["MappingVariesByDestIP"], info["WorkingUDP"], info["UPnP"]) == (None, None, None)
    assert info["UDP"] is True, "nobody found it blocked"
    assert netcheck_document(FACTS)["interfaces"] == {
        "error": None, "severity": "ok", "warnings": [], "dismissed": False, "interfaces": []
    }  # fmt: skip


async def test_the_manifest_names_variables_without_their_values() -> None:
    document = manifest_document(FACTS)
    assert document["environment_variables"] == {"TOKEN": "***REDACTED***"}
    assert document["workspace_id"] == str(UUID(int=2))
    assert "hush" not in json.dumps(document)


async def test_counters_become_metrics() -> None:
    text = metrics_text({"sent": 7, 'odd"\n{name}': 1})
    assert 'coder_agent_node_total{what="sent"} 7\n' in text
    assert 'what="odd___name_"} 1\n' in text


@pytest.mark.parametrize("path", ["/api/v0/netcheck", "/debug/manifest", "/debug/prometheus"])
async def test_they_are_served_once_the_agent_knows_itself(path: str) -> None:
    service = AgentApiService()
    assert isinstance(service, LivingService)
    assert (await service._answer("GET", path))[0] == 404
    async with service.open(lambda: FACTS):
        assert (await service._answer("GET", path))[0] == 200
        assert (await service._answer("POST", path))[0] == 405
