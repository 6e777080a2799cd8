"""The user's terminal while a session runs on it: raw, and put back whatever happens."""

from __future__ import annotations

import os
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .processes import CHARACTERS, DISABLED, FLAGS


def is_terminal() -> bool:
    """Both sides of a conversation with a person."""
    return os.isatty(0) and os.isatty(1)


def size() -> tuple[int, int, int, int]:
    """Columns and rows; pixels are not known."""
    try:
        columns, rows = os.get_terminal_size(1)
    except OSError:
        return 80, 24, 0, 0
    return columns, rows, 0, 0


def modes() -> dict[int, int]:
    """The terminal's modes by their numbers in RFC 4254 §8."""
    state: list[Any] = termios.tcgetattr(0)
    found: dict[int, int] = {}
    for number, name in CHARACTERS.items():
        if (index := getattr(termios, name, None)) is not None:
            character = state[6][index]
            value = character if isinstance(character, int) else character[0]
            found[number] = value or DISABLED
    for number, (place, name) in FLAGS.items():
        if bit := getattr(termios, name, 0):
            found[number] = int(bool(state[place] & bit))
    return found


@contextmanager
def raw() -> Iterator[None]:
    """Every key goes to the workspace, Ctrl-C too."""
    before = termios.tcgetattr(0)
    tty.setraw(0, termios.TCSADRAIN)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def suspend(before: list[Any]) -> None:
    """Stop like any program on Ctrl-Z, with the terminal as it was; returns when continued, raw again."""
    now = termios.tcgetattr(0)
    termios.tcsetattr(0, termios.TCSADRAIN, before)
    sys.stderr.write("\n")
    os.kill(os.getpid(), signal.SIGTSTP)
    termios.tcsetattr(0, termios.TCSADRAIN, now)


def attributes() -> list[Any]:
    """As the terminal is now, for `suspend`."""
    return termios.tcgetattr(0)
