"""What a shell leaves behind: found, hung up, killed, except who asked to stay."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from coder_agent import sessions
from coder_agent.testing.deployment import until

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux")

SHELL = """
trap '' HUP; sleep 1001 & kept=$!
trap 'exit 0' HUP; sh -c 'trap "" TERM; echo ready; sleep 1002' & job=$!
echo $kept $job
wait
"""
"""`sleep 1001` ignores hang-ups, as under `nohup`; its children inherit that before the trap is set again."""


def test_a_session_ends_but_for_who_asked_to_stay() -> None:
    shell = subprocess.Popen(["/bin/sh", "-c", SHELL], stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert shell.stdout is not None
        words = f"{shell.stdout.readline()} {shell.stdout.readline()}".replace("ready", "").split()
        kept, job = map(int, words)
        until("sleep has replaced nobody", lambda: {shell.pid, kept, job} <= set(sessions.members(shell.pid)) or None)
        until("it ignores hang-ups", lambda: sessions.ignores_hangup(kept) or None)
        assert kept not in sessions.survivors(shell.pid)
        sessions.hang_up(shell.pid)
        assert shell.wait() == 0
        sessions.kill_survivors(shell.pid)
        until("only who stays is left", lambda: sessions.members(shell.pid) == [kept] or None)
    finally:
        sessions.signal_group(shell.pid, signal.SIGKILL)
        shell.communicate()
    until("nobody is left", lambda: not sessions.members(shell.pid) or None)
    assert not sessions.ignores_hangup(shell.pid)


def test_sessions_of_nobody_are_empty() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
    ended.wait()
    assert sessions.members(ended.pid) == []
    sessions.hang_up(ended.pid)
    sessions.kill_survivors(ended.pid)
