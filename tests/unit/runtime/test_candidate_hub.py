"""Merging what candidate sources say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from coder_agent.base.addresses import AddrPort
from coder_agent.base.derp_map import DerpMap, DerpRegion
from coder_agent.base.keys import DiscoPublic, NodePublic
from coder_agent.base.node import Node
from coder_agent.base.path_rules import NO_RULES, DirectRule, PathRules
from coder_agent.hooks.interfaces import Candidate, CandidateContext, CandidateKind
from coder_agent.runtime import candidates
from coder_agent.runtime.candidates import CandidateHub

pytestmark = pytest.mark.anyio


class Direct:
    """A direct transport that sends nowhere."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    name, headroom = "direct", 0

    def bound_ports(self) -> tuple[int, int]:
        return 1, 2

    def send(self, burst: Any, path: Any) -> bool:
        self.sent.append(bytes(burst.row(0)))
        return True


class Source:
    """Runs a script."""

    def __init__(self, name: str, script: Callable[[CandidateContext], Any]) -> None:
        self.name = name
        self._script = script

    async def run(self, context: CandidateContext) -> None:
        await self._script(context)


class Calls:
    """Counts the hub's calls."""

    def __init__(self) -> None:
        self.changed = self.measured = self.moved = 0
        self.direct = Direct()

    def hub(self) -> CandidateHub:
        return CandidateHub(
            self.direct,  # type: ignore[arg-type]
            changed=lambda: self._count("changed"),
            measured=lambda: self._count("measured"),
            moved=lambda: self._count("moved"),
        )

    def _count(self, name: str) -> None:
        setattr(self, name, getattr(self, name) + 1)


def local(host: str, port: int = 1) -> Candidate:
    return Candidate(AddrPort(host, port), CandidateKind.LOCAL)


async def test_candidates_are_ordered_by_kind_and_said_once() -> None:
    calls = Calls()
    hub = calls.hub()

    async def interfaces(context: CandidateContext) -> None:
        context.publish("local", [local("10.0.0.1"), Candidate(AddrPort("192.0.2.1", 5), CandidateKind.LOCAL)])

    async def stun(context: CandidateContext) -> None:
        context.publish("stun", [Candidate(AddrPort("192.0.2.1", 5), CandidateKind.STUN)])

    await hub.run([Source("local", interfaces), Source("stun", stun)])
    assert hub.endpoints() == (AddrPort("192.0.2.1", 5), AddrPort("10.0.0.1", 1))
    assert calls.changed == 2


async def test_a_source_that_fails_is_started_again_and_hurts_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "RESTART_DELAY", 0)
    calls = Calls()
    hub = calls.hub()
    runs = 0

    async def broken(context: CandidateContext) -> None:
        nonlocal runs
        runs += 1
        if runs < 3:
            raise ValueError("a bug")

    async def fine(context: CandidateContext) -> None:
        context.publish("fine", [local("10.0.0.1")])

    with anyio.fail_after(30):
        await hub.run([Source("broken", broken), Source("fine", fine)])
    assert runs == 3
    assert hub.endpoints() == (AddrPort("10.0.0.1", 1),)


async def test_refresh_wakes_every_source_with_its_reason() -> None:
    hub = Calls().hub()
    heard: list[str] = []

    async def listen(context: CandidateContext) -> None:
        heard.append(await context.wait_refresh())
        heard.append(await context.wait_refresh())
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hub.run, [Source("a", listen)])
        await anyio.wait_all_tasks_blocked()
        hub.refresh("call-me-maybe")
    assert heard == ["start", "call-me-maybe"]


async def test_a_source_may_ask_for_fresh_sockets_but_other_addresses_do_not() -> None:
    calls = Calls()
    hub = calls.hub()

    async def move(context: CandidateContext) -> None:
        context.publish("local", [local("10.0.0.1", 1)])
        context.publish("local", [local("10.9.9.9", 2)])
        assert calls.moved == 0
        context.request_rebind("the gateway restarted")

    await hub.run([Source("local", move)])
    assert calls.moved == 1


async def test_latency_of_a_region_is_the_better_family_and_goes_with_its_region() -> None:
    calls = Calls()
    hub = calls.hub()
    hub.set_map(DerpMap({1: DerpRegion(1), 2: DerpRegion(2)}))

    async def measure(context: CandidateContext) -> None:
        context.report_latency(1, "v4", 0.030)
        context.report_latency(1, "v6", 0.020)
        context.report_latency(2, "v4", 0.010)
        context.report_mapping_varies(True)

    await hub.run([Source("stun", measure)])
    assert hub.latency() == {1: 0.020, 2: 0.010}
    assert hub.derp_latency() == {"1-v4": 0.030, "1-v6": 0.020, "2-v4": 0.010}
    assert hub.mapping_varies is True
    assert calls.measured == 4
    hub.set_map(DerpMap({1: DerpRegion(1)}))
    assert hub.latency() == {1: 0.020}


