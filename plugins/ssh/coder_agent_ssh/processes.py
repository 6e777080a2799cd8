"""Users' processes: starting them with or without a terminal, and hearing of their end. Each leads a session (setsid),
which ends with the connection (coder_agent.sessions)."""

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

from coder_agent.sessions import signal_group

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
        signal_group(process.pid, number)
