"""Why is a node's path to a peer what it is? Joins what core, relay map and coordinator know, and asks `verdict`.

verdict = explain(node, peer.key)
verdict = await explain_after_asking(node, peer.key)  # the peer's own account included, if it tells
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio

from .base.derp_map import DerpMap
from .base.keys import NodePublic
from .base.path_rules import PathRules
from .base.paths import PathKind
from .magicsock.status import PathStatus
from .verdict.causes import Cause
from .verdict.situation import Attempt, Region, RelayFacts, Situation, Verdict

if TYPE_CHECKING:
    from .node import TailnetNode

ASK_TIMEOUT = 1.5
"""Seconds that a peer's report is waited for: a round trip through a distant relay takes a third of it."""
ASK_POLL = 0.02
SETTLE_TIMEOUT, SETTLE_PAUSE = 8.0, 0.5
"""Seconds that a command waits for a verdict; by then STUN has given up (5 s) and the other end has told so."""
_MAY_CHANGE = (Cause.STILL_SEARCHING, Cause.BIRTHDAY_RUNNING, Cause.NO_RELAY_SIGNALLING)
DEPLOYMENT = "the deployment"
"""How rules of the server begin to say whose they are (`PathRules.set_by`)."""


def attempts_of(status: PathStatus, now: float) -> tuple[Attempt, ...]:
    """The candidates of a path, as the verdict wants them. A proven direct path beside which the relay carries packets
    is there by choice: of the quality that was measured."""
    chosen_against = status.addr if status.kind is PathKind.RELAYED and status.trusted_until >= now else None
    return tuple(
        Attempt(
            one.addr,
            one.sources,
            one.sent,
            one.answered,
            one.latency,
            one.wire_mtu,
            one.why_not or ("worse than the relay" if one.addr == chosen_against else ""),
        )
        for one in status.candidates
    )


def has_stun(derp_map: DerpMap) -> bool:
    """Does some node of the map answer STUN? (A negative port says that it does not.)"""
    return any(node.stun_port >= 0 for region in derp_map.regions.values() for node in region.nodes)


def relay_facts(
    derp_map: DerpMap,
    *,
    latency: Mapping[str, float],
    home_here: int = 0,
    home_there: int = 0,
    connected: bool | None = None,
) -> RelayFacts:
    """The relay map as evidence; `latency` as in `Node.derp_latency`."""
    return RelayFacts(
        has_stun=has_stun(derp_map),
        regions=tuple(
            Region(number, region.region_name or region.region_code, _best(latency, number))
            for number, region in sorted(derp_map.regions.items())
        ),
        home_here=home_here,
        home_there=home_there,
        connected=connected,
    )


def _best(latency: Mapping[str, float], region: int) -> float | None:
    return min((latency[key] for key in (f"{region}-v4", f"{region}-v6") if key in latency), default=None)


def _rules(rules: PathRules) -> tuple[PathRules, PathRules]:
    """The rules in force as those of this end and those of the deployment: whose they are they say themselves."""
    return (PathRules(), rules) if rules.set_by.startswith(DEPLOYMENT) else (rules, PathRules())


def situation_of_status(status: PathStatus, now: float) -> Situation:
    """What the path core alone knows; relay map, rules and what is published are for the caller to add."""
    return Situation(
        local=status.local,
        remote=status.remote,
        kind=status.kind,
        addr=status.addr,
        socket=status.socket,
        region=status.region,
        latency=status.latency,
        wire_mtu=status.wire_mtu,
        attempts=attempts_of(status, now),
        birthday=status.birthday,
    )


def situation_of(node: TailnetNode, key: NodePublic) -> Situation:
    """Everything that `node` knows about its path to a peer."""
    status = node.path(key)
    peer = next((one for one in node.peers if one.key == key), None)
    ourselves = node.self_node()
    relay = node.engine.relay
    here, deployment = _rules(status.rules)
    since = status.searching_since
    return replace(
        situation_of_status(status, node.engine.now()),
        published=peer.endpoints if peer is not None else (),
        own=ourselves.endpoints,
        relay=relay_facts(
            node.derp_map,
            latency=ourselves.derp_latency,
            home_here=node.home,
            home_there=peer.preferred_derp if peer is not None else 0,
            connected=relay.connected(status.region) if relay is not None and status.region else None,
        ),
        rules_here=here,
        rules_deployment=deployment,
        searching=None if since is None else node.engine.now() - since,
        peer_known=peer is not None,
    )


def explain(node: TailnetNode, key: NodePublic, there: str = "the workspace") -> Verdict:
    """The verdict from what is known now. `there` names the peer in the texts."""
    from .verdict.judge import judge  # big, and nothing for those who want but the evidence

    return judge(situation_of(node, key), there)


async def ask(node: TailnetNode, key: NodePublic, *, timeout: float = ASK_TIMEOUT) -> bool:
    """Ask a peer for its report and wait for it, at most `timeout` seconds. False: it told nothing, as stock peers do.

    Question and answer may each have to wait for their turn (magicsock REPORT_INTERVAL). What the peer told before is
    used if nothing newer comes.
    """
    engine = node.engine
    before = node.path(key).remote
    engine.apply(engine.magicsock.ask_report(key, engine.now()))
    with anyio.move_on_after(timeout):
        while node.path(key).remote is before:  # noqa: ASYNC110  (for a person; the core has no event for reports)
            await anyio.sleep(ASK_POLL)
    return node.path(key).remote is not None


async def explain_after_asking(
    node: TailnetNode, key: NodePublic, there: str = "the workspace", *, timeout: float = ASK_TIMEOUT
) -> Verdict:
    """The verdict with the peer's newest account of itself, if it gives one in time."""
    await ask(node, key, timeout=timeout)
    return explain(node, key, there)


async def settle(node: TailnetNode, key: NodePublic, *, timeout: float = SETTLE_TIMEOUT) -> None:
    """Ask, and wait until the verdict is not merely that the search goes on, at most `timeout` seconds."""
    with anyio.move_on_after(timeout):
        while True:
            await ask(node, key)
            if explain(node, key).code not in _MAY_CHANGE:
                return
            with anyio.move_on_after(SETTLE_PAUSE):
                await node.wait_any_path()
