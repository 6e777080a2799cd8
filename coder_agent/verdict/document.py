"""Verdicts, reports and situations as JSON documents, both ways.

Writing gives what `json.dumps` takes; reading checks every type and bound and raises RemoteProtocolError with the place
of the first fault. Field names are stable; unknown ones are ignored. Endpoints are ``ip:port`` / ``[ip]:port``, times
seconds, sizes bytes; null (or absence) = not known.
"""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum

from ..base.addresses import AddrPort
from ..base.nat_facts import NatFacts, PathReport
from ..base.path_rules import DirectRule, PathRules
from ..base.paths import PathKind
from .causes import Cause
from .fields import Fields
from .fixes import Fix, FixCode, Remedy, Where
from .situation import Attempt, Evidence, Region, RelayFacts, Situation, Verdict

Document = dict[str, object]


def _plain(value: object) -> object:
    """A value of ours as JSON has it."""
    if isinstance(value, AddrPort | StrEnum):
        return str(value)
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value


def _document(value: object) -> Document:
    """A dataclass of ours as a JSON object, field by field."""
    plain = _plain(asdict(value))  # type: ignore[call-overload]  # only dataclasses come here
    assert isinstance(plain, dict)
    return plain


# ------------------------------------------------------------ one end's facts and report


def facts_to_document(facts: NatFacts) -> Document:
    """One end's network."""
    return _document(facts)


def facts_from_document(document: object, where: str = "facts") -> NatFacts:
    """Read `facts_to_document`'s."""
    fields = Fields(document, where)
    return NatFacts(
        udp=fields.maybe("udp"),
        ipv4=fields.maybe("ipv4"),
        ipv6=fields.maybe("ipv6"),
        mapping_varies=fields.maybe("mapping_varies"),
        port_step=fields.number("port_step"),
        public_v4=fields.addr("public_v4"),
        public_v6=fields.addr("public_v6"),
        port_mapping=frozenset(fields.texts("port_mapping")),
        port_mapped=fields.maybe("port_mapped"),
        gateway_asked=fields.maybe("gateway_asked"),
        captive_portal=fields.maybe("captive_portal"),
        mtu=fields.number("mtu"),
        direct_allowed=fields.maybe("direct_allowed"),
        direct_rule=fields.text("direct_rule"),
        listen_port=fields.number("listen_port"),
        nat_layers=fields.number("nat_layers"),
    )


def report_to_document(report: PathReport) -> Document:
    """One end's account of its search."""
    return _document(report)


def report_from_document(document: object, where: str = "report") -> PathReport:
    """Read `report_to_document`'s."""
    fields = Fields(document, where)
    return PathReport(
        facts=facts_from_document(fields.get("facts") or {}, f"{where}.facts"),
        sent=fields.number("sent"),
        answered=fields.number("answered"),
        seen=fields.number("seen"),
        tried=fields.addrs("tried"),
        seen_from=fields.addrs("seen_from"),
        is_direct=fields.flag("is_direct"),
        too_small=fields.flag("too_small"),
    )


# ------------------------------------------------------------ situation


def situation_to_document(situation: Situation) -> Document:
    """Everything that was judged."""
    return _document(situation)


def situation_from_document(document: object, where: str = "situation") -> Situation:
    """Read `situation_to_document`'s."""
    fields = Fields(document, where)
    remote = fields.get("remote")
    return Situation(
        local=report_from_document(fields.get("local") or {}, f"{where}.local"),
        remote=None if remote is None else report_from_document(remote, f"{where}.remote"),
        kind=fields.code("kind", PathKind, PathKind.NONE),
        addr=fields.addr("addr"),
        socket=fields.number("socket"),
        region=fields.number("region"),
        latency=fields.real("latency"),
        wire_mtu=fields.number("wire_mtu"),
        attempts=fields.items("attempts", _attempt),
        published=fields.addrs("published"),
        own=fields.addrs("own"),
        relay=_relay(fields.get("relay") or {}, f"{where}.relay"),
        rules_here=_rules(fields.get("rules_here") or {}, f"{where}.rules_here"),
        rules_there=_rules(fields.get("rules_there") or {}, f"{where}.rules_there"),
        rules_deployment=_rules(fields.get("rules_deployment") or {}, f"{where}.rules_deployment"),
        searching=fields.real("searching"),
        birthday=fields.flag("birthday"),
        peer_known=fields.flag("peer_known", True),
    )


def _attempt(document: object, where: str) -> Attempt:
    fields = Fields(document, where)
    return Attempt(
        addr=fields.addr("addr") or AddrPort("0.0.0.0", 0),
        sources=fields.texts("sources"),
        sent=fields.number("sent"),
        answered=fields.number("answered"),
        latency=fields.real("latency"),
        wire_mtu=fields.number("wire_mtu"),
        trouble=fields.text("trouble"),
    )


def _relay(document: object, where: str) -> RelayFacts:
    fields = Fields(document, where)
    return RelayFacts(
        has_stun=fields.flag("has_stun", True),
        regions=fields.items("regions", _region),
        home_here=fields.number("home_here"),
        home_there=fields.number("home_there"),
        connected=fields.maybe("connected"),
    )


def _region(document: object, where: str) -> Region:
    fields = Fields(document, where)
    return Region(fields.number("id"), fields.text("name"), fields.real("latency"))


def _rules(document: object, where: str) -> PathRules:
    fields = Fields(document, where)
    return PathRules(
        direct=fields.code("direct", DirectRule, DirectRule.AUTO),
        prefer_region=fields.number("prefer_region"),
        ipv6=fields.flag("ipv6", True),
        set_by=fields.text("set_by"),
    )


# ------------------------------------------------------------ verdict


def to_document(verdict: Verdict) -> Document:
    """A verdict: ``code``, ``path`` (direct | relayed | none), ``summary``, ``evidence``, ``also``, ``fixes``,
    ``next_step``. Each of `fixes` suffices; its ``all_of`` are to be done together."""
    return {
        "code": verdict.code.value,
        "path": verdict.kind.value,
        "summary": verdict.summary,
        "evidence": [{"where": one.where.value, "text": one.text} for one in verdict.evidence],
        "also": [cause.value for cause in verdict.also],
        "fixes": [
            {"text": remedy.text, "all_of": [_plain(asdict(fix)) for fix in remedy.all_of]} for remedy in verdict.fixes
        ],
        "next_step": verdict.next_step or None,
    }


def from_document(document: object, where: str = "verdict") -> Verdict:
    """Read `to_document`'s."""
    fields = Fields(document, where)
    return Verdict(
        code=fields.code("code", Cause, Cause.UNKNOWN),
        kind=fields.code("path", PathKind, PathKind.NONE),
        summary=fields.text("summary"),
        evidence=fields.items("evidence", _evidence),
        also=fields.items("also", lambda value, at: Fields({"": value}, at).code("", Cause, Cause.UNKNOWN)),
        fixes=fields.items("fixes", _remedy),
        next_step=fields.text("next_step"),
    )


def _evidence(document: object, where: str) -> Evidence:
    fields = Fields(document, where)
    return Evidence(fields.code("where", Where, Where.HERE), fields.text("text"))


def _remedy(document: object, where: str) -> Remedy:
    return Remedy(Fields(document, where).items("all_of", _fix))


def _fix(document: object, where: str) -> Fix:
    fields = Fields(document, where)
    return Fix(
        fields.code("code", FixCode, FixCode.OPEN_PORT), fields.code("where", Where, Where.PATH), fields.text("text")
    )
