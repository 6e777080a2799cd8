"""OpenSSH, scp, sftp, rsync, git and paramiko reach a workspace through the tunnel, by `coder ssh --stdio`."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from coder_agent.testing.deployment import Deployment, Result, until

pytestmark = [
    pytest.mark.foreign,
    *(
        pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is not installed")
        for name in ("ssh", "scp", "sftp", "rsync", "git", "ssh-agent")
    ),
]
HOST = "coder.dev"


class Place:
    """A deployment whose user has run `coder config-ssh`, and a connection that all share (ControlMaster)."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.user = deployment.user
        self.home = deployment.user.folder
        self.remote = deployment.workspace.folder
        self.agent = deployment.programs[-1]
        self.config = self.home / ".ssh" / "config"

    def run(self, *command: str, stdin: str | None = None, **env: str) -> Result:
        return self.user.run(*command, stdin=stdin, env=env)

    def ssh(self, *arguments: str, stdin: str | None = None, **env: str) -> Result:
        """Through the shared connection."""
        return self.run("ssh", "-F", str(self.config), *self.shared, *arguments, stdin=stdin, **env)

    def alone(self, *arguments: str, **env: str) -> Result:
        """By a connection of its own."""
        return self.run("ssh", "-F", str(self.config), *arguments, **env)

    @property
    def shared(self) -> tuple[str, ...]:
        path = f"ControlPath={self.home}/master"
        return "-o", path, "-o", "ControlMaster=auto", "-o", "ControlPersist=60"

    def processes(self, words: str) -> list[int]:
        """Processes of this machine with exactly this command line."""
        return [
            int(path.parent.name)
            for path in Path("/proc").glob("[0-9]*/cmdline")
            if _content(path).rstrip(b"\0").replace(b"\0", b" ") == words.encode()
        ]

    def has_no_process(self, words: str) -> bool:
        return not self.processes(words)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with Deployment(tmp_path_factory.mktemp("ssh")) as deployment:
        deployment.start_server()
        deployment.sign_in()
        deployment.start_agent(deployment.create("dev"))
        place = Place(deployment)
        place.config.parent.mkdir(mode=0o700, parents=True)
        place.config.write_bytes(b"# caf\xe9\r\nHost elsewhere\r\n\tUser me")
        done = place.user.coder("config-ssh", "--yes", "--ssh-config-file", str(place.config))
        assert done.code == 0, str(done)
        yield place
        place.run("ssh", "-F", str(place.config), *place.shared, "-O", "exit", HOST)


# ---------------------------------------------------------------- sessions


def test_what_was_in_the_users_file_is_still_there(place: Place) -> None:
    assert place.config.read_bytes().startswith(
        b"# caf\xe9\r\nHost elsewhere\r\n\tUser me\r\n\r\n# ------------START-CODER"
    )
    assert (place.config.parent / "config.coder-backup").read_bytes() == b"# caf\xe9\r\nHost elsewhere\r\n\tUser me"
    again = place.user.coder("config-ssh", "--yes", "--output", "json", "--ssh-config-file", str(place.config)).json()
    assert (again["changed"], again["written"]) == (False, False)


def test_a_command_with_its_streams_and_exit_code(place: Place) -> None:
    done = place.ssh(HOST, "cat; echo oops >&2; exit 7", stdin="through\n")
    assert (done.out, done.err, done.code) == ("through\n", "oops\n", 7)


@pytest.mark.parametrize("host", ["dev.coder", "main.dev.alice.coder", "coder.alice--dev--main"])
def test_the_workspaces_other_names(place: Place, host: str) -> None:
    assert place.run("ssh", "-F", str(place.config), host, "echo $CODER_WORKSPACE_NAME").out == "dev\n"


def test_the_environment(place: Place) -> None:
    done = place.alone("-o", "SetEnv=GREETING=hello", HOST, "env; pwd")
    lines = set(done.out.splitlines())
    assert {"CODER=true", "CODER_WORKSPACE_AGENT_NAME=main", "GREETING=hello", str(place.remote)} <= lines
    assert not [line for line in lines if "TOKEN" in line]


def test_a_huge_environment_is_cut_and_the_command_runs(place: Place) -> None:
    large = {f"V{number}": "x" * 20_000 for number in range(20)}
    done = place.alone("-o", "SendEnv=V*", HOST, "env | grep -c '^V'; exit 2", **large)
    assert (done.out, done.code) == ("13\n", 2)  # 13 of them are the last that fit into 256 KiB
    assert "7 variables too large" in done.err


