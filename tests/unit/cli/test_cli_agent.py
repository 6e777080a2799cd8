"""What `coder-agent run` sees to before it starts."""

from __future__ import annotations

import os
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


VISITED = """
import sys
import anyio
anyio.run = lambda *arguments: None
from coder_agent.cli.app import agent_main
from coder_agent.runtime.proxies import proxy_url
assert agent_main(["--url", "http://127.0.0.1:9", "--token", "x", "run"]) == 0
assert proxy_url("example.com", 443, secure=True, configured=None) is None
print(*sorted(sys.modules))
"""
FOR_VISITORS = {
    "asyncssh", "numpy", "cryptography", "rich", "httpx2", "uvicorn", "starlette", "sqlalchemy", "zeroconf",
    "http.client", "urllib.request", "xml.parsers.expat", "xml.sax", "unittest", "doctest",
    "coder_agent.explain", "coder_agent.verdict",
    "coder_agent_speedtest.protocol", "coder_agent_speedtest.transfer", "coder_agent_port_forward.protocol",
    "coder_agent_port_forward.service", "coder_agent_terminal.protocol", "coder_agent_terminal.session",
    "coder_agent_terminal.pty_process", "coder_agent_discovery_mdns.source",
}  # fmt: skip


def test_an_agent_that_nobody_visits_has_loaded_nothing_for_visitors() -> None:
    """Most agents idle for most of their lives; what they load is what they hold (docs/benchmarks.md, agent_idle)."""
    environ = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environ["CODER_PLUGIN_DISCOVERY_MDNS__ENABLED"] = "false"
    done = subprocess.run([sys.executable, "-c", VISITED], capture_output=True, text=True, timeout=90, env=environ)
    assert done.returncode == 0, done.stderr
    assert FOR_VISITORS & set(done.stdout.split()) == set()


def test_memory_is_given_back_wherever_that_can_be_asked_for() -> None:
    """In a program of its own: the setting is the process's."""
    code = "from coder_agent.runtime import memory; memory.share_one_arena(); memory.give_back(); print('on')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=90)
    assert (done.returncode, done.stdout) == (0, "on\n"), done.stderr
