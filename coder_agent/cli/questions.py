"""What commands ask at the terminal, and what they say where nobody is there to answer."""

from __future__ import annotations

import sys

import typer

from ..errors import ConfigError
from .output import note


def agreed(question: str, unanswered: str) -> bool:
    """Yes or no. Raises ConfigError, which begins with `unanswered`, where nobody is there; Ctrl-C remains Ctrl-C."""
    try:
        return typer.confirm(question, err=True)
    except typer.Abort:
        if sys.stdin.isatty():
            raise  # Ctrl-C
        note("")  # ends the line of the question
        raise ConfigError(f"{unanswered}: there is nobody to ask", hint="say `--yes` (-y) in scripts") from None


def ask_password(label: str, missing: str, variable: str, *, twice: bool) -> str:
    """A password, unseen; a new one `twice`. Raises ConfigError where nobody answers: what is `missing`, and which
    `variable` of the environment may hold it."""
    try:
        return str(typer.prompt(label, hide_input=True, confirmation_prompt=twice, err=True))
    except typer.Abort:
        raise ConfigError(f"there is no {missing}", hint=f"set {variable} in scripts") from None
