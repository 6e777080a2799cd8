"""`coder ssh` without an ssh program: a session over a stream of the tunnel, on our own terminal or pipes."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import asyncssh

from coder_agent.cli.output import note
from coder_agent.errors import ConfigError, TransportBroken

from . import local_terminal
from .connecting import connected
from .escapes import HELP, Action, Escapes
from .joining import NamedSocket, join, named, socket_pair
from .standard_streams import StandardInput, StandardOutput

if TYPE_CHECKING:
    from .ssh_command import Plan

BROKEN = 255
"""Our exit code when the connection and not the command ended (ssh(1), EXIT STATUS)."""
GOODBYE = 1.0
"""Seconds for the closing words; afterwards the tunnel goes, which says it as well."""
WINDOW = 8 << 20


async def run_session(stream: anyio.abc.ByteStream, plan: Plan, label: str) -> int:
    """A shell or a command; returns its exit code. Raises TransportBroken, ConfigError."""
    ours, theirs = socket_pair()
    code = BROKEN
    carrying = anyio.CancelScope(shield=True)  # whoever is cancelled still says goodbye: by that the processes end

    async def carry() -> None:
        with carrying:
            await join(stream, ours)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(carry)
        try:
            code = await _converse(named(theirs, ("::1", 0), ("::1", 1)), plan, label)
        finally:
            carrying.cancel()
    return code


async def _converse(sock: NamedSocket, plan: Plan, label: str) -> int:
    agent = _agent_path(plan)
    connection = await connected(sock, label, agent_path=agent)
    try:
        for port, host, target in plan.remote_forwards:
            await _forward(connection, port, host, target)
        return await _Terminal(plan).run(connection)
    finally:
        connection.close()
        with anyio.CancelScope(shield=True), anyio.move_on_after(GOODBYE):
            await connection.wait_closed()


async def _forward(connection: asyncssh.SSHClientConnection, port: int, host: str, target: int) -> None:
    try:
        await connection.forward_remote_port("localhost", port, host, target)
    except asyncssh.ChannelListenError as exc:
        raise ConfigError(f"the workspace cannot listen on port {port}: {exc}") from exc


def _agent_path(plan: Plan) -> str:
    if not plan.forward_agent:
        return ""
    path = plan.identity_agent or os.environ.get("SSH_AUTH_SOCK", "")
    if not path:
        raise ConfigError("there is no SSH agent to forward", hint="start one, or leave --forward-agent out")
    return path


class _Terminal(asyncssh.SSHClientSession[bytes]):
    """The session's channel joined with our standard streams. asyncssh calls it, on the loop."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._interactive = local_terminal.is_terminal()
        self._escapes = Escapes() if self._interactive else None
        self._channel: asyncssh.SSHClientChannel[bytes]
        self._ended = asyncio.get_running_loop().create_future()
        self._input = StandardInput(self._typed, self._input_ended)

    async def run(self, connection: asyncssh.SSHClientConnection) -> int:
        """From the first byte to the exit code."""
        loop = asyncio.get_running_loop()
        terminal = {}
        if self._interactive:
            terminal = {
                "term_type": os.environ.get("TERM", "xterm"),
                "term_size": local_terminal.size(),
                "term_modes": local_terminal.modes(),
            }
        try:
            await connection.create_session(
                lambda: self,
                self._plan.command,
                env=list(self._plan.environment.items()),
                encoding=None,
                window=WINDOW,
                request_pty="force" if self._interactive else False,
                **terminal,  # type: ignore[arg-type]
            )
        except asyncssh.ChannelOpenError as exc:
            raise TransportBroken(f"the workspace refuses a session: {exc}") from exc
        with ExitStack() as exits:
            if self._interactive:
                self._before = local_terminal.attributes()
                exits.enter_context(local_terminal.raw())
                loop.add_signal_handler(signal.SIGWINCH, self._resized)
                exits.callback(loop.remove_signal_handler, signal.SIGWINCH)
            self._input.start()
            await self._ended
            await self._output.flush()
            await self._errors.flush()
        return self._exit_code()

    # ------------------------------------------------------------ asyncssh.SSHClientSession

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self._channel = chan
        self._output = StandardOutput(1, chan.pause_reading, chan.resume_reading)
        self._errors = StandardOutput(2, chan.pause_reading, chan.resume_reading)

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        (self._output if datatype is None else self._errors).write(data)

    def eof_received(self) -> bool:
        return True

    def pause_writing(self) -> None:
        self._input.pause()

    def resume_writing(self) -> None:
        self._input.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    # ------------------------------------------------------------ the user

    def _typed(self, data: bytes) -> None:
        actions: list[Action] = []
        if self._escapes is not None:
            data, actions = self._escapes.feed(data)
        if data and not self._channel.is_closing():
            self._channel.write(data)
        for action in actions:
            self._obey(action)

    def _obey(self, action: Action) -> None:
        if action is Action.HELP:
            self._output.write(HELP)
        elif action is Action.SUSPEND:
            local_terminal.suspend(self._before)
            self._resized()
        elif not self._ended.done():
            self._ended.set_result(None)

    def _input_ended(self) -> None:
        if not self._channel.is_closing():
            self._channel.write_eof()

    def _resized(self) -> None:
        if not self._channel.is_closing():
            self._channel.change_terminal_size(*local_terminal.size())

    def _exit_code(self) -> int:
        if (killed := self._channel.get_exit_signal()) is not None:
            number = getattr(signal, f"SIG{killed[0]}", None)
            return 128 + int(number) if number is not None else BROKEN
        code = self._channel.get_exit_status()
        if code is None:
            note("The connection to the workspace is closed.")
            return BROKEN
        return code
