"""Tables and documents."""

from __future__ import annotations

import io
import json

import pytest

from coder_agent.cli import plugins, questions
from coder_agent.cli.output import note, print_json, print_table
from coder_agent.errors import ConfigError


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


def test_settings_are_shown_as_they_are_written() -> None:
    assert plugins._flat({"on": True, "names": ["a"], "text": "x"}) == '\n  on = true\n  names = ["a"]\n  text = "x"'


def test_where_nobody_can_be_asked_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """`coder delete dev` in a script."""
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(ConfigError, match="nobody to ask") as caught:
        questions.agreed("Remove alice/dev?", "alice/dev was not removed")
    assert "--yes" in (caught.value.hint or "")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert questions.agreed("Remove alice/dev?", "alice/dev was not removed") is True
