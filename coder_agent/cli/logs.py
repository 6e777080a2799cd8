"""Logging for our programs: one handler on stderr, secrets starred out, other people's chatter kept down."""

from __future__ import annotations

import logging
import sys

from .context import Cli
from .redact import redact


class RedactingFormatter(logging.Formatter):
    """Formats first, then redacts: so a secret in an argument or in a traceback is caught too."""

    def format(self, record: logging.LogRecord) -> str:
        """The finished line, without secrets."""
        return redact(super().format(record))


def start_logging(cli: Cli) -> None:
    """One handler; ours and the plugins' packages as the flags say, everybody else from WARNING up.

    With -v everything is told; else an agent tells what it does, and `coder` only what is wrong.
    """
    quiet = logging.INFO if cli.program == "coder-agent" else logging.WARNING
    level = logging.DEBUG if cli.verbose else quiet
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old.formatter, RedactingFormatter)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for package in {"coder_agent", *(record.target.partition(".")[0] for record in cli.host.records)}:
        logging.getLogger(package).setLevel(level)
