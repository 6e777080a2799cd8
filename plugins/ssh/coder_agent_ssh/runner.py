"""The `ssh` plugin as programs meet it: `Workspace.run` and `Workspace.start`. The first command imports asyncssh."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from anyio.abc import ByteStream, TaskGroup

    from coder_agent.hooks.commands import CommandRequest, RunningCommand


class SshRunner:
    """coder_agent.hooks.commands.CommandRunner."""

    name = "ssh"
    port = 1
    """The agent's SSH server inside the tunnel (coder tailnet/conn.go)."""

    async def start(self, stream: ByteStream, request: CommandRequest, tasks: TaskGroup) -> RunningCommand:
        """A session of its own. Raises TransportBroken."""
        running = await anyio.to_thread.run_sync(_load)  # it takes as long as a connection: the loop goes on
        command: RunningCommand = await running(stream, request, tasks)
        return command


def _load():  # type: ignore[no-untyped-def]
    from .running import running

    return running
