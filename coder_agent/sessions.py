"""What a shell leaves behind: the processes of its session, and how they are ended when their user is gone.

A session (setsid) is led by its first process, and has that one's number. Its processes get SIGHUP, like those of a
closed terminal, and SIGKILL if they are still there a moment later. Whoever ignores SIGHUP (`nohup`) or made a session
of its own (`setsid`, tmux, an editor's server) wanted to stay, and does.

Source: Linux proc_pid_stat(5) and proc_pid_status(5). Where there is no /proc, the leader's process group has to do.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

_PROC = Path("/proc/self/stat")


def members(session: int) -> list[int]:
    """The living processes of a session; without /proc, none."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _parent, _group, leader = entry.read_bytes().rpartition(b")")[2].split(maxsplit=4)[:4]
        except (OSError, ValueError):  # it ended meanwhile
            continue
        if int(leader) == session and state not in (b"Z", b"X"):
            found.append(int(entry.parent.name))
    return found


def survivors(session: int) -> list[int]:
    """Those of its processes that did not ask to stay."""
    return [pid for pid in members(session) if not ignores_hangup(pid)]


def ignores_hangup(pid: int) -> bool:
    """Whether a process asked not to be ended with its terminal. One that has ended did not."""
    try:
        status = Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return False
    mask = status.partition(b"SigIgn:")[2].split(maxsplit=1)
    return bool(mask) and bool(int(mask[0], 16) & 1 << (signal.SIGHUP - 1))


def hang_up(session: int) -> None:
    """Tell a session's processes that its user is gone. SIGCONT, because a stopped one would not hear it."""
    for number in (signal.SIGHUP, signal.SIGCONT):
        signal_group(session, number)
        for pid in members(session):
            _to_process(pid, number)


def kill_survivors(session: int) -> None:
    """End what a hang-up did not."""
    if not _PROC.exists():
        signal_group(session, signal.SIGKILL)  # who wanted to stay cannot be told apart here
    for pid in survivors(session):
        _to_process(pid, signal.SIGKILL)


def signal_group(group: int, number: int) -> None:
    """Send a signal to a process group, if it is still there and ours."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        pass


def _to_process(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass
