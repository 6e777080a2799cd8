"""Durations as users write them: ``5s``, ``1m30s``, ``500ms``, or a plain number of seconds."""

from __future__ import annotations

import re

import typer

_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")


def parse_duration(text: str) -> float:
    """Seconds. Raises typer.BadParameter, which names the option and shows the form."""
    text = text.strip()
    try:
        seconds = float(text)
    except ValueError:
        if not text or _PART.sub("", text):
            raise typer.BadParameter(f"{text!r} is not a duration; write 5s, 1m30s or 500ms") from None
        seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    if not 0 < seconds < 1e6:
        raise typer.BadParameter(f"{text!r} is not a positive, finite duration")
    return seconds


def format_latency(seconds: float) -> str:
    """Whole milliseconds, as every surface shows a latency; below one millisecond with two decimals."""
    return f"{seconds * 1e3:.0f}ms" if seconds >= 0.001 else f"{seconds * 1e3:.2f}ms"