def test_a_signal_ends_the_command_and_ssh_knows(place: Place) -> None:
    done = place.alone("-v", HOST, "kill -TERM $$")
    assert done.code == 255
    assert "exit-signal" in done.err


def test_a_terminal(place: Place) -> None:
    """A login shell on a terminal of the right size, with resize, Ctrl-C, and its exit code."""
    said, code = _on_terminal(
        place,
        ["ssh", "-F", str(place.config), "-tt", HOST],
        [
            (r"[#$] ", "tty; stty size; echo $0\n"),
            (r"pts/\d+\r\n33 101\r\n-", "sh -c 'echo go-$((1 + 1)); exec sleep 100'\n"),
            ("go-2", "\x03exit 9\n"),
        ],
    )
    assert code == 9, said


def test_our_own_command_on_a_terminal(place: Place) -> None:
    said, code = _on_terminal(place, ["coder", "ssh", "dev"], [(r"[#$] ", "stty size; exit 5\n"), ("33 101", "")])
    assert code == 5, said
    said, code = _on_terminal(place, ["coder", "ssh", "dev"], [(r"[#$] ", "\n~."), ("closed", "")])
    assert code == 255, said


def test_our_own_command_without_a_terminal(place: Place) -> None:
    done = place.run("coder", "ssh", "dev", "-e", "A=b c", "--", "cat; echo $A; exit 3", stdin="x" * 100_000)
    assert (done.code, done.out) == (3, "x" * 100_000 + "b c\n")


def _on_terminal(place: Place, command: list[str], steps: list[tuple[str, str]]) -> tuple[str, int]:
    """Run a program on a terminal of 101 by 33; at each pattern, type what stands beside it."""
    master, slave = pty.openpty()
    subprocess.run(["stty", "cols", "101", "rows", "33"], stdin=slave, check=True)
    env = place.user.environ({"TERM": "xterm", "PS1": "$ "})
    program = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True)
    os.close(slave)
    said = ""
    try:
        for pattern, answer in steps:
            begin = len(said)
            while not re.search(pattern, said[begin:]):
                said += os.read(master, 65536).decode("utf-8", "replace")
            os.write(master, answer.encode())
        while True:
            try:
                data = os.read(master, 65536)
            except OSError:  # the last one closed it
                break
            said += data.decode("utf-8", "replace")
            if not data:
                break
        return said, program.wait(60)
    finally:
        program.kill()
        program.wait()
        os.close(master)


# ---------------------------------------------------------------- files


def test_scp_sftp_and_rsync_carry_files_unchanged(place: Place) -> None:
    data = os.urandom(5_000_003)
    (place.home / "big").write_bytes(data)
    options = ["-F", str(place.config), *place.shared]
    assert place.run("scp", "-q", *options, "big", f"{HOST}:by-scp").code == 0
    assert place.run("scp", "-q", "-O", *options, "big", f"{HOST}:by-old-scp").code == 0
    batch = "put big by-sftp\nmkdir d\nls -l\nget by-sftp back\n"
    assert place.run("sftp", "-b", "-", *options, HOST, stdin=batch).code == 0
    shell = " ".join(["ssh", *options])
    assert place.run("rsync", "-a", "-e", shell, "big", f"{HOST}:by-rsync").code == 0
    assert place.run("rsync", "-a", "-e", shell, f"{HOST}:by-rsync", "again").code == 0
    for name in ("by-scp", "by-old-scp", "by-sftp", "by-rsync"):
        assert (place.remote / name).read_bytes() == data, name
    for name in ("back", "again"):
        assert (place.home / name).read_bytes() == data, name


def test_scp_says_what_is_wrong(place: Place) -> None:
    done = place.run("scp", "-F", str(place.config), *place.shared, f"{HOST}:missing", ".")
    assert done.code == 1
    assert "No such file" in done.err


def test_git_clones_and_pushes(place: Place) -> None:
    git = {"GIT_SSH_COMMAND": " ".join(["ssh", "-F", str(place.config), *place.shared])}
    who = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    assert place.ssh(HOST, "git init -q --bare project.git").code == 0
    assert place.run("git", "clone", "-q", f"{HOST}:project.git", "clone", **git).code == 0
    (place.home / "clone" / "file").write_text("content")
    assert place.run("git", "-C", "clone", "add", "file").code == 0
    assert place.run("git", "-C", "clone", *who, "commit", "-q", "-m", "one").code == 0
    assert place.run("git", "-C", "clone", "push", "-q", "origin", "HEAD:main", **git).code == 0
    assert place.run("git", "clone", "-q", "-b", "main", f"{HOST}:project.git", "second", **git).code == 0
    assert (place.home / "second" / "file").read_text() == "content"


