"""The API's JSON documents, field by field as stock clients read them. Pure: rows and facts in, plain dicts out.

Two rules hold everywhere, because clients decode strictly typed: a missing UUID or time is ``None``, never ``""``;
a list is ``[]``, never ``None``.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

Document = dict[str, Any]


def moment(when: datetime) -> str:
    """RFC 3339 in UTC, as ``2026-01-01T00:00:00.123456Z``."""
    return when.astimezone(UTC).isoformat().replace("+00:00", "Z")


def maybe_moment(when: datetime | None) -> str | None:
    """Same, or null."""
    return None if when is None else moment(when)
