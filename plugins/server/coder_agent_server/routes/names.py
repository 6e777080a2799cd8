"""Names and times as requests carry them: checked once, here."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

_NAME = re.compile(r"[a-zA-Z0-9]+(?:-[a-zA-Z0-9]+)*\Z")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\Z")


def _name(text: str) -> str:
    """Letters, digits, single dashes: ``owner--workspace--agent`` must stay readable.

    Source: coder codersdk/name.go.
    """
    if _NAME.match(text) is None:
        raise ValueError("A name has letters, digits and single dashes between them.")
    if text.lower() in ("me", "new", "create"):
        raise ValueError(f"{text!r} is not available as a name.")
    return text.lower()


def _email(text: str) -> str:
    if _EMAIL.match(text) is None:
        raise ValueError("This is not an e-mail address.")
    return text


Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=32), AfterValidator(_name)]
"""A user's, workspace's or agent's name, in lower case."""

Email = Annotated[str, StringConstraints(strip_whitespace=True, max_length=254), AfterValidator(_email)]
"""An address. Whether mail arrives there is nobody's business here."""
