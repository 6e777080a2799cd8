"""The observations behind a verdict, as lines for people: both networks, every attempt that matters, map and rules."""

from __future__ import annotations

from ..base.nat_facts import NatFacts, PathReport
from ..base.path_rules import DirectRule
from .fixes import Where
from .situation import Attempt, Evidence, Situation

MAX_ATTEMPTS = 12
"""Attempts that are told one by one; the rest is counted."""


def evidence_of(situation: Situation, there: str) -> tuple[Evidence, ...]:
    """All lines, in the order in which they are read."""
    lines = [Evidence(Where.HERE, f"your network: {_facts(situation.local.facts)}")]
    if situation.remote is not None:
        lines.append(Evidence(Where.THERE, f"{there}'s network: {_facts(situation.remote.facts)}"))
    else:
        lines.append(Evidence(Where.THERE, f"{there} did not tell about its network (an older or a stock program)"))
    lines += [Evidence(Where.PATH, text) for text in _pings(situation, there)]
    lines += [Evidence(Where.PATH, text) for text in _attempts(situation.attempts)]
    if not situation.published:
        lines.append(Evidence(Where.THERE, f"{there} publishes no endpoint"))
    if not situation.relay.has_stun:
        lines.append(Evidence(Where.DEPLOYMENT, "the relay map has no STUN server"))
    return (*lines, *_rules(situation))


def _facts(facts: NatFacts) -> str:
    said = [
        {True: "UDP works", False: "no STUN server answered (no UDP)"}.get(facts.udp, "UDP not tested"),  # type: ignore[arg-type]
        {True: "each destination sees another port", False: "all destinations see the same port"}.get(
            facts.mapping_varies,  # type: ignore[arg-type]
            "",
        ),
        f"seen from outside as {facts.public_v4}" if facts.public_v4 else "",
        f"and as {facts.public_v6}" if facts.public_v6 else "",
        {True: "IPv6 works", False: "no IPv6"}.get(facts.ipv6, ""),  # type: ignore[arg-type]
        _router(facts),
        f"behind {facts.nat_layers} NATs in a row" if facts.nat_layers > 1 else "",
        "a captive portal answers" if facts.captive_portal else "",
        f"MTU {facts.mtu}" if facts.mtu else "",
        f"direct connections disabled ({facts.direct_rule or 'by a rule'})" if facts.direct_allowed is False else "",
    ]
    return "; ".join(text for text in said if text)


def _router(facts: NatFacts) -> str:
    if facts.port_mapping:
        opened = "opened a port by" if facts.port_mapped else "speaks"
        return f"the router {opened} {', '.join(sorted(facts.port_mapping))}"
    return "the router opens no ports on request" if facts.gateway_asked else ""


def _pings(situation: Situation, there: str) -> list[str]:
    local, remote = situation.local, situation.remote
    sent = f"you sent {_count(local.sent, 'ping')} over UDP: {local.answered} answered"
    if remote is not None:
        sent += f", {remote.seen} arrived{_sources(remote)}"
    lines = [sent]
    if remote is not None:
        back = f"{there} sent {_count(remote.sent, 'ping')}: {remote.answered} answered, {local.seen} arrived here"
        lines.append(back + _sources(local))
    elif local.seen:
        lines.append(f"{_count(local.seen, 'ping')} of {there} arrived here{_sources(local)}")
    return lines


def _sources(report: PathReport) -> str:
    return f" (from {', '.join(map(str, report.seen_from))})" if report.seen_from else ""


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _attempts(attempts: tuple[Attempt, ...]) -> list[str]:
    # What answered is told first, then what was tried hardest.
    ranked = sorted(attempts, key=lambda one: (-one.answered, -one.sent, one.addr))
    lines = [_attempt(one) for one in ranked[:MAX_ATTEMPTS]]
    rest = ranked[MAX_ATTEMPTS:]
    if rest:
        lines.append(f"{_count(len(rest), 'more address')[:-1]}es tried: {sum(one.sent for one in rest)} pings sent")
    return lines


def _attempt(attempt: Attempt) -> str:
    named = f" (named by {', '.join(attempt.sources)})" if attempt.sources else ""
    latency = f", {attempt.latency * 1e3:.1f} ms" if attempt.latency is not None else ""
    size = f", up to {attempt.wire_mtu} bytes" if attempt.wire_mtu else ""
    why = f": {attempt.trouble}" if attempt.trouble else ""
    return (
        f"tried {attempt.addr}{named}: {_count(attempt.sent, 'ping')}, {attempt.answered} answered{latency}{size}{why}"
    )


def _rules(situation: Situation) -> list[Evidence]:
    lines: list[Evidence] = []
    for rules, where, whose in (
        (situation.rules_deployment, Where.DEPLOYMENT, "the deployment"),
        (situation.rules_here, Where.HERE, "this end"),
        (situation.rules_there, Where.THERE, "the other end"),
    ):
        who = rules.set_by or whose
        if rules.direct is not DirectRule.AUTO:
            often = "never" if rules.direct is DirectRule.NEVER else "only"
            lines.append(Evidence(where, f"{who}: direct connections {often}"))
        if not rules.ipv6:
            lines.append(Evidence(where, f"{who}: no IPv6"))
    return lines
