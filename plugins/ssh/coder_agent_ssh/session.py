"""One session of a user: a shell, a command or sftp (RFC 4254 §6)."""

from __future__ import annotations

import asyncio
import os
import pty
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import asyncssh
from asyncssh.channel import SSHChannel
from asyncssh.stream import SSHServerStreamSession

from coder_agent import sessions

from . import processes
from .environment import accepted, base_environment, directory
from .pipes import Input, Output

if TYPE_CHECKING:
    from .server import Service

BLOCKED = ("nc", "rsync", "scp", "sftp")
BLOCKED_CODE = 65
"""Exit code of a refused file transfer (coder agent/agentssh/agentssh.go, BlockedFileTransferErrorCode)."""
NOT_STARTED = 126
MAX_MOTD = 64 << 10
SFTP_VERSION = 3
"""What OpenSSH speaks (draft-ietf-secsh-filexfer-02)."""


class HomeSftp(asyncssh.SFTPServer):
    """sftp in the user's home: the worker's own directory. Tells the client that all went well: scp asks."""

    def exit(self) -> None:
        self.channel.exit(0)


def home_sftp(channel: SSHChannel[bytes]) -> asyncssh.SFTPServer:
    """asyncssh wants a function."""
    assert isinstance(channel, asyncssh.SSHServerChannel)
    return HomeSftp(channel)


