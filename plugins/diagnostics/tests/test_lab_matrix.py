"""`coder lab matrix`: what it prints, which docs/nat-matrix.md carries."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from coder_agent_diagnostics import lab_cli

from coder_agent.cli.output import Output
from coder_agent.errors import ConfigError
from coder_agent.testing.lab import PLACES, all_pairs

DOC = Path(__file__).resolve().parents[3] / "docs" / "nat-matrix.md"


@pytest.fixture(scope="module")
def whole() -> str:
    """All that the command prints."""
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("builtins.print", lambda text="", **_: lines.append(f"{text}\n"))
        lab_cli.matrix()
    return "".join(lines)


def test_the_document_carries_what_the_command_prints(whole: str) -> None:
    page = DOC.read_text("utf-8")
    block = page.partition("```text\n")[2].partition("```")[0]
    assert block == whole, "scripts/nat-matrix writes docs/nat-matrix.md anew"


def test_the_document_knows_every_place() -> None:
    page = DOC.read_text("utf-8")
    assert [place for place in PLACES if f"| {place} |" not in page] == []


def test_every_cell_has_a_line(whole: str) -> None:
    lines = [line.split() for line in whole.splitlines()]
    for pair in all_pairs():
        second = pair.name.partition("–")[2].split()
        assert any(line[: 1 + len(second)] == [pair.a, *second] for line in lines), pair.name


def test_some_places_only_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    lab_cli.matrix(only="easy, udp-blocked", seed=3, output=Output.JSON)
    printed = json.loads(capsys.readouterr().out)
    cells = {cell["name"]: cell for cell in printed["cells"]}
    assert list(cells) == ["easy–easy", "easy–udp-blocked", "udp-blocked–udp-blocked"]
    assert printed["seed"] == 3
    assert cells["easy–easy"]["direct"] is True
    assert cells["easy–easy"]["means"] == ["STUN address"]
    assert 0 < cells["easy–easy"]["seconds"] <= 1
    blocked = {"direct": False, "means": [], "seconds": None, "why": "UDP is blocked at b"}
    assert {key: cells["easy–udp-blocked"][key] for key in blocked} == blocked


def test_one_place_shows_its_row(capsys: pytest.CaptureFixture[str]) -> None:
    lab_cli.matrix(only="ipv6", output=Output.JSON)
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert len(cells) == len(PLACES)


def test_a_wrong_place_is_refused_with_the_right_ones() -> None:
    with pytest.raises(ConfigError, match="there is no place 'moon'; there are: open, full-cone"):
        lab_cli.matrix(only="moon")
