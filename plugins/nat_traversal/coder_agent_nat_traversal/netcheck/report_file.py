"""What a check found as the situation that a verdict is about, and as a file that `coder lab replay` reads."""

from __future__ import annotations

import json
from pathlib import Path

from coder_agent.base.addresses import AddrPort
from coder_agent.base.nat_facts import PathReport
from coder_agent.errors import ConfigError
from coder_agent.verdict.report_file import report_document
from coder_agent.verdict.situation import Region, RelayFacts, Situation

from ..plan import stun_port
from .report import NetcheckReport


def situation_of(report: NetcheckReport) -> Situation:
    """This end's part; there is no peer. Our endpoints are as a node would publish them: outside ones, then local."""
    facts = report.facts
    port = facts.public_v4.port if facts.public_v4 is not None else 0
    local = (AddrPort.of(text.partition("/")[0], port) for text in _local_addresses(report))
    outside = (addr for addr in (facts.public_v4, facts.public_v6) if addr is not None)
    regions = tuple(
        Region(number, region.region_name or region.region_code, report.latency(number))
        for number, region in sorted(report.derp_map.regions.items())
    )
    return Situation(
        local=PathReport(facts),
        own=tuple(dict.fromkeys((*outside, *local))),
        relay=RelayFacts(
            has_stun=any(stun_port(node.node) is not None for node in report.nodes),
            regions=regions,
            home_here=report.home,
            connected=report.relayed,
        ),
    )


def write_report(report: NetcheckReport, path: Path, *, redacted: bool) -> None:
    """Write the file. `redacted`: without an address, a name or a key. Raises ConfigError."""
    document = report_document(situation_of(report), made_by="coder netcheck", redacted=redacted)
    try:
        path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write the report to {path}: {error.strerror}") from error


def _local_addresses(report: NetcheckReport) -> list[str]:
    found = [text for each in report.interfaces if not each.is_loopback for text in each.addresses]
    return [text for text in found if not text.startswith("fe80:")]