# ---------------------------------------------------------------- forwarding


class Echo:
    """A program that sends everything back, on a TCP port of loopback or a UNIX socket."""

    def __init__(self, path: str = "") -> None:
        family = socket.AF_UNIX if path else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.bind(path or ("127.0.0.1", 0))
        self.socket.listen()
        self.port = 0 if path else self.socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)


def _answers(family: int, address: Any) -> bytes | None:
    """What comes back for "hello"; None if nobody listens yet."""
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(60)
        try:
            client.connect(address)
        except OSError:
            return None
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        data = b""
        while piece := client.recv(100):
            data += piece
        return data


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _forward(place: Place, short: Path, target: int) -> tuple[list[str], int, int, int]:
    """Ask the shared connection for forwards of every kind; with other ports if somebody took one meanwhile."""
    for attempt in range(5):
        local, remote, dynamic = _free_port(), _free_port(), _free_port()
        flags = [
            *("-L", f"127.0.0.1:{local}:127.0.0.1:{target}", "-R", f"{remote}:127.0.0.1:{target}"),
            *("-L", f"{short}/l{attempt}:{short}/echo", "-R", f"{short}/r{attempt}:{short}/echo"),
            *("-D", f"127.0.0.1:{dynamic}", "-o", "ExitOnForwardFailure=yes"),
        ]
        done = place.ssh("-O", "forward", *flags, HOST)
        if done.code == 0:
            for kind in "lr":
                (short / f"{kind}{attempt}").rename(short / {"l": "local", "r": "remote"}[kind])
            return flags, local, remote, dynamic
        place.ssh("-O", "cancel", *flags, HOST)
    raise AssertionError(str(done))


def test_forwards_of_every_kind(place: Place, tmp_path_factory: pytest.TempPathFactory) -> None:
    short = tmp_path_factory.mktemp("s")
    echo, unix = Echo(), Echo(f"{short}/echo")
    place.ssh(HOST, "true")
    flags, local, remote, dynamic = _forward(place, short, echo.port)
    try:
        for family, address in [
            (socket.AF_INET, ("127.0.0.1", local)),
            (socket.AF_INET, ("127.0.0.1", remote)),
            (socket.AF_UNIX, f"{short}/local"),
            (socket.AF_UNIX, f"{short}/remote"),
        ]:
            assert until(str(address), partial(_answers, family, address)) == b"hello"
        with socket.create_connection(("127.0.0.1", dynamic), 10) as proxied:  # SOCKS5, RFC 1928
            proxied.sendall(b"\5\1\0")
            assert proxied.recv(2) == b"\5\0"
            proxied.sendall(b"\5\1\0\1\x7f\0\0\1" + echo.port.to_bytes(2, "big"))
            assert proxied.recv(10)[:2] == b"\5\0"
            proxied.sendall(b"hello")
            assert proxied.recv(100) == b"hello"
        assert os.stat(f"{short}/remote").st_mode & 0o777 == 0o600
    finally:
        place.ssh("-O", "cancel", *flags, HOST)
        echo.socket.close()
        unix.socket.close()


def test_a_refused_forward_says_so(place: Place) -> None:
    done = place.ssh("-W", f"127.0.0.1:{_free_port()}", HOST)
    assert done.code != 0


def test_the_users_ssh_agent_is_reached(place: Place) -> None:
    started = place.run("ssh-agent", "-s").out
    variables = dict(re.findall(r"(SSH_\w+)=([^;]+);", started))
    try:
        assert place.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "my-key", "-f", "key").code == 0
        assert place.run("ssh-add", "-q", "key", **variables).code == 0
        direct = ("ssh", "-F", str(place.config), "-A", HOST)
        for command in (direct, ("coder", "ssh", "-A", "dev", "--")):
            done = place.run(*command, "ssh-add -l", **variables)
            assert "my-key" in done.out, str(done)
        assert place.run(*direct[:3], HOST, "echo -n $SSH_AUTH_SOCK", **variables).out == ""
    finally:
        os.kill(int(variables["SSH_AGENT_PID"]), signal.SIGTERM)


# ---------------------------------------------------------------- as editors use it


