"""How results are printed: tables for people, JSON for programs. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer


class Output(StrEnum):
    """The two forms of every result."""

    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="table for people, json for programs")]
"""The option that every command with a result has: ``output: OutputOption = Output.TABLE``."""


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table: with rich on a terminal, else plain columns that `awk` and `cut` understand."""
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _print_rich(columns, cells)
    else:
        _print_plain([[column.upper() for column in columns], *cells])


def print_json(document: object) -> None:
    """An indented JSON document; what JSON does not know is printed as text."""
    print(json.dumps(document, indent=2, ensure_ascii=False, default=str))


def note(message: str) -> None:
    """Tell the user something that is not the result."""
    print(message, file=sys.stderr, flush=True)


def _print_plain(lines: Sequence[Sequence[str]]) -> None:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _print_rich(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column.upper(), overflow="fold")
    for row in rows:
        table.add_row(*[Text(cell) for cell in row])  # Text: brackets in values are not markup
    Console().print(table)
