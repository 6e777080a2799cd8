"""SSH where operators have set it up their way, and where its agent or its worker goes away."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from coder_agent.testing.deployment import Deployment, until
from coder_agent.testing.processes import Program

pytestmark = [
    pytest.mark.foreign,
    *(pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is not installed") for name in ("ssh", "scp")),
]
PATIENCE = 60


class Place:
    """A deployment with a message of the day and without file transfer."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.user = deployment.user
        self.workspace = deployment.create("dev")
        self.motd = deployment.folder / "motd"
        self.motd.write_text("Mind the gap\nand the step\n")
        self.agent = self.start_agent()

    def start_agent(self) -> Program:
        env = {
            "CODER_AGENT_URL": self.deployment.url,
            "CODER_AGENT_TOKEN": self.workspace.token,
            "CODER_PLUGIN_SSH__MOTD_FILE": str(self.motd),
            "CODER_AGENT_BLOCK_FILE_TRANSFER": "true",
        }
        agent = self.deployment.start(self.deployment.workspace, "coder-agent", "run", env=env)
        agent.wait_for(r"is up$")
        self.deployment.wait_status(self.workspace, "connected")
        return agent

    def ssh_options(self) -> tuple[str, ...]:
        options = ("StrictHostKeyChecking no", "UserKnownHostsFile /dev/null", "ProxyCommand coder ssh --stdio dev")
        return ("-F", "/dev/null", *(word for option in options for word in ("-o", option)))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with Deployment(tmp_path_factory.mktemp("ssh-faults")) as deployment:
        deployment.start_server()
        deployment.sign_in()
        yield Place(deployment)


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, place: Place, *command: str) -> None:
        self.master, slave = pty.openpty()
        env = place.user.environ({"TERM": "xterm", "PS1": "local> "})
        self.program = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=env, cwd=place.user.folder,
            start_new_session=True, preexec_fn=_take_terminal,
        )  # fmt: skip
        os.close(slave)
        self.said = ""
        self._seen = 0

    def wait_for(self, pattern: str) -> None:
        """Behind what was waited for before. An endless wait is ended by the test's time-out."""
        while not (match := re.compile(pattern).search(self.said, self._seen)):
            self.said += os.read(self.master, 65536).decode("utf-8", "replace")
        self._seen = match.end()

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())


