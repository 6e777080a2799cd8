"""The search language of workspace lists: ``owner:me name:dev status:running text``; values may be quoted."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from ..auth import Principal
from ..problems import invalid
from ..store.workspaces import WorkspaceFilter

MAX_QUERY_LENGTH = 1024


@dataclass(frozen=True, slots=True)
class Query:
    """What was asked. `impossible` = no workspace can match, e.g. ``status:stopped``."""

    filter: WorkspaceFilter
    impossible: bool = False


def parse_query(text: str, principal: Principal) -> Query:
    """Read a search. Raises Problem 400."""
    if len(text) > MAX_QUERY_LENGTH:
        raise invalid("q", "This search is too long.")
    try:
        words = shlex.split(text)
    except ValueError:
        raise invalid("q", "A quotation mark is not closed.") from None
    owner = name = None
    impossible = False
    free: list[str] = []
    for word in words:
        key, colon, value = word.partition(":")
        if not colon:
            owner, name, free = _plain(word, owner, name, free)
        elif key == "owner":
            owner = principal.user.username if value == "me" else value
        elif key == "name":
            name = value
        elif key == "status":
            impossible |= value != "running"  # registered workspaces have no other
        elif key in ("template", "organization"):
            impossible |= value not in ("static", "default")
        elif key not in ("has-agent", "outdated", "dormant", "last_used_after", "last_used_before", "param"):
            raise invalid("q", f"{key[:32]!r} is not something to search for.")
    return Query(WorkspaceFilter(principal.scope, owner, name, " ".join(free) or None), impossible)


def _plain(word: str, owner: str | None, name: str | None, free: list[str]) -> tuple[str | None, str | None, list[str]]:
    """``dev`` looks for part of a name, ``alice/dev`` for one workspace."""
    before, slash, after = word.partition("/")
    return (before, after, free) if slash else (owner, name, [*free, word])
