"""The id of a request or connection, and the client's real address: what every log line and audit event names.

A trusted reverse proxy may give the id (``X-Request-Id``); anybody else's is replaced by ours. It is on every reply as
``X-Coder-Request-Id``.
"""

from __future__ import annotations

import logging
import re
import secrets
from contextvars import ContextVar

from starlette.requests import HTTPConnection

REQUEST_ID_HEADER = "X-Coder-Request-Id"
_KEY = "coder_request_id"
_ACCEPTED = re.compile(r"[A-Za-z0-9._-]{8,64}\Z")

current: ContextVar[str] = ContextVar("coder_request_id", default="")
"""The id under which the running task works, for log lines."""


def new_request_id(offered: str = "", own: str = "") -> str:
    """`offered` if it can be used as it is, else `own`, else a fresh one: 16 hexadecimal digits."""
    return offered if _ACCEPTED.match(offered) is not None else own or secrets.token_hex(8)


def request_id(connection: HTTPConnection) -> str:
    """The id of this request; empty outside of the server's own middleware."""
    return str(connection.scope.get(_KEY, ""))


def mark(scope: dict[str, object], identifier: str) -> None:
    """Give a request its id."""
    scope[_KEY] = identifier


class RequestIdFilter(logging.Filter):
    """Puts the id on log records, as `request_id`; to be added to a handler."""

    def filter(self, record: logging.LogRecord) -> bool:
        """logging's hook."""
        if not hasattr(record, "request_id"):
            record.request_id = current.get()
        return True
