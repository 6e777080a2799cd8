"""Hooks of SSH. Nothing heavy is imported before it is used; asyncssh not before somebody connects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from coder_agent.hooks import CommandSpec, SettingsSpec, hookimpl

if TYPE_CHECKING:
    from coder_agent.hooks import AgentService, Settings
    from coder_agent.hooks.commands import CommandRunner

__coder_api__ = 1
NAME = "ssh"


@hookimpl
def coder_settings() -> Sequence[SettingsSpec]:
    """The section ``[plugins.ssh]``."""
    return [SettingsSpec(NAME, "coder_agent_ssh.settings:SshSettings")]


@hookimpl
def coder_commands() -> Sequence[CommandSpec]:
    """`coder ssh` and `coder config-ssh`."""
    return [
        CommandSpec("ssh", "Open a shell in a workspace, or run a command there.", "coder_agent_ssh.ssh_command:ssh"),
        CommandSpec(
            "config-ssh",
            "Let ssh, scp, rsync, git and editors reach workspaces by name.",
            "coder_agent_ssh.config_command:config_ssh",
        ),
    ]


@hookimpl
def coder_agent_services(settings: Settings) -> Sequence[AgentService]:
    """The SSH server, on both of its ports."""
    from .service import services
    from .settings import SshSettings

    return services(settings.section(NAME, SshSettings))


@hookimpl
def coder_command_runner(settings: Settings) -> CommandRunner:
    """Commands for programs, each over a connection of its own."""
    from .runner import SshRunner

    return SshRunner()
