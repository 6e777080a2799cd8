"""Keep secrets out of everything that is written for people: log lines, tracebacks, error messages."""

from __future__ import annotations

import re

STARS = "**********"

_PATTERNS = (
    # our own private keys, as base/keys.py prints them
    re.compile(r"(?P<keep>(?:privkey|discopriv):)[0-9a-fA-F]{64}"),
    # a Coder API key: 10 characters of id, 22 of secret (the id alone is harmless and helps to find the key)
    re.compile(r"(?P<keep>\b[A-Za-z0-9]{10}-)[A-Za-z0-9]{22}\b"),
    # headers and query parameters that carry one
    re.compile(
        r"(?P<keep>(?:coder-session-token|coder_session_token|authorization|cookie|resume_token|password)"
        r"[\"']?\s*[:=]\s*[\"']?(?:bearer\s+|basic\s+)?)[^\s\"',;&]+",
        re.IGNORECASE,
    ),
    # user:password@ in a URL
    re.compile(r"(?P<keep>://[^/@\s:]*:)[^/@\s]+(?=@)"),
)
_known: set[str] = set()

MIN_SECRET = 8
"""Shorter registered values are ignored: starring out a two-letter word would make logs unreadable."""


def hide(secret: str) -> None:
    """Star out this very value from now on (an agent token is a bare UUID: no pattern could tell)."""
    if len(secret) >= MIN_SECRET:
        _known.add(secret)


def redact(text: str) -> str:
    """`text` without any secret that can be recognised."""
    for secret in _known:
        text = text.replace(secret, STARS)
    for pattern in _PATTERNS:
        text = pattern.sub(rf"\g<keep>{STARS}", text)
    return text
