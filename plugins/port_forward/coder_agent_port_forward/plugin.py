"""Hook implementations only; everything else is imported when used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from coder_agent.hooks import hookimpl

from . import PORT

if TYPE_CHECKING:
    from coder_agent.hooks.interfaces import AgentService, CommandSpec, SettingsSpec
    from coder_agent.hooks.settings import Settings

__coder_api__ = 1
NAME = "port_forward"


@hookimpl
def coder_settings() -> Sequence[SettingsSpec]:
    """The section ``[plugins.port_forward]``."""
    from coder_agent.hooks.interfaces import SettingsSpec

    return [SettingsSpec(NAME, "coder_agent_port_forward.settings:PortForwardSettings")]


@hookimpl
def coder_commands() -> Sequence[CommandSpec]:
    """`coder port-forward`, also called `coder tunnel`."""
    from coder_agent.hooks.interfaces import CommandSpec

    target = "coder_agent_port_forward.cli:port_forward"
    text = "Reach ports of a workspace as ports of this machine."
    return [
        CommandSpec("port-forward", text, target),
        CommandSpec("tunnel", "The same as port-forward.", target, hidden=True),
    ]


@hookimpl
def coder_agent_services(settings: Settings) -> Sequence[AgentService]:
    """The agent's half of --socks and --reverse."""
    from coder_agent.hooks.deferred import DeferredService

    from .settings import PortForwardSettings

    section = settings.section(NAME, PortForwardSettings)  # a mistake in it is told when the agent starts

    def load() -> AgentService:
        from .service import ForwardService

        return ForwardService(section, settings.egress)

    return [DeferredService(NAME, PORT, load)]
