"""Tables and documents."""

from __future__ import annotations

import json

import pytest

from coder_agent.cli.output import note, print_json, print_table


def test_a_table_that_nobody_looks_at_is_plain(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["name", "size"], [("a", 1), ("long name", None)])
    assert capsys.readouterr().out == "NAME       SIZE\na          1\nlong name\n"


def test_a_table_on_a_terminal_keeps_brackets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    print_table(["name"], [("[bold]x[/bold]",)])
    assert "[bold]x[/bold]" in capsys.readouterr().out


def test_documents_are_json_whatever_is_inside(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"path": object, "text": "µ"})
    out = capsys.readouterr().out
    assert json.loads(out)["text"] == "µ"


def test_notes_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    note("hello")
    assert capsys.readouterr() == ("", "hello\n")