def _take_terminal() -> None:
    """What gives a shell job control."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@contextmanager
def on_terminal(place: Place, *command: str) -> Iterator[Terminal]:
    terminal = Terminal(place, *command)
    try:
        yield terminal
    finally:
        terminal.program.kill()
        terminal.program.wait()
        os.close(terminal.master)


def _children(pid: int, words: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
            line = (path.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if int(fields[1]) == pid and words in line:
            found.append(int(path.parent.name))
    return found


def _running(words: str) -> bool:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().rstrip(b"\0").replace(b"\0", b" ") == words.encode():
                return True
        except OSError:
            continue
    return False


def _not_running(words: str) -> bool:
    return not _running(words)


def test_the_message_of_the_day_and_a_suspended_session(place: Place) -> None:
    """~^Z stops the client as Ctrl-Z does any program: the shell that started it has its terminal back, until fg."""
    with on_terminal(place, "bash", "--norc", "--noprofile", "-i") as terminal:
        terminal.wait_for("local> ")
        terminal.type("coder ssh dev\n")
        terminal.wait_for("Mind the gap\r\nand the step\r\n")
        terminal.wait_for(r"[#$] ")
        terminal.type("\n")
        terminal.wait_for(r"[#$] ")
        terminal.type("~\x1a")
        terminal.wait_for("Stopped")
        terminal.type("stty -a | tr ' ' '\\n' | grep -x 'icanon'; fg\n")  # not raw any more
        terminal.wait_for("icanon\r\n")
        terminal.wait_for("coder ssh dev")
        terminal.type("echo go-$((1 + 1)); exit 6\n")
        terminal.wait_for("go-2")
        terminal.wait_for("local> ")
        terminal.type("echo code-$?\n")
        terminal.wait_for("code-6")


def test_who_wants_quiet_gets_no_message(place: Place) -> None:
    hush = place.deployment.workspace.folder / ".hushlogin"
    hush.touch()
    try:
        with on_terminal(place, "coder", "ssh", "dev") as terminal:
            terminal.wait_for(r"[#$] ")
            assert "gap" not in terminal.said
    finally:
        hush.unlink()


def test_file_transfer_is_refused_and_commands_are_not(place: Place) -> None:
    (place.user.folder / "file").write_text("content")
    assert place.user.run("ssh", *place.ssh_options(), "dev", "echo hi").out == "hi\n"
    for old in ([], ["-O"]):
        done = place.user.run("scp", *old, *place.ssh_options(), "file", "dev:copied")
        assert done.code != 0
        assert "File transfer has been disabled" in done.err
    assert place.user.coder("ssh", "dev", "--", "/usr/bin/rsync --server").code == 65
    assert not (place.deployment.workspace.folder / "copied").exists()


def test_a_port_of_the_user_is_reached_from_the_workspace(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        target = listener.getsockname()[1]

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"from here\n")

        threading.Thread(target=answer, daemon=True).start()
        # the workspace chooses a port that is free at that moment; whoever takes it first makes this a refusal
        for _ in range(5):
            with socket.create_server(("127.0.0.1", 0)) as probe:
                port = probe.getsockname()[1]
            read = f"exec 3<>/dev/tcp/127.0.0.1/{port}; cat <&3"
            done = place.user.coder("ssh", "-R", f"{port}:127.0.0.1:{target}", "dev", "--", f"bash -c '{read}'")
            if "cannot listen" not in done.err:
                break
        assert (done.code, done.out) == (0, "from here\n"), str(done)


def test_a_port_that_is_taken_is_said(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        done = place.user.coder("ssh", "-R", f"{port}:127.0.0.1:1", "dev", "--", "true")
    assert done.code == 1
    assert f"the workspace cannot listen on port {port}" in done.err
    assert "Traceback" not in done.err


def test_config_ssh_asks_before_it_writes(place: Place) -> None:
    config = place.user.folder / "asked"
    command = ("coder", "config-ssh", "--ssh-config-file", str(config))
    with on_terminal(place, *command) as terminal:
        terminal.wait_for(r"Write this to .*asked\?")
        terminal.type("n\n")
        assert terminal.program.wait(PATIENCE) == 1
    assert not config.exists()
    with on_terminal(place, *command, "--ssh-option", "Compression no") as terminal:
        terminal.wait_for(r"\+\tCompression no")
        terminal.wait_for(r"Write this to .*asked\?")
        terminal.type("\n")
        assert terminal.program.wait(PATIENCE) == 0
    assert "\tCompression no\n" in config.read_text()
    with on_terminal(place, *command) as terminal:  # the options of the last run are offered again
        terminal.wait_for(r"Use them again\?")
        terminal.type("y\n")
        terminal.wait_for("is up to date")
        assert terminal.program.wait(PATIENCE) == 0


def test_a_worker_that_died_is_replaced(place: Place) -> None:
    assert place.user.coder("ssh", "dev", "true").code == 0
    (worker,) = _children(place.agent.process.pid, "coder_agent_ssh.worker")
    os.kill(worker, signal.SIGKILL)
    until("it is gone", lambda: worker not in _children(place.agent.process.pid, "coder_agent_ssh.worker") or None)
    done = place.user.coder("ssh", "dev", "echo again")
    assert (done.code, done.out) == (0, "again\n"), str(done)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["asked", "killed"])
def test_an_agent_that_ends_takes_its_sessions_along(place: Place, number: int) -> None:
    """Also when it is killed: the worker sees its control socket close. The next agent serves again."""
    words = f"sleep 11{os.getpid()}{int(number)}"
    client = subprocess.Popen(
        ["coder", "ssh", "dev", "--", words], stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=place.user.environ()
    )
    try:
        until("the command runs", partial(_running, words))
        place.agent.process.send_signal(number)
        place.agent.wait()
        until("no orphan", partial(_not_running, words))
    finally:
        client.kill()
        client.communicate()
    place.agent = place.start_agent()
    assert place.user.coder("ssh", "dev", "echo back").out == "back\n"
