"""Hook implementations only; everything else is imported when used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from coder_agent.hooks import hookimpl

from . import PORT

if TYPE_CHECKING:
    from coder_agent.hooks.interfaces import AgentService, CommandSpec
    from coder_agent.hooks.settings import Settings

__coder_api__ = 1


@hookimpl
def coder_commands() -> Sequence[CommandSpec]:
    from coder_agent.hooks.interfaces import CommandSpec

    return [CommandSpec("speedtest", "Measure the speed to a workspace.", "coder_agent_speedtest.cli:speedtest")]


@hookimpl
def coder_agent_services(settings: Settings) -> Sequence[AgentService]:
    from coder_agent.hooks.deferred import DeferredService

    def load() -> AgentService:
        from .service import SpeedtestService

        return SpeedtestService()

    return [DeferredService("speedtest", PORT, load)]
