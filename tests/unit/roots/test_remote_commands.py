"""`Workspace.run` and `start` over a runner of the test's own: what is asked of it, and what happens around it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
import anyio.abc
import pytest

from coder_agent.errors import CommandFailed, ConfigError, TransportBroken
from coder_agent.hooks.commands import CommandRequest, RunningCommand
from coder_agent.remote_commands import Completed, completed, request_of, started

pytestmark = pytest.mark.anyio


class Said(anyio.abc.ByteReceiveStream):
    """Parts, then the end; or nothing at all, for ever."""

    def __init__(self, parts: list[bytes], *, for_ever: bool = False) -> None:
        self._parts, self._for_ever = list(parts), for_ever

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await anyio.lowlevel.checkpoint()
        if self._parts:
            return self._parts.pop(0)
        if self._for_ever:
            await anyio.sleep_forever()
        raise anyio.EndOfStream

    async def aclose(self) -> None:
        """Nothing to close."""


class Heard(anyio.abc.ByteSendStream):
    def __init__(self, *, broken: bool = False) -> None:
        self.data, self.closed, self._broken = b"", False, broken

    async def send(self, item: bytes) -> None:
        if self._broken:
            raise anyio.BrokenResourceError
        self.data += item

    async def aclose(self) -> None:
        self.closed = True


class Command:
    """A command that says `stdout` and ends with `code`."""

    def __init__(self, stdout: Said, code: int | Exception, stdin: Heard) -> None:
        self.stdin: Heard = stdin
        self.stdout: anyio.abc.ByteReceiveStream = stdout
        self.stderr: anyio.abc.ByteReceiveStream = Said([b"oh\n"])
        self.closed = False
        self._code = code

    @property
    def returncode(self) -> int | None:
        return None if isinstance(self._code, Exception) else self._code

    async def wait(self) -> int:
        if isinstance(self._code, Exception):
            raise self._code
        return self._code

    def send_signal(self, name: str) -> None:
        """Never asked for here."""

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.closed = True


class Runner:
    name = "test"
    port = 42

    def __init__(self, stdout: Said | None = None, code: int | Exception = 0, stdin: Heard | None = None) -> None:
        self.command = Command(stdout or Said([b"a", b"b"]), code, stdin or Heard())
        self.asked: CommandRequest | None = None
        self.beside: Callable[[], Any] | None = None

    async def start(
        self, stream: anyio.abc.ByteStream, request: CommandRequest, tasks: anyio.abc.TaskGroup
    ) -> RunningCommand:
        self.asked = request
        if self.beside is not None:
            tasks.start_soon(self.beside)
        return self.command


class Stream(anyio.abc.ByteStream):
    def __init__(self) -> None:
        self.closed = False

    async def receive(self, max_bytes: int = 65536) -> bytes:
        raise anyio.EndOfStream

    async def send(self, item: bytes) -> None:
        """Never used: the runner is not a real one."""

    async def send_eof(self) -> None:
        """The same."""

    async def aclose(self) -> None:
        self.closed = True


class Place:
    """Where commands run."""

    def __init__(self, runner: Runner) -> None:
        self.runner, self.stream = runner, Stream()

    async def dial(self, port: int) -> anyio.abc.ByteStream:
        assert port == self.runner.port
        return self.stream

    def start(self, line: str = "do it") -> AbstractAsyncContextManager[RunningCommand]:
        return started(self.runner, self.dial, request_of(line, "dev", None, None))


@pytest.mark.parametrize(
    ("command", "cwd", "line"),
    [
        ("ls | wc -l", None, "ls | wc -l"),
        (["echo", "a  b", "$HOME;"], None, "echo 'a  b' '$HOME;'"),
        ("ls", "/a b", "cd -- '/a b' || exit\nls"),
        ("a; b", "-x", "cd -- -x || exit\na; b"),
    ],
    ids=["shell", "words", "folder", "dash"],
)
def test_what_the_shell_is_given(command: str | list[str], cwd: str | None, line: str) -> None:
    assert request_of(command, "dev", {"A": "1"}, cwd) == CommandRequest(line, {"A": "1"}, "dev")


@pytest.mark.parametrize("command", ["", "  ", []], ids=["empty", "blank", "words"])
def test_there_must_be_a_command(command: str | list[str]) -> None:
    with pytest.raises(ConfigError):
        request_of(command, "dev", None, None)


async def test_without_a_runner_the_hint_names_the_package() -> None:
    async def dial(port: int) -> anyio.abc.ByteStream:
        raise AssertionError("nothing is dialled")

    with pytest.raises(ConfigError) as caught:
        async with started(None, dial, CommandRequest("ls")):
            pass
    assert caught.value.hint == "pip install coder-agent-ssh"


async def test_run_to_the_end() -> None:
    place = Place(Runner(code=3))
    done = await completed(place.start(), "do it", input="in")
    assert done == Completed("do it", 3, b"ab", b"oh\n")
    command = place.runner.command
    assert (command.stdin.data, command.stdin.closed, command.closed, place.stream.closed) == (b"in", True, True, True)
    with pytest.raises(CommandFailed, match=r"'do it' in the workspace: exit code 3: oh") as caught:
        done.check_returncode()
    assert (caught.value.returncode, caught.value.stdout, caught.value.stderr) == (3, b"ab", b"oh\n")


async def test_a_signal_is_named_as_such() -> None:
    with pytest.raises(CommandFailed, match="ended by signal 15"):
        Completed("x", -15, b"", b"").check_returncode()
    Completed("x", 0, b"", b"").check_returncode()


async def test_a_command_that_does_not_read_is_no_failure() -> None:
    place = Place(Runner(stdin=Heard(broken=True)))
    assert (await completed(place.start(), "x", input=b"much")).returncode == 0


async def test_too_much_output_ends_the_command() -> None:
    place = Place(Runner(Said([b"x" * 10] * 1000)))
    with pytest.raises(CommandFailed, match="more than 95 bytes") as caught:
        await completed(place.start(), "yes", max_output=95)
    assert caught.value.returncode is None
    assert len(caught.value.stdout) == 100
    assert place.runner.command.closed


async def test_a_timeout_and_a_cancellation_end_the_command() -> None:
    place = Place(Runner(Said([], for_ever=True)))
    with pytest.raises(TimeoutError):
        await completed(place.start(), "x", timeout=0)
    assert place.stream.closed
    again = Place(Runner(Said([], for_ever=True)))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(completed, again.start(), "x")
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert again.runner.command.closed
    assert again.stream.closed


async def test_errors_come_out_as_they_are() -> None:
    with pytest.raises(TransportBroken, match="cut"):
        await completed(Place(Runner(code=TransportBroken("cut"))).start(), "x")
    place = Place(Runner())
    place.runner.beside = anyio.sleep_forever  # ends with the block
    with pytest.raises(KeyError, match="mine"):
        async with place.start():
            raise KeyError("mine")
    assert place.runner.command.closed
