"""What our agents and our servers say to each other beside Coder's own protocol, over plain HTTP.

A stock server answers "not found", and is not asked again before the next connection to it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from .base.path_rules import NO_RULES, DirectRule, PathRules
from .base.path_rules_json import rules_from_json
from .errors import ApiError, CoderAgentError, CoordinationError
from .hooks.interfaces import DialOptions
from .runtime.http import ApiClient

log = logging.getLogger(__name__)

RULES_PATH = "/api/v2/workspaceagents/me/path-rules"
PATHS_PATH = "/api/v2/workspaceagents/me/paths"
APPS_PATH = "/api/v2/workspaceagents/me/apps"
TIMEOUT = 5.0
"""Seconds for one answer: the server was heard a moment ago."""


class AgentApi:
    """One agent's requests, with its token."""

    def __init__(self, url: str, token: str, dial: DialOptions) -> None:
        self._api = ApiClient(url, token, dial)

    async def path_rules(self) -> PathRules | None:
        """The rules for this workspace. `NO_RULES` from a server that has none; None if it could not be asked."""
        try:
            return rules_from_json(await self._api.get(RULES_PATH, timeout=TIMEOUT))
        except (ApiError, CoordinationError) as exc:
            if isinstance(exc, ApiError) and exc.status not in (404, 405):
                log.warning("cannot ask the server for path rules: %s", exc)
                return None
            return NO_RULES
        except (CoderAgentError, ValueError) as exc:
            log.warning("cannot ask the server for path rules: %s", exc)
            return None

    async def report_paths(self, document: object) -> bool:
        """Tell the server which way packets go. False: it does not want to know."""
        try:
            await self._api.post(PATHS_PATH, document, timeout=TIMEOUT)
        except (ApiError, CoordinationError) as exc:
            if isinstance(exc, ApiError) and exc.status not in (404, 405):
                log.debug("the server did not take the path report: %s", exc)
                return True
            return False
        except CoderAgentError as exc:
            log.debug("the server did not take the path report: %s", exc)
        return True

    async def declare_apps(self, apps: Sequence[Mapping[str, object]]) -> None:
        """Tell the server which apps our configuration names; it forgets those that it named before."""
        try:
            reply = await self._api.call("PUT", APPS_PATH, {"apps": list(apps)}, timeout=TIMEOUT)
        except CoderAgentError as exc:
            if apps:  # a server that has no such thing is worth a word only to somebody who wants it
                log.warning("the server did not take the apps of the configuration: %s", exc)
            return
        for slug in reply.get("declared_otherwise", ()) if isinstance(reply, Mapping) else ():
            log.warning("app %s: the workspace's owner has declared it otherwise (`coder app list`)", slug)


def with_manifest(rules: PathRules, disable_direct_connections: bool) -> PathRules:
    """The rules with what a manifest says, which all servers know and which is newer."""
    if disable_direct_connections:
        return replace(rules, direct=DirectRule.NEVER, set_by=rules.set_by or "the deployment")
    return rules
