"""From everything that is known about a path to one primary cause, its evidence, and fixes that suffice.

The questions of `_CAUSES` are asked in order; the first that is answered is the primary cause. What somebody decided
comes before what a network does, what both ends can prove before what is concluded, and what hides everything else
(no UDP) before what could only be seen without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..base.addresses import AddrPort
from ..base.path_rules import DirectRule
from ..base.paths import PathKind
from .causes import Cause
from .evidence import evidence_of
from .fixes import Where
from .model import (
    FULL_PACKET,
    End,
    Net,
    guessed_facts,
    is_private,
    is_public,
    net_of,
    only_small_packets_pass,
)
from .remedies import Words, fix_of, indispensable, remedies_for
from .situation import Situation, Verdict

SEARCH_TIME = 12.0
"""Seconds until a search that found nothing says something: three rounds of pings, 5 s apart, and the answers."""
GUESSED = frozenset(["birthday", "prediction"])
"""Sources of addresses that nobody named."""


@dataclass(frozen=True, slots=True)
class _Case:
    """A situation with what was concluded from it."""

    situation: Situation
    net: Net
    there: str

    def end(self, where: Where) -> End:
        return self.net.end(where)


@dataclass(frozen=True, slots=True)
class _Answer:
    """A cause, and the rest of the sentence that begins with "relayed:"."""

    cause: Cause
    because: str


def judge(situation: Situation, there: str = "the workspace") -> Verdict:
    """Why is this path what it is? `there` names the peer in the texts."""
    if situation.kind is PathKind.DIRECT:
        return _direct(situation, there)
    case = _Case(situation, net_of(situation), there)
    answers = [answer for ask in _CAUSES if (answer := ask(case)) is not None]
    primary = answers[0]
    also = tuple(dict.fromkeys(one.cause for one in answers[1:] if one.cause in _WORTH_KNOWING))
    words = _words(situation, there)
    fixes = remedies_for(case.net, words) if primary.cause in _FIXABLE else ()
    return Verdict(
        code=primary.cause,
        kind=situation.kind,
        summary=f"{'relayed' if situation.kind is PathKind.RELAYED else 'no path'}: {primary.because}",
        evidence=evidence_of(situation, there),
        also=also,
        fixes=fixes,
        next_step=_next_step(case, primary.cause, words) if not any(len(fix.all_of) == 1 for fix in fixes) else "",
    )


def _words(situation: Situation, there: str) -> Words:
    remote = situation.remote.facts if situation.remote is not None else guessed_facts(situation.published)
    local = situation.local.facts
    deployment = situation.rules_deployment
    rule_here = situation.rules_here.set_by or local.direct_rule or deployment.set_by
    rule_there = situation.rules_there.set_by or remote.direct_rule or deployment.set_by
    is_one_rule = deployment.direct is DirectRule.NEVER and rule_here == rule_there == deployment.set_by
    return Words(
        there=there,
        rule_here=rule_here,
        rule_there=rule_there,
        rule_deployment=deployment.set_by if is_one_rule else "",
        port_here=local.listen_port,
        port_there=remote.listen_port,
        outside_here=local.public_v4.host if local.public_v4 is not None else "",
    )


def _next_step(case: _Case, cause: Cause, words: Words) -> str:
    """What has to be done in any case, where no single change can be promised to suffice."""
    match cause:
        case Cause.CAPTIVE_PORTAL:
            return "log in to this network with a browser, then ask again"
        case Cause.STILL_SEARCHING | Cause.BIRTHDAY_RUNNING:
            return "wait some seconds, then ask again"
        case Cause.NO_RELAY_SIGNALLING:
            return "see `coder netcheck` for which relays can be reached from here"
        case Cause.PEER_GONE:
            return f"see whether the agent of {case.there} runs"
        case Cause.PEER_IS_STOCK_UNKNOWN | Cause.UNKNOWN | Cause.PEER_PUBLISHES_NOTHING:
            return f"run `coder netcheck` at {case.there}, too"
        case Cause.NO_STUN:
            return "first add a STUN server to the relay map: without it neither end knows its public address"
        case Cause.QUALITY_PREFERS_RELAY:
            return "nothing: the direct path is taken again when it measures better than the relay"
    for step in indispensable(case.net):
        return f"first {fix_of(step, words).text}: nothing else helps before that"
    return ""


# ------------------------------------------------------------ direct


def _direct(situation: Situation, there: str) -> Verdict:
    cause, means = _means(situation, there)
    return Verdict(cause, situation.kind, f"direct: {means}", evidence_of(situation, there))


def _means(situation: Situation, there: str) -> tuple[Cause, str]:
    addr = situation.addr
    local = situation.local.facts
    remote = situation.remote.facts if situation.remote is not None else guessed_facts(situation.published)
    if addr is None:
        return Cause.DIRECT_PUBLIC, "packets go straight to the other machine"
    if is_private(addr) or _is_our_interface(addr, situation):
        return Cause.DIRECT_LAN, f"both ends share a network ({addr.host})"
    if addr.is_ipv6:
        return Cause.DIRECT_IPV6, "over IPv6, without address translation"
    sources = next((one.sources for one in situation.attempts if one.addr == addr), ())
    if situation.socket or GUESSED & set(sources):
        return Cause.DIRECT_BIRTHDAY, "through a port of a symmetric NAT that was found by trying many"
    for facts, whose in ((local, "your"), (remote, f"{there}'s")):
        if facts.port_mapped and facts.nat_layers < 2:
            return Cause.DIRECT_PORT_MAPPED, f"through a port that {whose} router opened (UPnP, NAT-PMP or PCP)"
    if not is_public(situation.own) and not is_public(situation.published):
        return Cause.DIRECT_PUNCHED, "both ends opened their routers to each other by pinging at the same time"
    return Cause.DIRECT_PUBLIC, f"to {addr}, without a NAT at one end at least"


def _is_our_interface(addr: AddrPort, situation: Situation) -> bool:
    """Does the peer answer at an address that this machine has itself? Then it runs here. What STUN saw does not count:
    behind a NAT that is the router's, and the peer is another guest of it."""
    outside = situation.local.facts.public_v4
    return addr.host in {own.host for own in situation.own} and (outside is None or addr.host != outside.host)


