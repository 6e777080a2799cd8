"""``limit`` and ``offset`` of lists."""

from __future__ import annotations

from starlette.requests import Request

from ..problems import invalid

MAX_PAGE = 1 << 31


def page_of(request: Request) -> tuple[int, int]:
    """(limit, offset); a limit of 0 means all. Raises Problem 400."""
    return _number(request, "limit"), _number(request, "offset")


def _number(request: Request, name: str) -> int:
    text = request.query_params.get(name, "") or "0"
    if not (text.isascii() and text.isdigit() and len(text) < 11 and int(text) < MAX_PAGE):
        raise invalid(name, "This must be a number, zero or more.")
    return int(text)
