"""What ``~`` at the beginning of a line means in `coder ssh`, as in OpenSSH (ssh(1), ESCAPE CHARACTERS). Pure."""

from __future__ import annotations

from enum import Enum

HELP = b"""\r
Supported escape sequences:\r
 ~.   - end the session, also when the workspace does not answer any more\r
 ~^Z  - suspend\r
 ~?   - this message\r
 ~~   - send the escape character by typing it twice\r
(They are only recognised right after a newline.)\r
"""
ESCAPE, SUSPEND = ord("~"), 0x1A
NEWLINES = b"\r\n"


class Action(Enum):
    """What the user wants of us rather than of the workspace."""

    DISCONNECT = "disconnect"
    SUSPEND = "suspend"
    HELP = "help"


class Escapes:
    """Looks for escapes in what a user types; a sequence may come in pieces."""

    def __init__(self) -> None:
        self._line_start = True
        self._escaped = False

    def feed(self, data: bytes) -> tuple[bytes, list[Action]]:
        """What goes to the workspace, and what is asked of us."""
        out = bytearray()
        actions: list[Action] = []
        for byte in data:
            if self._escaped:
                self._escaped = False
                action = _ACTIONS.get(byte)
                if action is not None:
                    actions.append(action)
                    self._line_start = True
                    continue
                if byte != ESCAPE:  # no escape after all: both characters were meant
                    out.append(ESCAPE)
                out.append(byte)
            elif self._line_start and byte == ESCAPE:
                self._escaped = True
                continue
            else:
                out.append(byte)
            self._line_start = byte in NEWLINES
        return bytes(out), actions


_ACTIONS = {ord("."): Action.DISCONNECT, ord("?"): Action.HELP, SUSPEND: Action.SUSPEND}