# ------------------------------------------------------------ decided by somebody


def _peer_gone(case: _Case) -> _Answer | None:
    if case.situation.peer_known:
        return None
    return _Answer(Cause.PEER_GONE, f"the server names {case.there} no more; its agent left or restarted")


def _rule_of_deployment(case: _Case) -> _Answer | None:
    rules = case.situation.rules_deployment
    if rules.direct is not DirectRule.NEVER:
        return None
    return _Answer(
        Cause.BLOCKED_BY_DEPLOYMENT,
        f"{rules.set_by or 'the deployment'} forbids direct connections (a rule of the server)",
    )


def _rule_here(case: _Case) -> _Answer | None:
    rules, facts = case.situation.rules_here, case.situation.local.facts
    if rules.direct is not DirectRule.NEVER and facts.direct_allowed is not False:
        return None
    return _Answer(
        Cause.BLOCKED_BY_RULE_HERE, f"direct connections are disabled here ({_rule(rules.set_by, facts.direct_rule)})"
    )


def _rule_there(case: _Case) -> _Answer | None:
    rules, remote = case.situation.rules_there, case.situation.remote
    if rules.direct is not DirectRule.NEVER and (remote is None or remote.facts.direct_allowed is not False):
        return None
    rule = _rule(rules.set_by, remote.facts.direct_rule if remote is not None else "")
    return _Answer(Cause.BLOCKED_BY_RULE_THERE, f"direct connections are disabled at {case.there} ({rule})")


def _rule(set_by: str, words: str) -> str:
    return set_by or words or "by a rule"


