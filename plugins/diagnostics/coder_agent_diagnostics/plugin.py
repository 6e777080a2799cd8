"""Hook implementations only; everything else is imported when used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from coder_agent.hooks import hookimpl

if TYPE_CHECKING:
    from coder_agent.hooks.interfaces import AgentService, CommandSpec
    from coder_agent.hooks.settings import Settings

__coder_api__ = 1


@hookimpl
def coder_commands() -> Sequence[CommandSpec]:
    from coder_agent.hooks.interfaces import CommandSpec

    here = "coder_agent_diagnostics"
    return [
        CommandSpec("ping", "Ping a workspace and say which path it took.", f"{here}.cli:ping"),
        CommandSpec("path", "Say how packets reach a workspace, and why that way.", f"{here}.path_cli:path"),
        CommandSpec("health", "Check the deployment: relays, access URL, database.", f"{here}.health_cli:health"),
        CommandSpec("bundle", "Collect what a maintainer needs.", f"{here}.bundle.command:bundle", group="support"),
        CommandSpec("replay", "Rebuild a report's network in the simulator.", f"{here}.replay_cli:replay", group="lab"),
        CommandSpec("matrix", "Show which pairs of networks get a direct path.", f"{here}.lab_cli:matrix", group="lab"),
    ]


@hookimpl
def coder_agent_services(settings: Settings) -> Sequence[AgentService]:
    from .agent_api import AgentApiService
    from .log_tail import follow

    return [AgentApiService(log=follow().text)]
