"""The report file: one situation, written down to be sent to somebody who was not there, and judged or replayed.

`coder netcheck --report` writes this end's part (no peer), `coder ping --report` both ends'; `coder lab replay` reads
either. A redacted report holds no address, name or key of the original, yet leads to the same verdict.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network

from ..base.addresses import AddrPort
from ..base.nat_facts import NatFacts, PathReport
from ..base.path_rules import PathRules
from ..errors import RemoteProtocolError
from .alone import ORDINARY_PEER, is_alone, with_peer
from .document import Document, situation_from_document, situation_to_document, to_document
from .fields import Fields
from .judge import judge
from .situation import Attempt, Situation, Verdict

FORMAT = "coder-network-report"
VERSION = 1
_KNOWN_WORDS = frozenset(
    [
        *("coordinator", "call-me-maybe", "ping", "birthday", "prediction", "mdns", "source"),
        *("no answer", "waiting for an answer", "not tried yet", "another path is better", "host unreachable"),
        *(
            "only small packets pass: its MTU is too low",
            "packets too big for the local link",
            "direct paths are not allowed",
        ),
    ]
)
"""Words of ours in attempts; all others may name somebody."""
_OTHER = "other"


def report_document(situation: Situation, *, made_by: str, redacted: bool = True) -> Document:
    """The file's content, for `json.dumps`. `made_by` is the command that asked."""
    if redacted:
        situation = redact(situation)
    return {
        "format": FORMAT,
        "version": VERSION,
        "made_by": made_by,
        "redacted": redacted,
        "situation": situation_to_document(situation),
        "verdict": to_document(judge_report(situation)),
    }


def situation_of_report(document: object) -> Situation:
    """What a report file says. Raises RemoteProtocolError: not a report, a version from the future, a wrong field."""
    fields = Fields(document, "report")
    if fields.get("format") != FORMAT:
        raise RemoteProtocolError(f"this is no network report: its format is not {FORMAT!r}")
    if fields.number("version") != VERSION:
        raise RemoteProtocolError(
            f"the report has version {fields.number('version')}; this program reads version {VERSION}"
        )
    return situation_from_document(fields.get("situation"), "report.situation")


def judge_report(situation: Situation) -> Verdict:
    """The verdict of a report; somebody who is alone gets an ordinary peer."""
    return judge(with_peer(situation), ORDINARY_PEER) if is_alone(situation) else judge(situation)


# ------------------------------------------------------------ redaction


def redact(situation: Situation) -> Situation:
    """The same situation, but: each address is replaced by another of its class (the same by the same), regions
    are numbered, and words that may name somebody are left out."""
    original = _Placeholders()
    _redacted(situation, original)
    return _redacted(situation, _Placeholders(frozenset(original.seen)))


def _redacted(situation: Situation, names: _Placeholders) -> Situation:
    return replace(
        situation,
        local=_report(situation.local, names),
        remote=None if situation.remote is None else _report(situation.remote, names),
        addr=names.maybe(situation.addr),
        attempts=tuple(_attempt(attempt, names) for attempt in situation.attempts),
        published=names.all(situation.published),
        own=names.all(situation.own),
        relay=replace(
            situation.relay,
            regions=tuple(replace(region, name=f"region {region.id}") for region in situation.relay.regions),
        ),
        rules_here=_rules(situation.rules_here),
        rules_there=_rules(situation.rules_there),
        rules_deployment=_rules(situation.rules_deployment),
    )


_CLASSES = tuple(
    (ip_network(network), ip_address(first))
    for network, first in (
        ("127.0.0.0/8", "127.0.0.0"),
        ("169.254.0.0/16", "169.254.77.0"),
        ("10.0.0.0/8", "10.77.0.0"),
        ("172.16.0.0/12", "172.16.77.0"),
        ("192.168.0.0/16", "192.168.177.0"),
        ("100.64.0.0/10", "100.64.77.0"),
        ("0.0.0.0/0", "198.18.77.0"),
        ("fe80::/10", "fe80::77:0"),
        ("fc00::/7", "fd77::"),
        ("::/0", "2001:db8:77::"),
    )
)
"""Classes of addresses (RFC 1918, 3927, 4193, 6598; the rest is public), and what their placeholders count from."""


@dataclass(slots=True)
class _Placeholders:
    """Address to placeholder, in order of appearance. None of `avoid` is used: a placeholder must not happen to be an
    address of the original."""

    avoid: frozenset[str] = frozenset()
    seen: dict[str, str] = field(default_factory=dict)
    _numbers: dict[object, int] = field(default_factory=dict)

    def all(self, addrs: tuple[AddrPort, ...]) -> tuple[AddrPort, ...]:
        return tuple(AddrPort(self._host(addr.host), addr.port) for addr in addrs)

    def maybe(self, addr: AddrPort | None) -> AddrPort | None:
        return None if addr is None else AddrPort(self._host(addr.host), addr.port)

    def _host(self, host: str) -> str:
        if host not in self.seen:
            ip = ip_address(host)
            first = next(first for network, first in _CLASSES if network.version == ip.version and ip in network)
            placeholder = ""
            while not placeholder or placeholder in self.avoid:
                self._numbers[first] = number = self._numbers.get(first, 0) + 1
                placeholder = str(first + number)
            self.seen[host] = placeholder
        return self.seen[host]


def _facts(facts: NatFacts, names: _Placeholders) -> NatFacts:
    return replace(
        facts,
        public_v4=names.maybe(facts.public_v4),
        public_v6=names.maybe(facts.public_v6),
        direct_rule=_rule_words(facts.direct_rule),
    )


def _report(report: PathReport, names: _Placeholders) -> PathReport:
    return replace(
        report,
        facts=_facts(report.facts, names),
        tried=names.all(report.tried),
        seen_from=names.all(report.seen_from),
    )


def _attempt(attempt: Attempt, names: _Placeholders) -> Attempt:
    (addr,) = names.all((attempt.addr,))
    trouble = attempt.trouble if not attempt.trouble or attempt.trouble in _KNOWN_WORDS else _unknown(attempt.trouble)
    sources = tuple(source if source in _KNOWN_WORDS else _OTHER for source in attempt.sources)
    return replace(attempt, addr=addr, sources=sources, trouble=trouble)


def _unknown(trouble: str) -> str:
    """The judge asks whether a trouble has to do with the relay; nothing else of it is needed."""
    return "worse than the relay" if "relay" in trouble else _OTHER


def _rules(rules: PathRules) -> PathRules:
    return replace(rules, set_by=_rule_words(rules.set_by))


def _rule_words(words: str) -> str:
    """A flag is a word of ours; whose rule it is otherwise may be a name."""
    if words.startswith("--") and " " not in words and "=" not in words:
        return words
    return "the deployment" if words.startswith("the deployment") else "a rule" if words else ""
