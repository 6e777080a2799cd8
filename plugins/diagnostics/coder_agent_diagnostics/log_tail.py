"""The last lines of a program's log, kept in memory for whoever asks for help."""

from __future__ import annotations

import logging
from collections import deque

from coder_agent.cli.logs import RedactingFormatter

LINES = 300
"""Some hours of a quiet agent; 40 kB."""
LONGEST = 2000
"""Characters of one line, so that tracebacks stay whole and nothing can fill the memory."""


class LogTail(logging.Handler):
    """Keeps what our packages log, at the level that they log, without secrets."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(RedactingFormatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
        self._lines: deque[str] = deque(maxlen=LINES)

    def emit(self, record: logging.LogRecord) -> None:
        """One line more, and the oldest goes."""
        self._lines.append(self.format(record)[:LONGEST])

    def text(self) -> str:
        """All of them, oldest first."""
        return "".join(f"{line}\n" for line in self._lines)


def follow() -> LogTail:
    """Begin to keep what is logged from now on."""
    tail = LogTail()
    logging.getLogger().addHandler(tail)
    return tail
