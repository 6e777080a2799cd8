"""Users' processes: starting them with or without a terminal, hearing of their end, and ending them.

A session's processes are those of the session (setsid) that its first process leads. When the connection goes, they
get SIGHUP like those of a closed terminal, and SIGKILL if they are still there a moment later. Whoever ignores SIGHUP
(nohup) or made a session of its own (setsid, tmux, an editor's server) wanted to stay, and does.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

GRACE = 3.0
"""Seconds between SIGHUP and SIGKILL."""

CHARACTERS = {
    1: "VINTR", 2: "VQUIT", 3: "VERASE", 4: "VKILL", 5: "VEOF", 6: "VEOL", 7: "VEOL2", 8: "VSTART", 9: "VSTOP",
    10: "VSUSP", 12: "VREPRINT", 13: "VWERASE", 14: "VLNEXT", 18: "VDISCARD",
}  # fmt: skip
FLAGS = {
    30: (0, "IGNPAR"), 31: (0, "PARMRK"), 32: (0, "INPCK"), 33: (0, "ISTRIP"), 34: (0, "INLCR"), 35: (0, "IGNCR"),
    36: (0, "ICRNL"), 38: (0, "IXON"), 39: (0, "IXANY"), 40: (0, "IXOFF"), 41: (0, "IMAXBEL"), 42: (0, "IUTF8"),
    50: (3, "ISIG"), 51: (3, "ICANON"), 53: (3, "ECHO"), 54: (3, "ECHOE"), 55: (3, "ECHOK"), 56: (3, "ECHONL"),
    57: (3, "NOFLSH"), 58: (3, "TOSTOP"), 59: (3, "IEXTEN"), 60: (3, "ECHOCTL"), 61: (3, "ECHOKE"),
    70: (1, "OPOST"), 72: (1, "ONLCR"), 73: (1, "OCRNL"), 74: (1, "ONOCR"), 75: (1, "ONLRET"),
}  # fmt: skip
"""Terminal modes by their numbers in RFC 4254 §8; flags with their place in tcgetattr's answer (input 0, output 1,
local 3). A name that this system has not is left out."""
DISABLED = 255
"""A character that is switched off, in the same table of the RFC."""
_PROC = Path("/proc/self/stat")


def set_size(terminal: int, columns: int, rows: int, width: int = 0, height: int = 0) -> None:
    """Tell a terminal its size, and so the processes on it (SIGWINCH). Units: characters, pixels."""
    size = struct.pack("HHHH", *(min(value, 0xFFFF) for value in (rows, columns, width, height)))
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)


def set_modes(terminal: int, modes: Mapping[int, int]) -> None:
    """Make a new terminal like the user's."""
    state = termios.tcgetattr(terminal)
    for number, value in modes.items():
        if number in CHARACTERS and (index := getattr(termios, CHARACTERS[number], None)) is not None:
            state[6][index] = b"\0" if value == DISABLED else bytes([value & 0xFF])
        elif number in FLAGS:
            place, name = FLAGS[number]
            bit = getattr(termios, name, 0)
            state[place] = state[place] | bit if value else state[place] & ~bit
    termios.tcsetattr(terminal, termios.TCSANOW, state)


def start_on_terminal(
    arguments: list[str], program: str, terminal: int, environment: Mapping[str, str], directory: str
) -> subprocess.Popen[bytes]:
    """Start a process that leads a session on `terminal` (the slave's descriptor). Raises OSError."""
    return subprocess.Popen(
        arguments,
        executable=program,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=dict(environment),
        cwd=directory,
        start_new_session=True,
        preexec_fn=_take_terminal,
    )


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def start_on_pipes(
    arguments: list[str], program: str, environment: Mapping[str, str], directory: str
) -> subprocess.Popen[bytes]:
    """Start a process that leads a session, with pipes for its three streams. Raises OSError."""
    return subprocess.Popen(
        arguments,
        executable=program,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(environment),
        cwd=directory,
        start_new_session=True,
        bufsize=0,
    )


def on_exit(process: subprocess.Popen[bytes], tell: Callable[[int], None]) -> None:
    """Call `tell` on the loop with the return code (negative: the signal) when the process has ended."""
    loop = asyncio.get_running_loop()
    if hasattr(os, "pidfd_open"):
        try:
            watch = os.pidfd_open(process.pid)
        except OSError:  # a kernel without, or no descriptors left: a thread will do
            pass
        else:

            def ended() -> None:
                loop.remove_reader(watch)
                os.close(watch)
                tell(process.wait())

            loop.add_reader(watch, ended)
            return

    def wait() -> None:
        code = process.wait()
        loop.call_soon_threadsafe(tell, code)

    threading.Thread(target=wait, daemon=True).start()


def send_signal(process: subprocess.Popen[bytes], name: str) -> None:
    """Send a signal, by its name in SSH ("TERM"), to the process's group; unknown names are ignored."""
    number = getattr(signal, f"SIG{name}", None)
    if isinstance(number, signal.Signals):
        _to_group(process.pid, number)


def hang_up(process: subprocess.Popen[bytes]) -> None:
    """Tell a session's processes that its user is gone. SIGCONT, because a stopped one would not hear it."""
    for number in (signal.SIGHUP, signal.SIGCONT):
        _to_group(process.pid, number)
        for pid in members(process.pid):
            _to_process(pid, number)


def kill_survivors(process: subprocess.Popen[bytes]) -> None:
    """End what a hang-up did not."""
    if not _PROC.exists():
        _to_group(process.pid, signal.SIGKILL)  # who wanted to stay cannot be told apart here
    for pid in members(process.pid):
        if not ignores_hangup(pid):
            _to_process(pid, signal.SIGKILL)


def members(session: int) -> list[int]:
    """Processes of a session (Linux; elsewhere none, and the group has to do)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_bytes().rpartition(b")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if len(fields) > 3 and int(fields[3]) == session and fields[0] != b"Z":
            found.append(int(entry.parent.name))
    return found


def ignores_hangup(pid: int) -> bool:
    """Whether a process asked not to be ended with its terminal (nohup)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    for line in status.splitlines():
        if line.startswith("SigIgn:"):
            return bool(int(line.split()[1], 16) & 1 << (signal.SIGHUP - 1))
    return False


def _to_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        pass


def _to_process(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass
