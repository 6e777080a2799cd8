"""Commands in a workspace: `Workspace.start` (streams) and `Workspace.run` (to the end). Plugins do the talking.

done = await workspace.run("ls -l", check=True)
async with workspace.start(["make", "test"]) as command:
    async for part in command.stdout:
        ...
"""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream, ByteStream

from .errors import CommandFailed, ConfigError
from .hooks.commands import CommandRequest, CommandRunner, RunningCommand
from .runtime.background import background

GOODBYE = 3.0
"""Seconds for the workspace to hear that a command is not wanted any more; it ends it anyway when the stream ends."""
MAX_OUTPUT = 64 << 20
"""Bytes of stdout, and of stderr, that `run` keeps."""
_SHOWN = 400
"""Characters of what a command complained of, in a message."""


@dataclass(frozen=True, slots=True)
class Completed:
    """How a command ended, with the names of `subprocess.CompletedProcess`. A negative `returncode` is the signal that
    ended it."""

    args: str
    returncode: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """`stdout` as UTF-8 text."""
        return self.stdout.decode("utf-8", "replace")

    def check_returncode(self) -> None:
        """Raises CommandFailed if it did not end with 0."""
        if self.returncode == 0:
            return
        how = f"exit code {self.returncode}" if self.returncode > 0 else f"ended by signal {-self.returncode}"
        complaint = self.stderr.decode("utf-8", "replace").strip()[-_SHOWN:]
        message = f"{self.args!r} in the workspace: {how}" + (f": {complaint}" if complaint else "")
        raise CommandFailed(message, returncode=self.returncode, stdout=self.stdout, stderr=self.stderr)


def request_of(
    command: str | Sequence[str], label: str, environment: Mapping[str, str] | None, directory: str | None
) -> CommandRequest:
    """What a caller means: a line for the shell, or words that no shell shall touch."""
    line = command if isinstance(command, str) else shlex.join(command)
    if not line.strip():
        raise ConfigError("there is no command to run")
    if directory is not None:
        line = f"cd -- {shlex.quote(directory)} || exit\n{line}"
    return CommandRequest(line, dict(environment or {}), label)


@asynccontextmanager
async def started(
    runner: CommandRunner | None, dial: Callable[[int], Awaitable[ByteStream]], request: CommandRequest
) -> AsyncIterator[RunningCommand]:
    """A running command; it is ended with the block, if it has not ended. Raises ConfigError, TransportBroken,
    PeerUnreachable."""
    if runner is None:
        raise ConfigError("no plugin runs commands in workspaces", hint="pip install coder-agent-ssh")
    async with await dial(runner.port) as stream, background() as tasks:
        command = await runner.start(stream, request, tasks)
        try:
            yield command
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(GOODBYE):
                await command.aclose()


async def completed(
    start: AbstractAsyncContextManager[RunningCommand],
    args: str,
    *,
    input: bytes | str = b"",
    timeout: float | None = None,
    max_output: int = MAX_OUTPUT,
) -> Completed:
    """Run to the end. Raises TimeoutError after `timeout` seconds and CommandFailed for more than `max_output` bytes of
    stdout or stderr, both after ending the command; and as `started`."""
    data = input.encode() if isinstance(input, str) else input
    stdout, stderr = _Kept(args, max_output), _Kept(args, max_output)
    with anyio.fail_after(timeout):
        async with start as command, background() as tasks:
            tasks.start_soon(_feed, command.stdin, data)
            tasks.start_soon(stderr.read, command.stderr)
            await stdout.read(command.stdout)
            await stderr.ended.wait()
            code = await command.wait()
    return Completed(args, code, bytes(stdout.data), bytes(stderr.data))


async def _feed(stdin: ByteSendStream, data: bytes) -> None:
    try:
        if data:
            await stdin.send(data)
        await stdin.aclose()
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass  # it did not want to read all of it


class _Kept:
    """What a command said, in bounded memory."""

    def __init__(self, args: str, limit: int) -> None:
        self._args, self._limit = args, limit
        self.data = bytearray()
        self.ended = anyio.Event()

    async def read(self, stream: ByteReceiveStream) -> None:
        try:
            async for part in stream:
                self.data += part
                if len(self.data) > self._limit:
                    raise CommandFailed(
                        f"{self._args!r} in the workspace said more than {self._limit} bytes, and was ended",
                        hint="read it in parts with `start`, or raise max_output",
                        stdout=bytes(self.data),
                    )
        except anyio.BrokenResourceError:
            pass  # `wait` says why
        self.ended.set()
