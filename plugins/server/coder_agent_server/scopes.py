"""What a key may be used for. A route needs `Need.ALL` unless it says that less will do.

Names as in coder codersdk/apikey_scopes.go: the two old ones, and those newer ones that fit what a workspace offers
here. A narrower key is for programs that watch or connect; it never makes keys, and never changes anything.
"""

from __future__ import annotations

from enum import IntEnum

from coder_agent.hooks.web import SCOPE_ALL, SCOPE_APPS

SCOPE_READ = "workspace:read"
"""Look at workspaces and their agents."""
SCOPE_SSH = "workspace:ssh"
"""That, and connect to them."""

OLD_NAMES = {"coder:all": SCOPE_ALL, "coder:application_connect": SCOPE_APPS}
"""Other ways to write two of them."""


class Need(IntEnum):
    """What a request needs; each level includes those below it."""

    READ = 1
    CONNECT = 2
    ALL = 3


_GRANTS = {SCOPE_ALL: Need.ALL, SCOPE_SSH: Need.CONNECT, SCOPE_READ: Need.READ}

SCOPES = (SCOPE_ALL, SCOPE_APPS, SCOPE_READ, SCOPE_SSH)
"""Every scope that a token may have."""


def covers(scope: str, need: Need) -> bool:
    """May a key of this scope make a request with this need? An unknown scope covers nothing."""
    return _GRANTS.get(scope, 0) >= need
