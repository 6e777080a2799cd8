"""From a report back to a network: the smallest topology in which both ends would report what they did.

What a report does not say is chosen as it mostly is: strict filtering, random ports. What the outcome proves is taken
from the outcome: a path that was direct through a symmetric NAT proves that the other end let strangers' ports in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...base.addresses import AddrPort
from ...base.nat_facts import NatFacts, PathReport
from ...base.path_rules import DirectRule, PathRules
from ...base.paths import PathKind
from ...verdict.alone import with_peer
from ...verdict.causes import Cause
from ...verdict.judge import judge
from ...verdict.model import guessed_facts, is_private, is_public, udp_works
from ...verdict.situation import Situation, Verdict
from .topology import (
    INTERNET,
    LAN,
    STATEFUL,
    STUN_A,
    STUN_SERVERS,
    Filtering,
    Firewall,
    Host,
    Interface,
    LinkRules,
    Mapping,
    NatRules,
    Ports,
    Region,
    Router,
    Topology,
)

FULL_MTU = 1500
LOW_MTU = 1280
_WAN = {"a": "198.18.0.1", "b": "198.18.1.1"}
_LAN = {"a": "192.168.1.10", "b": "192.168.2.10"}
_V6 = {"a": "2001:db8:a::10", "b": "2001:db8:b::10"}


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What the verdict of the report proves about both networks."""

    verdict: Verdict
    is_direct: bool
    on_one_lan: bool
    behind_one_nat: bool

    def is_(self, *causes: Cause) -> bool:
        return self.verdict.code in causes


def replayed(situation: Situation) -> Topology:
    """The network of a report: hosts ``a`` (the reporter) and ``b``."""
    situation = with_peer(situation)
    verdict = judge(situation)
    theirs = situation.remote.facts if situation.remote is not None else guessed_facts(situation.published)
    ours = situation.local.facts
    shared = bool(ours.public_v4 and theirs.public_v4 and ours.public_v4.host == theirs.public_v4.host)
    outcome = _Outcome(
        verdict,
        is_direct=situation.kind is PathKind.DIRECT,
        on_one_lan=verdict.code is Cause.DIRECT_LAN,
        behind_one_nat=shared,
    )
    host_a, routers_a = _end("a", ours, situation.local, situation.own, situation.rules_here, outcome)
    remote = situation.remote or PathReport(theirs)
    host_b, routers_b = _end("b", theirs, remote, situation.published, situation.rules_there, outcome)
    topology = Topology(
        (host_a, host_b),
        routers_a + routers_b,
        stun=STUN_SERVERS if situation.relay.has_stun else (),
        regions=tuple(Region(one.id) for one in situation.relay.regions) or (Region(),),
        core=LinkRules(latency=0.025, mtu=LOW_MTU if Cause.LOW_MTU_PATH in (verdict.code, *verdict.also) else FULL_MTU),
    )
    home = topology.regions[0].number
    for side in "ab":
        topology = topology.with_host(side, lambda host: replace(host, home=home))
    if situation.rules_deployment.direct is DirectRule.NEVER:
        topology = topology.with_host("a", lambda host: replace(host, allow_direct=False, direct_rule="the deployment"))
    if outcome.is_(Cause.HARD_NAT_HERE_STRICT_THERE, Cause.HARD_NAT_THERE_STRICT_HERE):  # guesses were of no use
        topology = topology.with_host("b", lambda host: replace(host, birthday=False))
    if outcome.is_(Cause.UDP_FILTERED_BETWEEN):
        only = Firewall(unsolicited=False, to_ports=(STUN_A.port,))
        topology = topology.with_host("b", lambda host: replace(host, firewall=only))
    return _joined(topology, outcome) if shared or outcome.on_one_lan else topology


