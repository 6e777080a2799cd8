"""What `coder-agent run` sees to before it starts."""

from __future__ import annotations

import subprocess
import sys

AGENT = """
import os, signal, subprocess
signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
from coder_agent.cli.agent import keep_hang_ups_from_children
keep_hang_ups_from_children()
os.kill(os.getpid(), signal.SIGHUP)
print("alive", flush=True)
subprocess.run(["sh", "-c", "kill -HUP $$; echo the shell lives, too"])
"""


def test_an_agent_under_nohup_lives_on_and_its_shells_hear_hang_ups() -> None:
    done = subprocess.run([sys.executable, "-c", AGENT], capture_output=True, text=True, timeout=90)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr
