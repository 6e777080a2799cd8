"""Report files (`--report`): written here, read by `coder lab replay`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from coder_agent.cli.output import note
from coder_agent.errors import CoderAgentError, ConfigError
from coder_agent.verdict.report_file import report_document, situation_of_report
from coder_agent.verdict.situation import Situation

ReportOption = Annotated[
    Path | None, typer.Option("--report", metavar="FILE", help="write what was found to a file for `coder lab replay`")
]
RedactOption = Annotated[bool, typer.Option("--redact/--no-redact", help="leave addresses and names out of the report")]
MAX_SIZE = 1 << 20
"""Bytes: a report with every list full has a quarter of this."""


def write_report(situation: Situation, path: Path, *, made_by: str, redacted: bool) -> None:
    """Write the file and say so. Raises ConfigError if it cannot be written."""
    document = report_document(situation, made_by=made_by, redacted=redacted)
    try:
        path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write the report to {path}: {error.strerror}") from error
    note(f"report written to {path}{' (no address, name or key in it)' if redacted else ''}")


def read_report(path: Path) -> Situation:
    """Read a file. Raises ConfigError, saying what is wrong with it."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > MAX_SIZE:
        raise ConfigError(f"{path} is larger than {MAX_SIZE} bytes: no report")
    try:
        return situation_of_report(json.loads(data))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no JSON: {error}", hint="`coder netcheck --report FILE` writes one") from error
    except CoderAgentError as error:
        raise ConfigError(f"{path}: {error.message}", hint="`coder netcheck --report FILE` writes one") from error