def _end(
    side: str,
    facts: NatFacts,
    report: PathReport,
    endpoints: tuple[AddrPort, ...],
    rules: PathRules,
    outcome: _Outcome,
) -> tuple[Host, tuple[Router, ...]]:
    """One end, and the routers before it."""
    blocked = udp_works(report, facts) is False
    link = replace(LAN, mtu=facts.mtu or FULL_MTU)
    has_v4 = facts.ipv4 is not False or blocked or any(not addr.is_ipv6 for addr in endpoints)
    has_v6 = bool(facts.ipv6) or any(addr.is_ipv6 and not is_private(addr) for addr in endpoints)
    behind_nat = not is_public(endpoints) or facts.nat_layers > 0
    segment = f"lan-{side}" if behind_nat else INTERNET
    address = _LAN[side] if behind_nat else (facts.public_v4.host if facts.public_v4 else _WAN[side])
    feet = [Interface(address, segment, link)] if has_v4 or not has_v6 else []
    feet += [Interface(_V6[side], segment, link)] if has_v6 else []
    loose = _is_loose(facts, outcome)
    firewall = Firewall() if behind_nat or loose else STATEFUL
    if blocked and not behind_nat:
        firewall = replace(firewall, udp=False)
    forbidden = rules.direct is DirectRule.NEVER or facts.direct_allowed is False
    host = Host(
        side,
        tuple(feet),
        firewall=firewall,
        listen_port=facts.listen_port,
        allow_direct=not forbidden,
        direct_rule=(rules.set_by or facts.direct_rule or "a rule") if forbidden else "",
    )
    return host, _routers(side, facts, loose, blocked) if behind_nat else ()


def _is_loose(facts: NatFacts, outcome: _Outcome) -> bool:
    """Must this end have let strangers' ports in? The one that gives one port to all, on a path that became direct
    without guessing."""
    return outcome.is_direct and not outcome.is_(Cause.DIRECT_BIRTHDAY) and not facts.mapping_varies


def _routers(side: str, facts: NatFacts, loose: bool, blocked: bool) -> tuple[Router, ...]:
    """As many NATs in a row as were counted; the outermost has the NAT's character, all its strictness."""
    filtering = Filtering.ENDPOINT_INDEPENDENT if loose else Filtering.ADDRESS_AND_PORT_DEPENDENT
    easy = NatRules(filtering=filtering)
    hard = NatRules(
        mapping=Mapping.ADDRESS_AND_PORT_DEPENDENT,
        ports=Ports.SEQUENTIAL if facts.port_step else Ports.RANDOM,
        step=facts.port_step or 1,
    )
    layers = max(facts.nat_layers, 1)
    shut = Firewall(udp=not blocked)
    routers = []
    for layer in range(layers):
        is_last = layer == layers - 1
        wan = facts.public_v4.host if facts.public_v4 is not None else _WAN[side]
        routers.append(
            Router(
                f"router-{side}{layer}",
                f"lan-{side}" if layer == 0 else f"carrier-{side}{layer}",
                wan if is_last else f"100.64.{layer}.{2 if side == 'a' else 3}",
                INTERNET if is_last else f"carrier-{side}{layer + 1}",
                nat=hard if facts.mapping_varies and is_last else easy,
                firewall4=shut,
                firewall6=replace(STATEFUL, udp=not blocked),
                port_mapping=tuple(sorted(facts.port_mapping)) if layer == 0 else (),
            )
        )
    return tuple(routers)


def _joined(topology: Topology, outcome: _Outcome) -> Topology:
    """Both ends behind the first one's outermost router: on one LAN, or kept apart behind it."""
    chain_a, chain_b = topology.chain("a"), topology.chain("b")
    if not chain_a or not chain_b:
        return topology
    together = outcome.on_one_lan and not (len(chain_a) > 1 and len(chain_b) > 1)
    hairpin = outcome.is_direct and not outcome.on_one_lan
    outer = chain_a[-1]
    routers = [
        replace(one, nat=one.nat and replace(one.nat, hairpin=hairpin)) if one is outer else one
        for one in topology.routers
        if one is not chain_b[-1]
    ]
    topology = replace(topology, routers=tuple(routers))
    if len(chain_b) > 1:  # homes of one carrier
        return topology.with_router(chain_b[-2].name, lambda one: replace(one, outside=outer.inside))
    segment = outer.inside

    def move(host: Host) -> Host:
        return replace(host, interfaces=tuple(replace(foot, segment=segment) for foot in host.interfaces))

    topology = topology.with_host("b", move)
    return topology if together else replace(topology, isolated=(segment,))