def _quality(case: _Case) -> _Answer | None:
    proven = [attempt for attempt in case.situation.attempts if attempt.answered and attempt.wire_mtu >= FULL_PACKET]
    worse = next((attempt for attempt in proven if "relay" in attempt.trouble), None)
    if worse is None:
        return None
    return _Answer(Cause.QUALITY_PREFERS_RELAY, f"the direct path to {worse.addr} works, but is {worse.trouble}")


# ------------------------------------------------------------ proven by the ends


def _no_relay(case: _Case) -> _Answer | None:
    if case.situation.relay.connected is not False:
        return None
    return _Answer(
        Cause.NO_RELAY_SIGNALLING, "no relay can be reached, and without one the ends cannot agree on when to ping"
    )


def _captive_portal(case: _Case) -> _Answer | None:
    facts = case.situation.local.facts
    if not facts.captive_portal or case.net.here.udp:
        return None
    return _Answer(
        Cause.CAPTIVE_PORTAL, "your network wants you to log in first (captive portal) and lets no UDP through"
    )


def _udp(case: _Case) -> _Answer | None:
    here, there = case.net.here.udp is False, case.net.there.udp is False
    if here and there:
        return _Answer(Cause.UDP_BLOCKED_BOTH, f"your network and {case.there}'s both block UDP")
    if here:
        return _Answer(Cause.UDP_BLOCKED_HERE, "your network blocks UDP")
    if there:
        return _Answer(Cause.UDP_BLOCKED_THERE, f"{case.there}'s network blocks UDP")
    return None


def _mtu(case: _Case) -> _Answer | None:
    for where, cause in ((Where.HERE, Cause.LOW_MTU_HERE), (Where.THERE, Cause.LOW_MTU_THERE)):
        if case.end(where).fits is False:
            report = case.situation.local if where is Where.HERE else case.situation.remote
            size = f" ({report.facts.mtu} bytes)" if report is not None else ""
            whose = "your network interface's" if where is Where.HERE else f"{case.there}'s network interface's"
            return _Answer(cause, f"{whose} MTU{size} is too small for full-size packets")
    return None


def _mtu_between(case: _Case) -> _Answer | None:
    if not only_small_packets_pass(case.situation):
        return None
    return _Answer(
        Cause.LOW_MTU_PATH, "small packets pass between both ends, full-size ones vanish on the way (MTU black hole)"
    )


def _families(case: _Case) -> _Answer | None:
    here, there = case.net.here, case.net.there
    v4 = here.v4 and there.v4
    if v4 or (here.v6 and there.v6) or not (here.udp and there.udp):
        return None
    if not here.v4:
        return _Answer(Cause.NO_COMMON_FAMILY, f"your network has only IPv6, {case.there}'s only IPv4")
    return _Answer(Cause.NO_COMMON_FAMILY, f"your network has only IPv4, {case.there}'s only IPv6")


# ------------------------------------------------------------ concluded


_NO_STUN = _Answer(
    Cause.NO_STUN, "the relay map has no STUN server, so that nodes behind NAT cannot learn their public addresses"
)


def _no_stun(case: _Case) -> _Answer | None:
    """Who has no NAT, IPv6, or a router that tells its address, needs no STUN…"""
    here, there, situation = case.net.here, case.net.there, case.situation
    known = is_public(situation.own) or is_public(situation.published) or here.mapped or there.mapped
    return None if case.net.stun or known or (here.v6 and there.v6) else _NO_STUN


def _no_stun_all_the_same(case: _Case) -> _Answer | None:
    """…unless a firewall wants to be opened to an address that nobody knows."""
    return None if case.net.stun else _NO_STUN


