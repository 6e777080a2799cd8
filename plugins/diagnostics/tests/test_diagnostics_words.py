"""What `coder ping` and `coder path` say, and what `coder lab replay` reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from coder_agent_diagnostics.connection import diagnose, documents, lines_of
from coder_agent_diagnostics.explain import headline, verdict_lines
from coder_agent_diagnostics.loss import Loss
from coder_agent_diagnostics.replay_cli import replay
from coder_agent_diagnostics.report import read_report, write_report

from coder_agent.base.addresses import AddrPort
from coder_agent.base.nat_facts import NatFacts, PathReport
from coder_agent.base.path_rules import DirectRule, PathRules
from coder_agent.base.paths import PathKind
from coder_agent.cli.output import Output
from coder_agent.errors import ConfigError
from coder_agent.node import PathStatus
from coder_agent.verdict.judge import judge
from coder_agent.verdict.situation import RelayFacts, Situation

BAD = NatFacts(udp=False, mapping_varies=True, mtu=1377, direct_allowed=False, direct_rule="a rule")
EVERYTHING = Situation(
    local=PathReport(BAD, too_small=True),
    remote=PathReport(BAD),
    kind=PathKind.RELAYED,
    relay=RelayFacts(has_stun=False),
    rules_deployment=PathRules(DirectRule.NEVER),
)


def test_all_of_coders_diagnostics_are_found_and_grouped() -> None:
    found = [(one.group, one.code) for one in diagnose(EVERYTHING)]
    ends = ["low_mtu", "direct_disabled", "no_udp", "hard_nat"]
    assert found == [
        ("general", "blocked_by_admin"),
        ("general", "no_stun"),
        ("general", "mtu_black_hole"),
        *(("client", code) for code in ends),
        *(("agent", code) for code in ends),
    ]
    lines = lines_of(diagnose(EVERYTHING))
    assert [line for line in lines if not line.startswith("  ")] == ["In general:", "At your end:", "At the workspace:"]
    assert documents(diagnose(EVERYTHING))[0].keys() == {"group", "code", "text"}


def test_a_healthy_pair_has_nothing_to_tell_and_a_stock_peer_is_named() -> None:
    good = PathReport(NatFacts(udp=True, mapping_varies=False, mtu=1378, direct_allowed=True))
    assert diagnose(Situation(local=good, remote=good)) == []
    assert [one.code for one in diagnose(Situation(local=good))] == ["unknown"]


def test_the_headline_names_path_and_latency() -> None:
    direct = PathStatus(kind=PathKind.DIRECT, addr=AddrPort("192.168.1.2", 5), latency=0.003)
    assert headline(direct, "") == "✔ you are connected directly (p2p) over a private network to 192.168.1.2:5 (3ms)"
    relayed = PathStatus(kind=PathKind.RELAYED, region=1)
    assert headline(relayed, "Rome") == "❗ you are connected through the relay Rome, not directly (p2p)"


def test_the_verdict_ends_with_what_to_do() -> None:
    hard = NatFacts(udp=True, ipv4=True, mapping_varies=True, mtu=1500)
    a, b = AddrPort("198.51.100.1", 1), AddrPort("203.0.113.1", 1)
    verdict = judge(
        Situation(
            local=PathReport(NatFacts(udp=True, ipv4=True, mapping_varies=True, mtu=1500, public_v4=a)),
            remote=PathReport(NatFacts(udp=True, ipv4=True, mapping_varies=True, mtu=1500, public_v4=b)),
            kind=PathKind.RELAYED,
            published=(b,),
        )
    )
    assert hard.mapping_varies
    lines = verdict_lines(verdict)
    assert lines[0].endswith("[hard_nat_both]")
    assert "    • open UDP 41641 on the workspace" in lines


def test_loss_is_that_of_the_last_twenty_pings() -> None:
    loss = Loss()
    assert (loss.rate, loss.is_losing) == (0.0, False)
    for _ in range(10):
        loss.add(False)
    assert (loss.rate, loss.is_losing) == (1.0, True)
    for _ in range(20):
        loss.add(True)
    assert (loss.rate, loss.is_losing) == (0.0, False)


def test_a_report_is_written_read_and_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.json"
    blocked = Situation(local=PathReport(NatFacts(udp=False, mtu=1500)), own=(AddrPort("192.168.1.2", 5),))
    write_report(blocked, path, made_by="a test", redacted=True)
    assert read_report(path).local.facts.udp is False
    capsys.readouterr()
    replay(path, output=Output.JSON)
    document = json.loads(capsys.readouterr().out)
    assert document["same"] is True
    assert document["replayed"]["code"] == document["reported"]["code"] == "udp_blocked_here"
    replay(path)
    said = capsys.readouterr()
    assert "[udp_blocked_here]" in said.out
    assert "leads to the verdict of the report" in said.err


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "is no JSON"),
        ("[]", "must be a JSON object"),
        ("{}", "no network report"),
        (" " * (1 << 20) + "{}", "larger"),
    ],
    ids=["junk", "list", "other", "huge"],
)
def test_what_is_no_report_is_refused_in_words(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=complaint):
        read_report(path)
    with pytest.raises(ConfigError, match="cannot read"):
        read_report(tmp_path / "absent")
    with pytest.raises(ConfigError, match="cannot write"):
        write_report(Situation(), tmp_path / "no" / "r", made_by="x", redacted=True)
