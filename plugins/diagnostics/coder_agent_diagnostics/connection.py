"""What may be wrong with the connection, as Coder groups it: in general, at the client, at the agent.

The verdict says which of these *is* the cause; this list is complete, whether it matters now or not.
Source: coder cli/cliui/agent.go (ConnDiagnostics). Its look at AWS's address ranges is left out: it needs the Internet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from coder_agent.base.nat_facts import SAFE_MTU, PathReport
from coder_agent.base.path_rules import DirectRule, PathRules
from coder_agent.verdict.model import udp_works
from coder_agent.verdict.situation import Situation

Group = Literal["general", "client", "agent"]


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One thing that may be wrong. `code` is stable."""

    group: Group
    code: str
    text: str


def diagnose(situation: Situation) -> list[Diagnostic]:
    """Everything that may be wrong, in Coder's order."""
    found: list[Diagnostic] = []
    if situation.rules_deployment.direct is DirectRule.NEVER:
        text = f"direct connections are forbidden by {situation.rules_deployment.set_by or 'the deployment'}"
        found.append(Diagnostic("general", "blocked_by_admin", text))
    if not situation.relay.has_stun:
        text = "the relay map has no STUN server: nodes behind NAT cannot learn their public address"
        found.append(Diagnostic("general", "no_stun", text))
    if situation.local.too_small or (situation.remote is not None and situation.remote.too_small):
        text = "packets of full size are lost between both ends, small ones are not (MTU)"
        found.append(Diagnostic("general", "mtu_black_hole", text))
    found += _end("client", "your", situation.local, situation.rules_here)
    if situation.remote is not None:
        found += _end("agent", "the workspace's", situation.remote, situation.rules_there)
    else:
        text = "the workspace's program does not tell about its network (stock, or an older version)"
        found.append(Diagnostic("agent", "unknown", text))
    return found


def _end(group: Group, whose: str, report: PathReport, rules: PathRules) -> list[Diagnostic]:
    facts = report.facts
    found: list[Diagnostic] = []
    if 0 < facts.mtu < SAFE_MTU:
        text = f"{whose} network interface has a low MTU ({facts.mtu}, below {SAFE_MTU}): packets may be lost or slow"
        found.append(Diagnostic(group, "low_mtu", text))
    if facts.direct_allowed is False or rules.direct is DirectRule.NEVER:
        rule = rules.set_by or facts.direct_rule
        text = f"direct connections are disabled at {whose} end{f' ({rule})' if rule else ''}"
        found.append(Diagnostic(group, "direct_disabled", text))
    if udp_works(report, facts) is False:
        found.append(Diagnostic(group, "no_udp", f"{whose} network lets no UDP through to any STUN server"))
    if facts.mapping_varies:
        text = f"{whose} network gives each destination another port (hard NAT)"
        found.append(Diagnostic(group, "hard_nat", text))
    return found


def lines_of(diagnostics: list[Diagnostic]) -> list[str]:
    """For people, by group."""
    titles: dict[Group, str] = {"general": "In general", "client": "At your end", "agent": "At the workspace"}
    lines: list[str] = []
    for group, title in titles.items():
        texts = [one.text for one in diagnostics if one.group == group]
        if texts:
            lines += [f"{title}:", *(f"  ❗ {text}" for text in texts)]
    return lines


def documents(diagnostics: list[Diagnostic]) -> list[dict[str, str]]:
    """For programs."""
    return [{"group": one.group, "code": one.code, "text": one.text} for one in diagnostics]
