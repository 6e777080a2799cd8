"""`coder lab matrix`: the NAT matrix, worked out in the simulated network of `coder_agent.testing.lab`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from coder_agent.cli.output import Output, OutputOption, note, print_json, print_table
from coder_agent.errors import ConfigError
from coder_agent.testing.lab import Pair, all_pairs
from coder_agent.testing.lab.grid import CELL_COLUMNS, cell_rows, grid_columns, grid_rows, legend, pairs_among
from coder_agent.testing.lab.matrix import Cell, run_matrix
from coder_agent.testing.lab.places import PLACES, RTT


def matrix(
    only: Annotated[
        str, typer.Option(metavar="PLACE[,PLACE…]", help="the cells of one place, or of several with each other")
    ] = "",
    seed: Annotated[int, typer.Option(help="chance in the simulation: another seed is another run")] = 1,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show which pairs of networks get a direct path, by what means and how fast, or why they are relayed.

    Runs two nodes in a simulated network for every pair of places: nothing is sent, no server is needed.
    """
    pairs = _chosen(only)
    cells = _run(pairs, seed)
    if output is Output.JSON:
        print_json(document(cells, seed))
        return
    print_table(grid_columns(cells), grid_rows(cells))
    print(f"\n{legend()}\n")
    print_table(CELL_COLUMNS, cell_rows(cells))
    print(f"\n{summary(cells)}")


def document(cells: Sequence[Cell], seed: int) -> dict[str, object]:
    """For ``--output json``."""
    return {"seed": seed, "rtt_ms": RTT * 1e3, "places": PLACES, "cells": [cell.document() for cell in cells]}


def summary(cells: Sequence[Cell]) -> str:
    """The last line."""
    direct = [cell.seconds for cell in cells if cell.seconds is not None]
    slowest = f", the slowest after {max(direct):.2f} s" if direct else ""
    return f"{len(direct)} of {len(cells)} cells are direct{slowest}, at {RTT * 1e3:.0f} ms there and back."


def _chosen(only: str) -> list[Pair]:
    names = [name.strip() for name in only.split(",") if name.strip()]
    try:
        return pairs_among(names, all_pairs())
    except ValueError as exc:
        raise ConfigError(
            f"--only: {exc}", hint="`--only easy,ipv6` shows these two; `--only easy` a whole row"
        ) from exc


def _run(pairs: Sequence[Pair], seed: int) -> list[Cell]:
    """Run the cells, and say on a terminal how far it is."""
    shows = sys.stderr.isatty()
    cells: list[Cell] = []
    for cell in run_matrix(pairs, seed=seed):
        cells.append(cell)
        if shows:
            print(f"\r\x1b[K{len(cells)} of {len(pairs)}: {cell.pair.name}", end="", file=sys.stderr, flush=True)
    if shows:
        note("\r\x1b[K" + f"{len(cells)} cells done")
    return cells