class Session(asyncssh.SSHServerSession[bytes]):
    """From the channel's opening to its end. asyncssh calls it, on the loop."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._channel: asyncssh.SSHServerChannel[bytes]
        self._terminal: tuple[tuple[int, int, int, int], Mapping[int, int]] | None = None
        self._command: str | None = None
        self._sftp: SSHServerStreamSession[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._input: Input | None = None
        self._outputs: list[Output] = []
        self._code: int | None = None
        self._master = -1
        self.gone = asyncio.Event()
        """There is no process any more."""

    # ------------------------------------------------------------ what asyncssh asks

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._channel = chan
        self._service.sessions.add(self)

    def pty_requested(
        self, term_type: str, term_size: tuple[int, int, int, int], term_modes: Mapping[int, int]
    ) -> bool:
        self._terminal = term_size, term_modes
        return True

    def shell_requested(self) -> bool:
        return True

    def exec_requested(self, command: str) -> bool:
        self._command = command
        return True

    def subsystem_requested(self, subsystem: str) -> bool:
        if subsystem != "sftp":
            return False
        self._sftp = SSHServerStreamSession(None, home_sftp, SFTP_VERSION)
        self._sftp.connection_made(self._channel)
        return True

    def session_started(self) -> None:
        if self._is_blocked():
            self._channel.write_stderr(b"File transfer has been disabled.\r\n")
            self._channel.exit(BLOCKED_CODE)
        elif self._sftp is not None:
            self._sftp.session_started()
        elif self._wants_own_scp():
            assert self._command is not None
            self._sftp = SSHServerStreamSession(None, home_sftp, SFTP_VERSION, allow_scp=True)
            self._sftp.connection_made(self._channel)
            self._sftp.session_started()
        else:
            self._start()

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        if self._sftp is not None:
            self._sftp.data_received(data, datatype)
        elif self._input is not None:
            self._input.write(data)

    def eof_received(self) -> bool:
        if self._sftp is not None:
            return bool(self._sftp.eof_received())
        if self._input is not None and self._terminal is None:
            self._input.end()
        return True  # the other direction lives on

    def pause_writing(self) -> None:
        if self._sftp is not None:
            self._sftp.pause_writing()
        for output in self._outputs:
            output.pause()

    def resume_writing(self) -> None:
        if self._sftp is not None:
            self._sftp.resume_writing()
        for output in self._outputs:
            output.resume()

    def terminal_size_changed(self, width: int, height: int, pixwidth: int, pixheight: int) -> None:
        if self._master >= 0 and self._outputs[0].open:
            processes.set_size(self._master, width, height, pixwidth, pixheight)

    def signal_received(self, signal: str) -> None:
        if self._process is not None and self._code is None:
            processes.send_signal(self._process, signal)

    def connection_lost(self, exc: Exception | None) -> None:
        """The channel is gone: after our own exit, or because the client left."""
        if self._sftp is not None:
            self._sftp.connection_lost(exc)
        self._close_streams()
        if self._process is None or self._code is not None:
            self._service.sessions.discard(self)
            return
        self.hang_up()
        asyncio.get_running_loop().call_later(processes.GRACE, self.kill)

    # ------------------------------------------------------------ the process

    @property
    def running(self) -> bool:
        """There is a process that has not ended."""
        return self._process is not None and self._code is None

    def hang_up(self) -> None:
        """Tell the processes that the user is gone."""
        if not self.running:
            self.gone.set()
        else:
            assert self._process is not None
            sessions.hang_up(self._process.pid)

    def kill(self) -> None:
        """End what survived the hang-up."""
        if self._process is not None:
            sessions.kill_survivors(self._process.pid)
        self._service.sessions.discard(self)

    def _start(self) -> None:
        channel, service = self._channel, self._service
        sent, refused = accepted(dict(channel.get_environment_bytes()))
        environment = base_environment(os.environ, service.account, service.place) | sent | self._facts()
        if refused:
            names = ", ".join(refused[:5]) + (" …" if len(refused) > 5 else "")
            channel.write_stderr(f"coder: {len(refused)} variables too large or misnamed: {names}\r\n".encode())
        shell = service.account.shell
        where = directory(service.place, service.account)
        if self._command is None:
            arguments = [f"-{os.path.basename(shell)}"]  # a dash in front makes it a login shell (login(1))
        else:
            arguments = [os.path.basename(shell), "-c", self._command]
        try:
            if self._terminal is not None:
                self._on_terminal(arguments, shell, environment, where)
            else:
                self._on_pipes(arguments, shell, environment, where)
        except (OSError, ValueError) as exc:
            channel.write_stderr(f"coder: cannot start {shell}: {exc}\r\n".encode())
            channel.exit(NOT_STARTED)
            return
        assert self._process is not None
        processes.on_exit(self._process, self._exited)

    def _facts(self) -> dict[str, str]:
        """What the session itself adds (sshd(8), ENVIRONMENT)."""
        (peer, peer_port), (local, local_port) = self._service.request.peer, self._service.request.local
        facts = {
            "SSH_CLIENT": f"{peer} {peer_port} {local_port}",
            "SSH_CONNECTION": f"{peer} {peer_port} {local} {local_port}",
        }
        if self._terminal is not None:
            facts["TERM"] = self._channel.get_terminal_type() or "dumb"
        if agent := self._channel.get_agent_path():
            facts["SSH_AUTH_SOCK"] = agent
        return facts

    def _on_terminal(self, arguments: list[str], shell: str, environment: dict[str, str], where: str) -> None:
        assert self._terminal is not None
        size, modes = self._terminal
        master, slave = pty.openpty()
        try:
            processes.set_size(slave, *size)
            processes.set_modes(slave, modes)
            environment["SSH_TTY"] = os.ttyname(slave)
            if self._command is None:
                self._greet()
            self._process = processes.start_on_terminal(arguments, shell, slave, environment, where)
        except BaseException:
            os.close(master)
            raise
        finally:
            os.close(slave)
        self._master = master
        self._input = Input(os.dup(master), self._channel.pause_reading, self._channel.resume_reading)
        self._outputs = [Output(master, self._channel.write, self._maybe_done)]

    def _on_pipes(self, arguments: list[str], shell: str, environment: dict[str, str], where: str) -> None:
        process = self._process = processes.start_on_pipes(arguments, shell, environment, where)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        stdin, stdout, stderr = (os.dup(stream.fileno()) for stream in (process.stdin, process.stdout, process.stderr))
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()
        self._input = Input(stdin, self._channel.pause_reading, self._channel.resume_reading)
        self._outputs = [
            Output(stdout, self._channel.write, self._maybe_done),
            Output(stderr, self._channel.write_stderr, self._maybe_done),
        ]

    def _greet(self) -> None:
        """The message of the day, as on a real terminal; not for those who asked for quiet (login(1))."""
        name, home = self._service.request.motd_file, Path(self._service.account.home)
        if not name or (home / ".hushlogin").exists():
            return
        try:
            with open(name, "rb") as file:
                text = file.read(MAX_MOTD)
        except OSError:
            return
        if text.strip():
            self._channel.write(text.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))

    def _exited(self, code: int) -> None:
        self._code = code
        self.gone.set()
        if self._terminal is not None:  # what keeps the terminal open in the background does not keep the session
            for output in self._outputs:
                output.drain()
                output.close()
        if self._channel.is_closing():
            return
        self._maybe_done()

    def _maybe_done(self) -> None:
        """Everything was said and the process is gone: tell the client how it ended."""
        if self._code is None or any(output.open for output in self._outputs):
            return
        self._close_streams()
        if self._code >= 0:
            self._channel.exit(self._code)
            return
        name = signal.Signals(-self._code).name.removeprefix("SIG") if -self._code in _KNOWN else str(-self._code)
        self._channel.exit_with_signal(name)

    def _close_streams(self) -> None:
        if self._input is not None:
            self._input.close()
        for output in self._outputs:
            output.close()

    # ------------------------------------------------------------ copying files

    def _is_blocked(self) -> bool:
        if not self._service.request.block_file_transfer:
            return False
        words = (self._command or "").split()
        return self._sftp is not None or bool(words and os.path.basename(words[0]) in BLOCKED)

    def _wants_own_scp(self) -> bool:
        """``scp -O`` runs the workspace's scp; where there is none, asyncssh has one."""
        is_scp = self._command is not None and self._command.startswith("scp ")
        return is_scp and self._terminal is None and shutil.which("scp") is None


_KNOWN = {int(number) for number in signal.Signals}
