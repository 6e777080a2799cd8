"""A program on a pseudo-terminal: started, read, written, resized, and ended with everything that it left behind."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence

import anyio

from coder_agent.sessions import hang_up, kill_survivors, survivors

from .protocol import Size

DEFAULT_SIZE = Size(80, 80)
"""What a client that says nothing gets (coder coderd/workspaceapps/proxy.go: 80 × 80)."""
READ_SIZE = 64 * 1024
GRACE = 2.0
"""Seconds between the hang-up and the kill. An agent that stops has five for all its services."""
REAP_POLL = 0.05
"""Seconds between two looks at a process, where the system cannot wake us (no pidfd: macOS, Linux before 5.3)."""

# The shell of the system becomes the session's leader, opens the terminal, which so becomes the controlling one, and
# turns into the program. The other way, code of ours between fork and exec, is unsafe as soon as there are threads.
_OPEN_AND_EXEC = 'tty=$1; shift; exec "$@" <>"$tty" >&0 2>&0'


class PtyProcess:
    """One program and its terminal. Every method is called on the event loop's thread."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self._process = process
        self._master = master
        self._closed = False
        self.pid = process.pid

    @classmethod
    def start(cls, argv: Sequence[str], *, env: Mapping[str, str], directory: str, size: Size) -> PtyProcess:
        """Start `argv` as the leader of a session of its own. Raises OSError (no such directory, no more terminals)."""
        master, slave = pty.openpty()
        try:
            os.set_blocking(master, False)
            _set_size(master, size or DEFAULT_SIZE)
            process = subprocess.Popen(
                ["/bin/sh", "-c", _OPEN_AND_EXEC, "sh", os.ttyname(slave), *argv],
                env=dict(env),
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=slave,
                stderr=slave,
                start_new_session=True,
            )
        except BaseException:
            os.close(master)
            raise
        finally:
            os.close(slave)
        return cls(process, master)

    # ------------------------------------------------------------ the terminal

    async def read(self) -> bytes:
        """What the program wrote; at least one byte. Raises anyio.EndOfStream when nobody has the terminal open, and
        anyio.ClosedResourceError when `end` closes it."""
        while True:
            await anyio.wait_readable(self._master)
            if data := self.read_now():
                return data

    def read_now(self) -> bytes:
        """What is there, up to `READ_SIZE` (one read of a terminal gives 4 KiB at most). Raises anyio.EndOfStream."""
        if self._closed:  # the file's number may be another one's by now
            raise anyio.EndOfStream
        parts: list[bytes] = []
        room = READ_SIZE
        while room > 0:
            try:
                part = os.read(self._master, room)
            except BlockingIOError:
                break
            except OSError as exc:
                if exc.errno != errno.EIO:  # EIO is how Linux says that the other end is closed
                    raise
                part = b""
            if not part:
                if parts:
                    break
                raise anyio.EndOfStream
            parts.append(part)
            room -= len(part)
        return b"".join(parts)

    async def write(self, data: bytes) -> None:
        """Type `data`; waits while the program does not read. Raises anyio.BrokenResourceError."""
        view = memoryview(data)
        while view:
            if self._closed:
                raise anyio.BrokenResourceError
            try:
                view = view[os.write(self._master, view) :]
            except BlockingIOError:
                await self._wait_writable()
            except OSError as exc:
                raise anyio.BrokenResourceError from exc

    async def _wait_writable(self) -> None:
        try:
            await anyio.wait_writable(self._master)
        except anyio.ClosedResourceError as exc:
            raise anyio.BrokenResourceError from exc

    def resize(self, size: Size) -> None:
        """The program is told by SIGWINCH, if it changed."""
        if size and not self._closed:
            _set_size(self._master, size)

    def ask_redraw(self) -> None:
        """Tell the program in front that its screen is to be painted again, as if the size had changed."""
        try:
            group = os.tcgetpgrp(self._master)
            if group > 0:
                os.killpg(group, signal.SIGWINCH)
        except OSError:
            pass  # nobody is in front

    # ------------------------------------------------------------ the end

    async def wait(self) -> int:
        """The exit status as a shell says it: 128 + number if a signal ended it."""
        try:
            handle = os.pidfd_open(self.pid)
        except (AttributeError, OSError):
            while self._process.poll() is None:  # noqa: ASYNC110 - nothing else tells us here
                await anyio.sleep(REAP_POLL)
        else:
            try:
                await anyio.wait_readable(handle)
            finally:
                os.close(handle)
        code = self._process.wait()
        return code if code >= 0 else 128 - code

    async def end(self) -> None:
        """Hang up, then kill what does not go; returns when the program is gone. May be called twice.

        Whatever the terminal's session still holds is ended, except what ignores hang-ups (`nohup`): that was asked to
        stay. So was what left the session (`setsid`).
        """
        if self._closed:
            return
        self._closed = True
        with anyio.CancelScope(shield=True):
            hang_up(self.pid)
            anyio.notify_closing(self._master)
            os.close(self._master)
            with anyio.move_on_after(GRACE):
                await self.wait()
                while survivors(self.pid):  # noqa: ASYNC110 - not our children
                    await anyio.sleep(REAP_POLL)
            kill_survivors(self.pid)
            if self._process.poll() is None:
                self._process.kill()
                await self.wait()


def _set_size(master: int, size: Size) -> None:
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", size.height, size.width, 0, 0))
