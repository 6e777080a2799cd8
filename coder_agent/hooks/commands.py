"""The seam of `Workspace.run` and `Workspace.start`: who runs commands in a workspace, over a stream of the tunnel.

Imported for annotations and by plugins; `coder --help` never pays for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from anyio.abc import ByteReceiveStream, ByteSendStream, ByteStream, TaskGroup


@dataclass(frozen=True, slots=True)
class CommandRequest:
    """What shall run: `command` for the shell of the workspace's user, and variables beside that shell's own.
    `label` names the workspace in messages."""

    command: str
    environment: Mapping[str, str] = field(default_factory=dict)
    label: str = ""


class RunningCommand(Protocol):
    """A command that was started. Its output waits in bounded memory until it is read; then the command waits."""

    @property
    def stdin(self) -> ByteSendStream:
        """What the command reads; closing it says that nothing more comes."""
        ...

    @property
    def stdout(self) -> ByteReceiveStream:
        """What the command prints."""
        ...

    @property
    def stderr(self) -> ByteReceiveStream:
        """What it complains of."""
        ...

    @property
    def returncode(self) -> int | None:
        """The exit code; the negative number of the signal that ended it; None while it runs."""
        ...

    async def wait(self) -> int:
        """Wait for its end; returns `returncode`. Raises TransportBroken if the connection ended before it."""
        ...

    def send_signal(self, name: str) -> None:
        """Send a signal by its name without SIG, such as INT. Nothing happens to what has ended."""
        ...

    async def aclose(self) -> None:
        """End the command if it still runs, and what belongs to it."""
        ...


class CommandRunner(Protocol):
    """Starts commands over connections to `port` of the agent inside the tunnel."""

    name: str
    port: int

    async def start(self, stream: ByteStream, request: CommandRequest, tasks: TaskGroup) -> RunningCommand:
        """Start a command over `stream`, which serves nothing else. What must run beside it runs in `tasks`, which are
        cancelled after `aclose`. Raises TransportBroken, ConfigError."""
        ...
