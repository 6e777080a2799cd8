"""`coder terminal` as a person at a keyboard meets it: real server, real agent, and a pseudo-terminal for a desk."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest

from coder_agent.testing.deployment import BIN, Deployment, Registered, kill, until
from coder_agent.testing.processes import Program

pytestmark = [pytest.mark.slow]
PATIENCE = 90.0


@dataclass
class Stage:
    """A deployment that the tests share."""

    place: Deployment
    dev: Registered
    server: Program
    agent: Program


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with Deployment(tmp_path_factory.mktemp("terminal")) as place:
        server = place.start_server()
        place.sign_in()
        dev = place.create("dev")
        yield Stage(place, dev, server, place.start_agent(dev))


@dataclass
class Desk:
    """A program on a terminal of its own."""

    process: subprocess.Popen[bytes]
    master: int
    slave: int
    seen: str = ""
    before: list[object] = field(default_factory=list)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def resize(self, height: int, width: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def until(self, pattern: str) -> re.Match[str]:
        """Read the screen until `pattern` is on it; what was read before a match is not looked at again."""
        end = time.monotonic() + PATIENCE
        while (found := re.search(pattern, self.seen)) is None:
            assert time.monotonic() < end, f"{pattern!r} never came: {self.seen!r}"
            self._read(0.2)
        self.seen = self.seen[found.end() :]
        return found

    def wait(self) -> int:
        """The exit code. What it says meanwhile is read, or it would wait for us."""
        end = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < end, f"it does not end: {self.seen!r}"
            self._read(0.05)
        self._read(0)
        return self.process.returncode

    def _read(self, timeout: float) -> None:
        while select.select([self.master], [], [], timeout)[0]:
            self.seen += os.read(self.master, 65536).decode("utf-8", "replace")
            timeout = 0

    @property
    def is_as_before(self) -> bool:
        """Are the terminal's settings what they were?"""
        return termios.tcgetattr(self.slave) == self.before


@contextmanager
def desk(stage: Stage, *arguments: str) -> Iterator[Desk]:
    master, slave = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    before = termios.tcgetattr(slave)
    user = stage.place.user
    process = subprocess.Popen(
        [str(BIN / "coder"), "terminal", *arguments],
        stdin=slave, stdout=slave, stderr=slave, env=user.environ(), cwd=user.folder, start_new_session=True,
    )  # fmt: skip
    try:
        yield Desk(process, master, slave, before=before)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(master)
        os.close(slave)


def shell(at: Desk) -> None:
    """Until the shell answers."""
    at.until(r"[#$] ")
    at.type("PS1='$ '; echo rea''dy\r")
    at.until("ready\r\n")


def test_a_shell_its_size_and_its_exit_code(stage: Stage) -> None:
    with desk(stage, "dev") as at:
        shell(at)
        at.type("stty size; echo $CODER_WORKSPACE_NAME\r")
        at.until("24 80\r\ndev\r\n")
        at.resize(30, 100)
        at.process.send_signal(signal.SIGWINCH)  # as the kernel does when this is the controlling terminal
        at.type("sleep 0.1; stty size\r")
        at.until("30 100\r\n")
        assert not at.is_as_before
        at.type("exit 42\r")
        assert at.wait() == 42
        assert at.is_as_before


def test_commands_and_their_exit_codes(stage: Stage) -> None:
    coder = stage.place.user.coder
    done = coder("terminal", "dev", "--", "echo a && echo b; exit 7")
    assert (done.code, done.out) == (7, "a\nb\n")
    done = coder("terminal", "dev", "--", "printf", "%s|", "two words", "$HOME")
    assert (done.code, done.out) == (0, "two words|$HOME|")
    assert coder("terminal", "dev", "--", "kill -TERM $$").code == 143