async def test_stun_packets_reach_subscribers_until_they_leave() -> None:
    calls = Calls()
    hub = calls.hub()
    seen: list[bytes] = []

    async def listen(context: CandidateContext) -> None:
        leave = context.on_stun(lambda data, source, now: seen.append(data))
        context.send(b"request", AddrPort("192.0.2.9", 3478))
        hub.stun_received(b"one", AddrPort("192.0.2.9", 3478), 1.0)
        leave()
        hub.stun_received(b"two", AddrPort("192.0.2.9", 3478), 1.0)

    await hub.run([Source("stun", listen)])
    assert seen == [b"one"]
    assert calls.direct.sent == [b"request"]


def known_peers(count: int) -> list[Node]:
    return [
        Node(id=number, key=NodePublic(bytes([number]) * 32), disco=DiscoPublic(bytes([number]) * 32), preferred_derp=0)
        for number in range(1, count + 1)
    ]


async def test_suggestions_of_all_sources_are_joined_and_go_with_their_peer() -> None:
    peers = known_peers(2)
    heard: list[tuple[NodePublic, list[AddrPort]]] = []
    hub = CandidateHub(
        Direct(),  # type: ignore[arg-type]
        changed=lambda: None,
        measured=lambda: None,
        moved=lambda: None,
        peers=lambda: peers,
        suggested=lambda peer, endpoints: heard.append((peer, list(endpoints))),
    )
    key, stranger = peers[0].key, NodePublic(bytes(32))
    lan, usb, both = AddrPort("10.0.0.2", 7), AddrPort("10.1.0.2", 7), AddrPort("10.2.0.2", 7)
    changes: list[int] = []

    async def see(context: CandidateContext) -> None:
        unsubscribe = context.on_peers(lambda: changes.append(len(context.peers())))
        context.suggest("mdns", stranger, [lan])
        context.suggest("mdns", key, [lan, both])
        context.suggest("mdns", key, [lan, both])
        context.suggest("usb", key, [both, usb])
        context.suggest("mdns", key, [])
        gone = peers.pop(0)
        hub.peers_changed()
        peers.append(gone)
        hub.peers_changed()
        context.suggest("mdns", key, [lan])
        unsubscribe()
        hub.peers_changed()

    await hub.run([Source("mdns", see)])
    assert heard == [
        (key, [lan, both]),
        (key, [lan, both, usb]),
        (key, [both, usb]),
        (key, [lan]),
    ]
    assert changes == [1, 2]


async def test_where_direct_paths_are_forbidden_no_source_runs_until_they_are_allowed_again() -> None:
    calls = Calls()
    hub = calls.hub()
    running: list[str] = []

    async def listen(context: CandidateContext) -> None:
        unsubscribe = context.on_stun(lambda data, source, now: None)
        running.append("started")
        try:
            assert await context.wait_refresh() == "start"
            context.publish("local", [local("10.0.0.1")])
            await anyio.sleep_forever()
        finally:
            running.append("stopped")
            unsubscribe()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hub.run, [Source("local", listen)])
        await anyio.wait_all_tasks_blocked()
        assert hub.endpoints()
        for _ in range(2):
            hub.set_rules(PathRules(DirectRule.NEVER))
            assert hub.endpoints() == ()
            await anyio.wait_all_tasks_blocked()
            assert running[-1] == "stopped"
            hub.set_rules(NO_RULES)
            await anyio.wait_all_tasks_blocked()
            assert running[-1] == "started"
            assert hub.endpoints()
        tasks.cancel_scope.cancel()
    assert calls.changed == 5


async def test_rules_that_forbid_at_the_start_keep_every_source_asleep() -> None:
    ran: list[str] = []

    async def run(context: CandidateContext) -> None:
        ran.append("ran")

    hub = Calls().hub()
    hub.set_rules(PathRules(DirectRule.NEVER))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hub.run, [Source("local", run)])
        await anyio.wait_all_tasks_blocked()
        assert ran == []
        hub.set_rules(PathRules(DirectRule.ONLY))
        await anyio.wait_all_tasks_blocked()
        assert ran == ["ran"]


async def test_without_ipv6_none_is_offered_and_none_is_used() -> None:
    calls = Calls()
    hub = calls.hub()
    ports: list[tuple[int | None, int | None]] = []
    reasons: list[str] = []

    async def both(context: CandidateContext) -> None:
        context.publish("local", [local("fd00::1"), local("10.0.0.1")])
        for _ in range(3):
            reasons.append(await context.wait_refresh())
            ports.append(context.direct.bound_ports())
            context.send(b"v6", AddrPort("fd00::2", 3478))
            context.send(b"v4", AddrPort("10.0.0.2", 3478))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hub.run, [Source("both", both)])
        await anyio.wait_all_tasks_blocked()
        hub.set_rules(PathRules(ipv6=False))
        assert hub.endpoints() == (AddrPort("10.0.0.1", 1),)
        await anyio.wait_all_tasks_blocked()
        hub.set_rules(NO_RULES)
        assert len(hub.endpoints()) == 2
    assert reasons == ["start", "rules", "rules"]
    assert ports == [(1, 2), (1, None), (1, 2)]
    assert calls.direct.sent == [b"v6", b"v4", b"v4", b"v6", b"v4"]
