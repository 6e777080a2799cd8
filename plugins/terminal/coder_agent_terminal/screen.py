"""What showing a shell's output here needs besides: what to leave out of a replay, what to undo at the end. No I/O."""

from __future__ import annotations

import re

_MODE = re.compile(rb"\x1b\[\?([\d;]{1,40})([hl])")
_LONGEST_MODE = 48
_UNDONE = frozenset([1, 9, 47, 66, 1000, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 1047, 1049, 2004])
"""Private modes that a program sets and unsets again: cursor keys, other screens, mouse, focus, pasting (xterm's
ctlseqs)."""
_QUESTION = re.compile(
    rb"\x1b\[[>=]?\d*c"  # device attributes
    rb"|\x1b\[\??[56]n"  # status, cursor position
    rb"|\x1b\[>\d*q"  # version
    rb"|\x1b\[\?\d+\$p"  # mode
    rb"|\x1b\](?:4;\d+|1\d|52;\w?);\?(?:\x07|\x1b\\)"  # colours, clipboard
    rb"|\x1bP[+$]q[^\x1b\x07]*(?:\x07|\x1b\\)"  # capabilities, settings
)
_KNOWN = 4096
"""Bytes of shown output by which a replay is recognised."""


class Modes:
    """Follows the modes that programs switch, so that they can be switched back when the terminal is left."""

    def __init__(self) -> None:
        self._set: set[int] = set()
        self._cursor_hidden = False
        self._tail = b""

    def feed(self, data: bytes) -> None:
        """Output that was shown."""
        data = self._tail + data
        for found in _MODE.finditer(data):
            on = found[2] == b"h"
            for text in found[1].split(b";"):
                mode = int(text or b"0")
                if mode == 25:
                    self._cursor_hidden = not on
                elif on and mode in _UNDONE:
                    self._set.add(mode)
                elif not on:
                    self._set.discard(mode)
        self._tail = data[-_LONGEST_MODE:]

    def undo(self) -> bytes:
        """What brings a terminal back: nothing, if all was left in order."""
        parts = [b"\x1b[?%dl" % mode for mode in sorted(self._set)]
        if self._cursor_hidden:
            parts.append(b"\x1b[?25h")
        if parts:
            parts.append(b"\x1b[0m")
        self._set.clear()
        self._cursor_hidden = False
        return b"".join(parts)


class Seen:
    """Remembers the end of what was shown, so that a replay after a lost connection goes on where it stopped."""

    def __init__(self) -> None:
        self._end = b""

    def feed(self, data: bytes) -> None:
        """Output that was shown."""
        self._end = (self._end + data)[-_KNOWN:]

    def news_of(self, replay: bytes) -> bytes:
        """What of a replay was not shown yet; all of it if nothing in it is known."""
        known = self._end
        if not known:
            return replay
        if len(replay) < len(known):
            known = known[-len(replay) :] if replay else b""
        at = replay.rfind(known)
        return replay if at < 0 else replay[at + len(known) :]


def without_questions(replay: bytes) -> bytes:
    """Old output without what a terminal would answer: the program that asked has its answer, or is gone."""
    return _QUESTION.sub(b"", replay)
