"""A stock `coder ssh` to our agent: killed, its shell ends; without its server, it stays (its tunnel answers pings)."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from coder_agent.testing.deployment import until
from coder_agent.testing.stock_program import StockSite
from coder_agent.testing.tcp_shim import TcpShim
from coder_agent.vigil import GRACE

pytestmark = [pytest.mark.foreign, pytest.mark.slow, pytest.mark.timeout(240)]
BOUND = 3 * GRACE
DIRECT = re.compile(r"path to (\S+): \S+ \(pong\)")


class Shell:
    """The stock client with a shell that reads lines from a pipe."""

    def __init__(self, site: StockSite, url: str) -> None:
        user = site.stranger
        self.process = subprocess.Popen(
            [user.program, "ssh", "dev"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=user.folder,
            env=user.environ({"CODER_URL": url, "CODER_SESSION_TOKEN": site.session}),
        )  # fmt: skip
        self.remote = int(self.ask("echo shell $$", r"shell (\d+)"))

    def ask(self, line: str, answer: str) -> str:
        """Type a line; what the answer's group matched."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()
        while (found := re.search(answer, self.process.stdout.readline().decode())) is None:
            assert self.process.poll() is None, "the client has ended"
        return found[1]

    def lives(self) -> bool:
        """Does the shell in the workspace, which is this machine?"""
        try:
            return Path(f"/proc/{self.remote}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False


@contextmanager
def shell(site: StockSite, url: str) -> Iterator[Shell]:
    running = Shell(site, url)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.communicate()


def test_a_stock_client_that_is_killed_and_one_without_a_server(stock_site: StockSite) -> None:
    outputs = [program for program in stock_site.place.programs if program.name.startswith("coder-agent")]

    def direct() -> int:
        return len({key for program in outputs for key in DIRECT.findall(program.output)})

    before = direct()
    with ExitStack() as middle, ExitStack() as clients:
        shim = middle.enter_context(TcpShim("127.0.0.1", stock_site.place.port))
        killed = clients.enter_context(shell(stock_site, stock_site.place.url))
        cut_off = clients.enter_context(shell(stock_site, f"http://127.0.0.1:{shim.port}"))
        until("two direct paths", lambda: direct() >= before + 2)
        middle.close()
        killed.process.kill()
        until("no shell is left", lambda: not killed.lives(), timeout=BOUND)
        assert cut_off.lives()
        assert cut_off.ask("echo after $((6 * 7))", r"after (\d+)") == "42"