def test_many_commands_over_one_connection_and_a_file_about_it(place: Place) -> None:
    """VS Code keeps one connection, runs commands side by side on it, and reads how good it is."""
    info = place.home / "info"
    config = place.home / "vscode-config"
    line = next(text for text in place.config.read_text("latin-1").splitlines() if "ProxyCommand" in text)
    own = line.replace(" %h", f" --network-info-dir {info} --network-info-interval 1s %h")
    config.write_text(f"Host *\n  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n{own}\n")
    master = ["ssh", "-F", str(config), "-o", f"ControlPath={place.home}/vs", "-T"]
    shell = subprocess.Popen(
        [*master, "-o", "ControlMaster=yes", HOST, "sh"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=place.user.environ(), text=True,
    )  # fmt: skip
    assert shell.stdin is not None
    assert shell.stdout is not None
    try:
        shell.stdin.write("echo ready\n")
        shell.stdin.flush()
        assert shell.stdout.readline() == "ready\n"
        commands = [
            subprocess.Popen(
                [*master, HOST, f"echo {n}; exit {n}"], stdout=subprocess.PIPE, env=place.user.environ(), text=True
            )
            for n in range(8)
        ]
        for number, command in enumerate(commands):
            assert command.communicate(timeout=60)[0] == f"{number}\n"
            assert command.returncode == number
        file = info / f"{shell.pid}.json"
        until("the file", lambda: file.exists() or None)
        document = json.loads(file.read_text())
        assert set(document) == {
            "p2p", "latency", "preferred_derp", "derp_latency", "upload_bytes_sec", "download_bytes_sec",
            "using_coder_connect",
        }  # fmt: skip
        assert document["latency"] > 0
        assert file.stat().st_mode & 0o777 == 0o600
    finally:
        shell.kill()
        shell.communicate()
    until("the file is gone", lambda: not file.exists() or None)


def test_paramiko(place: Place) -> None:
    paramiko = pytest.importorskip("paramiko")
    ours, theirs = socket.socketpair()
    proxy = subprocess.Popen(
        ["coder", "ssh", "--stdio", "dev"], stdin=theirs.fileno(), stdout=theirs.fileno(), env=place.user.environ()
    )
    theirs.close()
    transport = paramiko.Transport(ours)
    try:
        transport.start_client(timeout=60)
        transport.auth_none("anyone")
        channel = transport.open_session()
        channel.exec_command("echo hi; exit 4")
        assert channel.makefile("rb").read() == b"hi\n"
        assert channel.recv_exit_status() == 4
        with paramiko.SFTPClient.from_transport(transport) as sftp:
            with sftp.open("by-paramiko", "w") as file:
                file.write(b"data" * 10_000)
            assert sftp.stat("by-paramiko").st_size == 40_000
    finally:
        transport.close()
        ours.close()
        proxy.wait(60)


# ---------------------------------------------------------------- faults


def test_garbage_instead_of_a_version_ends_that_connection_alone(place: Place) -> None:
    for garbage in ("GET / HTTP/1.1\r\n\r\n", "\0" * 70_000, "SSH-1.0-old\r\n", "SSH-2.0-x\r\n" + "\xff" * 400):
        done = place.run("coder", "ssh", "--stdio", "dev", stdin=garbage)
        assert "Traceback" not in done.err
    assert place.ssh(HOST, "echo alive").out == "alive\n"


@pytest.mark.parametrize("own", [False, True], ids=["ssh", "coder-ssh"])
def test_a_killed_client_leaves_no_processes(place: Place, own: bool) -> None:
    """Neither those that heed the hang-up nor those that ignore all but SIGKILL; only who asked to stay (nohup)."""
    mark = f"10{os.getpid()}{int(own)}"
    stubborn = f"sh -c 'trap : HUP TERM; while :; do sleep {mark}2; done'"
    script = f"nohup sleep {mark}3 >/dev/null 2>&1 & sleep {mark}1 & {stubborn}"
    command = ["coder", "ssh", "dev", "--"] if own else ["ssh", "-F", str(place.config), HOST]
    client = subprocess.Popen([*command, script], stdin=subprocess.PIPE, env=place.user.environ())
    try:
        for number in (1, 2, 3):
            until("the processes run", partial(place.processes, f"sleep {mark}{number}"))
        client.terminate() if own else client.kill()
        client.wait(60)
        for number in (1, 2):  # the second heeds nothing but SIGKILL
            until("no orphan", partial(place.has_no_process, f"sleep {mark}{number}"))
        kept = place.processes(f"sleep {mark}3")
    finally:
        client.kill()
        client.communicate()
        for pid in place.processes(f"sleep {mark}3"):
            os.kill(pid, signal.SIGKILL)
    assert kept


def test_an_unknown_workspace_is_said_at_once(place: Place) -> None:
    done = place.run("coder", "ssh", "nowhere", "true")
    assert done.code == 1
    assert "not found" in done.err
