"""The real STUN source under the hub: silent as soon as direct paths are forbidden, and for as long."""

from __future__ import annotations

from ipaddress import ip_address

import anyio
import pytest
from coder_agent_nat_traversal.https import HttpsAnswer
from coder_agent_nat_traversal.stun import StunSource

from coder_agent.base.addresses import AddrPort
from coder_agent.base.burst import Burst
from coder_agent.base.derp_map import DerpMap, DerpNode, DerpRegion
from coder_agent.base.path_rules import NO_RULES, DirectRule, PathRules
from coder_agent.base.paths import UdpPath
from coder_agent.hooks.interfaces import DialOptions
from coder_agent.runtime.candidates import CandidateHub
from coder_agent.testing.virtual_time import VirtualLoop

pytestmark = pytest.mark.anyio

SERVER = AddrPort("192.0.2.1", 3478)
HOUR = 3600.0


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "asyncio", {"loop_factory": VirtualLoop}


class Direct:
    """A direct transport that notes whom it was to send to, and when."""

    name, headroom = "direct", 0

    def __init__(self) -> None:
        self.sent: list[AddrPort] = []

    def bound_ports(self) -> tuple[int | None, int | None]:
        return 41641, None

    def send(self, burst: Burst, path: UdpPath) -> bool:
        self.sent.append(path.addr)
        return True


async def unreachable(node: DerpNode, options: DialOptions) -> HttpsAnswer:
    return HttpsAnswer(None, error="nobody is there")


async def active_hour(hub: CandidateHub) -> None:
    """Somebody wants fresh endpoints all the time, as an active session does."""
    for _ in range(120):
        hub.refresh("call-me-maybe")
        await anyio.sleep(HOUR / 120)


@pytest.mark.parametrize("forbidden_from_the_start", [False, True])
async def test_forbidden_direct_paths_stop_stun_until_they_are_allowed_again(forbidden_from_the_start: bool) -> None:
    direct = Direct()
    never = PathRules(DirectRule.NEVER)
    hub = CandidateHub(
        direct,  # type: ignore[arg-type]
        changed=lambda: None,
        measured=lambda: None,
        moved=lambda: None,
        rules=never if forbidden_from_the_start else NO_RULES,
    )
    node = DerpNode("1a", 1, "relay.example", ipv4=SERVER.host, ipv6="none", stun_port=SERVER.port)
    hub.set_map(DerpMap({1: DerpRegion(1, "one", "One", (node,))}))
    source = StunSource(addresses=lambda: [ip_address("10.0.0.5")], measure=unreachable)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hub.run, [source])
        if not forbidden_from_the_start:
            await active_hour(hub)
            assert set(direct.sent) == {SERVER}
            assert len(direct.sent) > 100
            hub.set_rules(never)
        direct.sent.clear()
        await active_hour(hub)
        assert direct.sent == []
        hub.set_rules(NO_RULES)
        await active_hour(hub)
        assert len(direct.sent) > 100
        tasks.cancel_scope.cancel()
