"""docs/why-relayed.md names every code, and none that does not exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from coder_agent.verdict.causes import Cause
from coder_agent.verdict.fixes import FixCode
from coder_agent.verdict.remedies import _TEXTS

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "why-relayed.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL))
RELAYED = [cause for cause in Cause if not cause.is_direct]


@pytest.mark.parametrize("cause", RELAYED)
def test_every_cause_has_its_proof_and_says_what_to_do(cause: Cause) -> None:
    text = SECTIONS[cause.value]
    assert "**Proof:**" in text
    assert "**Fix:**" in text or "**Do:**" in text or cause is Cause.UNKNOWN


def test_no_cause_is_described_that_does_not_exist() -> None:
    assert set(SECTIONS) == {cause.value for cause in RELAYED}


def test_ways_of_being_direct_and_fixes_are_listed() -> None:
    rows = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    assert rows == {cause.value for cause in Cause if cause.is_direct} | {fix.value for fix in FixCode}


@pytest.mark.parametrize("cause", RELAYED)
def test_fixes_named_for_a_cause_exist(cause: Cause) -> None:
    fixes = re.search(r"\*\*Fix:\*\*(.*)", SECTIONS[cause.value], re.DOTALL)
    named = set(re.findall(r"`([a-z_0-9]+)`", fixes[1])) if fixes else set()
    assert named <= set(FixCode)


def test_every_fix_has_words() -> None:
    assert set(_TEXTS) == set(FixCode)