def _searching(case: _Case) -> _Answer | None:
    situation = case.situation
    if situation.birthday:
        return _Answer(Cause.BIRTHDAY_RUNNING, "the port of a symmetric NAT is being searched for (birthday probing)")
    if situation.searching is not None and situation.searching < SEARCH_TIME:
        return _Answer(Cause.STILL_SEARCHING, f"the search for a direct path began {situation.searching:.0f} s ago")
    return None


def _same_nat(case: _Case) -> _Answer | None:
    if not case.net.behind_one_nat:
        return None
    public = case.situation.local.facts.public_v4
    return _Answer(
        Cause.SAME_NAT_NO_HAIRPIN,
        f"you and {case.there} are behind the same router{f' ({public.host})' if public else ''}, in networks that do "
        "not reach each other, and it does not turn packets back inside (no hairpinning)",
    )


_HARD = "gives each destination a different port (symmetric NAT)"


def _hard_nats(case: _Case) -> _Answer | None:
    here, there = case.net.here.varies, case.net.there.varies
    if here and there:
        return _Answer(Cause.HARD_NAT_BOTH, f"your network {_HARD}, and so does {case.there}'s")
    if here and there is False:
        return _Answer(
            Cause.HARD_NAT_HERE_STRICT_THERE,
            f"your network {_HARD} and {case.there}'s firewall drops UDP from unknown ports",
        )
    if there and here is False:
        return _Answer(
            Cause.HARD_NAT_THERE_STRICT_HERE,
            f"{case.there}'s network {_HARD} and your firewall drops UDP from unknown ports",
        )
    return None


def _stock(case: _Case) -> _Answer | None:
    if case.situation.remote is not None:
        return None
    if not case.situation.published:
        return _Answer(
            Cause.PEER_PUBLISHES_NOTHING,
            f"{case.there} publishes no address that could be tried (direct connections disabled there, or no UDP)",
        )
    return _Answer(
        Cause.PEER_IS_STOCK_UNKNOWN,
        f"nothing in your network explains it, and the program of {case.there} does not tell about its own",
    )


def _filtered(case: _Case) -> _Answer | None:
    here, there = case.net.here, case.net.there
    if case.net.passes or not (here.udp and there.udp):
        return None
    return _Answer(
        Cause.UDP_FILTERED_BETWEEN,
        "both ends reach STUN servers, but what they send to each other is dropped by a firewall",
    )


def _unknown(case: _Case) -> _Answer:
    return _Answer(Cause.UNKNOWN, "what is known does not explain it")


_CAUSES: tuple[Callable[[_Case], _Answer | None], ...] = (
    _peer_gone,
    _rule_of_deployment,
    _rule_here,
    _rule_there,
    _no_relay,
    _quality,
    _no_stun,
    _captive_portal,
    _udp,
    _mtu,
    _families,
    _mtu_between,
    _no_stun_all_the_same,
    _searching,
    _same_nat,
    _hard_nats,
    _stock,
    _filtered,
    _unknown,
)

_WORTH_KNOWING = frozenset(
    [
        Cause.BLOCKED_BY_RULE_HERE,
        Cause.BLOCKED_BY_RULE_THERE,
        Cause.UDP_BLOCKED_HERE,
        Cause.UDP_BLOCKED_THERE,
        Cause.UDP_BLOCKED_BOTH,
        Cause.LOW_MTU_HERE,
        Cause.LOW_MTU_THERE,
        Cause.LOW_MTU_PATH,
        Cause.NO_STUN,
        Cause.SAME_NAT_NO_HAIRPIN,
        Cause.HARD_NAT_BOTH,
        Cause.HARD_NAT_HERE_STRICT_THERE,
        Cause.HARD_NAT_THERE_STRICT_HERE,
    ]
)
"""Causes that are problems of their own, also where another is graver."""

_FIXABLE = _WORTH_KNOWING | {
    Cause.BLOCKED_BY_DEPLOYMENT,
    Cause.NO_COMMON_FAMILY,
    Cause.UDP_FILTERED_BETWEEN,
    Cause.PEER_IS_STOCK_UNKNOWN,
}
