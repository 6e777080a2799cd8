"""``--log-json FILE``: the server's log lines as JSON, one object a line, beside those for people.

Keys: ``ts`` (RFC 3339), ``level``, ``logger``, ``msg``, ``request_id`` where a request is behind it, ``error`` with the
traceback, and whatever a line carries as facts (method, path, status, action, user …). Secrets are starred out.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from coder_agent.cli.redact import redact
from coder_agent.errors import ConfigError

from .request_ids import RequestIdFilter

LOGGER = "coder_agent"
FACTS = ("method", "path", "status", "milliseconds", "client", "action", "resource", "target", "user")
"""Attributes of a record that are told, if it has them."""


class JsonFormatter(logging.Formatter):
    """One object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without secrets."""
        line: dict[str, object] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": redact(record.getMessage()),
        }
        if request_id := getattr(record, "request_id", ""):
            line["request_id"] = request_id
        for name in FACTS:
            if hasattr(record, name):
                value = getattr(record, name)
                line[name] = redact(value) if isinstance(value, str) else value
        if record.exc_info:
            line["error"] = redact(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


def log_as_json(place: str) -> logging.Handler:
    """Write them to the file `place`, or to the terminal. Raises ConfigError."""
    if place in ("/dev/stderr", "-"):
        handler: logging.Handler = logging.StreamHandler(sys.stderr)
    else:
        try:
            handler = logging.FileHandler(place, encoding="utf-8")
        except OSError as exc:
            raise ConfigError(f"cannot write the log {place}: {exc.strerror or exc}", hint="see --log-json") from exc
    handler.setFormatter(JsonFormatter())
    handler.addFilter(RequestIdFilter())
    logging.getLogger(LOGGER).addHandler(handler)
    return handler
