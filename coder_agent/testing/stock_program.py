"""The stock Coder program (CLI, agent and server in one) that ``scripts/stock_coder`` builds: a judge of ours."""

from __future__ import annotations

from pathlib import Path

PROGRAM = Path(__file__).resolve().parents[2] / "build" / "judges" / "coder" / "coder"


def find_stock_coder() -> str | None:
    """Its path; None if it was not built."""
    return str(PROGRAM) if PROGRAM.exists() else None
