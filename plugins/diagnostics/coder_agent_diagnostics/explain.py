"""A verdict in lines: what carries the packets, why, on what evidence, and what would make it better."""

from __future__ import annotations

from collections.abc import Mapping

from coder_agent.base.paths import PathKind
from coder_agent.cli.durations import format_latency
from coder_agent.node import PathStatus
from coder_agent.verdict.fixes import Where
from coder_agent.verdict.model import is_private
from coder_agent.verdict.situation import Verdict


def headline(status: PathStatus, region_name: str) -> str:
    """One sentence: direct, or through which relay."""
    latency = f" ({format_latency(status.latency)})" if status.latency is not None else ""
    if status.kind is PathKind.DIRECT and status.addr is not None:
        private = " over a private network" if is_private(status.addr) else ""
        return f"✔ you are connected directly (p2p){private} to {status.addr}{latency}"
    if status.kind is PathKind.RELAYED:
        return f"❗ you are connected through the relay {region_name}, not directly (p2p){latency}"
    return "❗ there is no way to the workspace at the moment"


def evidence_lines(verdict: Verdict) -> list[str]:
    """Everything the verdict rests on, who said it in front."""
    who = {Where.HERE: "here", Where.THERE: "there", Where.PATH: "between", Where.DEPLOYMENT: "deployment"}
    return [f"  {who[one.where]:<10}  {one.text}" for one in verdict.evidence]


def counter_lines(counters: Mapping[str, int]) -> list[str]:
    """What our node sent, received and dropped; the names are those of the JSON."""
    return ["Counters:", *(f"  {name:<36} {count}" for name, count in sorted(counters.items()))] if counters else []


def verdict_lines(verdict: Verdict) -> list[str]:
    """The cause, and what to do about it."""
    lines = [f"{verdict.summary} [{verdict.code}]"]
    if verdict.also:
        lines.append(f"  also: {', '.join(verdict.also)}")
    if len(verdict.fixes) == 1:
        lines.append(f"  this makes it direct: {verdict.fixes[0].text}")
    elif verdict.fixes:
        lines += ["  each of these makes it direct:", *(f"    • {remedy.text}" for remedy in verdict.fixes)]
    if verdict.next_step:
        lines.append(f"  {verdict.next_step}")
    return lines