def test_input_from_a_pipe_and_its_end(stage: Stage) -> None:
    done = stage.place.user.run("coder", "terminal", "dev", "--", "cat; exit 9", stdin="line\n")
    assert done.code == 9
    assert done.out.endswith("line\nline\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing",), "nothing"),
        (("dev", "--reconnect", "42"), "is no terminal's UUID"),
        (("dev", "--escape", "ab"), "must be one character, or none"),
        (("dev", "--", "x" * 70000), "the command is too long"),
    ],
    ids=["unknown", "uuid", "escape", "long"],
)
def test_what_cannot_be_done_is_said_in_a_line(stage: Stage, arguments: tuple[str, ...], words: str) -> None:
    done = stage.place.user.coder("terminal", *arguments)
    assert done.code == 1
    assert words in done.err
    assert "Traceback" not in done.err


def test_leaving_and_coming_back(stage: Stage) -> None:
    with desk(stage, "dev") as at:
        shell(at)
        at.type("fruit=apple; printf '\\033[?1049h\\033[?25l'; echo plan''ted\r")
        at.until("planted\r\n")
        at.type("~?")
        at.until("~p  show what carries")
        at.type("\r~p")
        at.until(r"\[(direct|relayed via [^],]+)(, [\d.]+ms)?\]\r\n")
        at.type("\r~.")
        assert at.wait() == 255
        assert at.is_as_before
        assert "\x1b[?1049l" in at.seen  # what the shell had switched on
        assert "\x1b[?25h" in at.seen
        (id,) = re.findall(r"--reconnect (\S+)", at.seen)
    with desk(stage, "dev", "--reconnect", id) as at:
        at.until("planted")
        at.type("echo =$fruit=\r")
        at.until("=apple=")
        at.type("exit\r")
        assert at.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=["term", "hup", "int"])
def test_a_signal_leaves_the_local_terminal_in_order(stage: Stage, number: signal.Signals) -> None:
    with desk(stage, "dev") as at:
        shell(at)
        at.process.send_signal(number)
        assert at.wait() == 128 + number
        assert at.is_as_before


def test_a_killed_and_restarted_server_is_not_even_noticed(stage: Stage) -> None:
    with desk(stage, "dev") as at:
        shell(at)
        at.type("fruit=cherry\r")
        kill(stage.server)
        at.type("echo with''out\r")
        at.until("without\r\n")
        stage.server = stage.place.start_server()
        stage.place.wait_status(stage.dev, "connected")
        at.type("echo =$fruit=\r")
        at.until("=cherry=")
        at.type("exit 0\r")
        assert at.wait() == 0


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_a_restarted_agent_gives_a_new_shell_and_leaves_no_process(stage: Stage, how: str) -> None:
    with desk(stage, "dev") as at:
        shell(at)
        at.type("sleep 1000 & echo job $! shell $$\r")
        found = at.until(r"job (\d+) shell (\d+)\r\n")
        kill(stage.agent) if how == "killed" else stage.agent.stop()
        until("no process is left", lambda: not any(alive(int(pid)) for pid in found.groups()) or None)
        stage.agent = stage.place.start_agent(stage.dev)
        at.until("this is a new one")
        at.type("echo =$((6*7))=\r")
        at.until("=42=")
        at.type("exit 5\r")
        assert at.wait() == 5


def alive(pid: int) -> bool:
    """Is this process there, and not just waiting to be reaped?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_an_opening_that_is_nonsense_is_answered_through_the_tunnel(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Huge, cut and no JSON, from a client of the Python API; the agent serves others as before."""
    import coder_agent

    for name, value in stage.place.user.environ().items():
        monkeypatch.setenv(name, value)

    async def ask(opening: bytes) -> bytes:
        answer = b""
        async with coder_agent.connect("dev") as workspace, await workspace.open_tcp(2) as stream:
            await stream.send(opening)
            await stream.send_eof()
            with anyio.fail_after(PATIENCE):
                async for data in stream:
                    answer += data
        return answer

    assert b"is not JSON" in anyio.run(ask, b"\x05\x00hello")
    assert b"is not JSON" in anyio.run(ask, b"\xff\xff" + b"[" * 65535)
    assert b"before the opening message was complete" in anyio.run(ask, b"\xff\x00{")
    assert stage.place.user.coder("terminal", "dev", "--", "echo fine").out == "fine\n"
