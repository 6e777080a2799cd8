"""Every command of both programs, core's and plugins': JSON for programs, and one line when something is wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from coder_agent.cli.app import main
from coder_agent.cli.context import Cli
from coder_agent.cli.lazy import Stub
from coder_agent.runtime.http import ApiClient
from coder_agent.testing.deployment import PASSWORD, Deployment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

STREAMS = {
    "completion": "prints a script",
    "derp": "stays, and says what happens in log lines",
    "run": "stays, likewise",
    "server": "stays, likewise; as JSON with --log-json",
    "ssh": "its output is the remote program's",
    "terminal": "its output is the remote program's",
}
"""Commands without --output, and why."""

JSON = (
    ("create", "other"),
    ("list", ""),
    ("agent-token", "other --yes"),
    ("app add", "dev web http://localhost:8080"),
    ("app list", "dev"),
    ("app remove", "dev web"),
    ("port-share", "dev 8080"),
    ("path-rules", "dev"),
    ("connections", ""),
    ("users create", "bob --email bob@example.com"),
    ("users list", ""),
    ("users suspend", "bob"),
    ("users activate", "bob"),
    ("users edit-roles", "bob --roles member"),
    ("users password", "bob"),
    ("users delete", "bob"),
    ("tokens create", "--name t"),
    ("tokens list", ""),
    ("tokens remove", "t"),
    ("health", ""),
    ("config show", ""),
    ("config-ssh", "--dry-run --yes"),
    ("plugins list", ""),
    ("plugins info", "ssh"),
    ("plugins hooks", ""),
    ("airgap check", ""),
    ("support bundle", "--dry-run"),
    ("netcheck", "--report {folder}/report.json"),
    ("lab replay", "{folder}/report.json"),
    ("lab matrix", "--only same-nat,open"),
    ("delete", "other --yes"),
    ("login", "{url} --email alice@example.com --global-config {folder}/second"),
    ("logout", "--global-config {folder}/second"),
)
"""What is cheap to ask, in an order in which all of it succeeds."""
ELSEWHERE = {
    "ping": "test_commands.py, for it needs an agent",
    "path": "test_why_relayed.py, likewise",
    "speedtest": "test_commands.py, likewise",
    "port-forward": "test_port_forward.py: an event a line, until it is stopped",
    "tunnel": "another name of port-forward",
}
LOCAL = {"config show", "plugins list", "plugins info", "plugins hooks", "airgap check", "lab matrix", "lab replay"}
"""What needs no server."""
OF_A_WORKSPACE = (
    "agent-token {} --yes", "app add {} web http://localhost:8080", "app list {}", "app remove {} web",
    "connections {}", "delete {} --yes", "path {}", "path-rules {}", "ping {}", "port-forward {} --tcp 8080",
    "port-share {} 8080",
    "speedtest {}", "ssh {} -- true", "support bundle {} --yes --output-file {folder}/b.zip", "terminal {} -- true",
)  # fmt: skip
WITHOUT_SERVER = {
    **dict(JSON),
    **{line.partition(" {}")[0]: "dev" + line.partition(" {}")[2] for line in OF_A_WORKSPACE},
    "support bundle": "",
}


@dataclass
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str

    def check_refused(self) -> None:
        """One line of what is wrong, perhaps one of what to do."""
        assert self.code == 1, self
        assert "\nerror: " in f"\n{self.err}", self
        assert "Traceback" not in self.err + self.out


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(tmp_path_factory.mktemp("every")) as deployment:
        deployment.start_server()
        deployment.sign_in()
        deployment.create("dev")
        yield deployment


@pytest.fixture
def run(
    place: Deployment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Callable[[str], Said]]:
    """Runs a command in this process, which spares the start of a hundred others."""
    monkeypatch.chdir(tmp_path)
    for name, value in place.user.environ().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CODER_PASSWORD", PASSWORD)
    monkeypatch.setenv("CODER_NEW_USER_PASSWORD", PASSWORD)

    def call(line: str) -> Said:
        capsys.readouterr()
        code = main(line.split())
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    with open(os.devnull, encoding="utf-8") as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        yield call


def commands() -> dict[str, Stub]:
    """All of both programs, by what is typed."""
    found = {}
    for program in ("coder", "coder-agent"):
        cli = Cli(program, {"no_plugins": False}, {})
        for spec in cli.host.commands():
            if spec.program == program:
                found[f"{spec.group} {spec.name}".strip()] = Stub(spec)
    return found


def test_every_command_has_json_or_a_reason() -> None:
    without = {
        name
        for name, stub in commands().items()
        if not any("--output" in parameter.opts for parameter in stub.load([]).params)
    }
    assert without == set(STREAMS)


def test_every_json_is_asked_for_here_or_elsewhere() -> None:
    assert set(dict(JSON)) | set(ELSEWHERE) | set(STREAMS) == set(commands())


def test_what_is_cheap_answers_in_json(run: Callable[[str], Said], place: Deployment, tmp_path: Path) -> None:
    for name, arguments in JSON:
        said = run(f"{name} {arguments.format(folder=tmp_path, url=place.url)} --output json")
        assert said.code == 0, f"{name}: {said}"
        json.loads(said.out)


@pytest.mark.parametrize("name", sorted(set(WITHOUT_SERVER) - LOCAL))
def test_without_a_server(
    run: Callable[[str], Said], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setenv("CODER_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("CODER_SESSION_TOKEN", "AAAAAAAAAA-BBBBBBBBBBBBBBBBBBBBBB")
    said = run(f"{name} {WITHOUT_SERVER[name].format(folder=tmp_path, url='')}")
    if name in ("config-ssh", "logout", "support bundle"):  # do what can be done
        assert "Traceback" not in said.err + said.out
    else:
        said.check_refused()
    assert "BBBBBBBB" not in said.err + said.out


@pytest.mark.parametrize("line", OF_A_WORKSPACE, ids=[line.partition(" {}")[0] for line in OF_A_WORKSPACE])
def test_a_workspace_that_there_is_not(run: Callable[[str], Said], tmp_path: Path, line: str) -> None:
    said = run(f"{line.format('nowhere', folder=tmp_path)}")
    if line.startswith("support bundle"):  # makes one of the rest
        assert "not in it: workspace/" in said.err
    else:
        said.check_refused()


@pytest.mark.parametrize("name", sorted(set(WITHOUT_SERVER) - LOCAL - {"login"}))
def test_a_token_that_is_none(
    run: Callable[[str], Said], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setenv("CODER_SESSION_TOKEN", "AAAAAAAAAA-BBBBBBBBBBBBBBBBBBBBBB")
    said = run(f"{name} {WITHOUT_SERVER[name].format(folder=tmp_path, url='')}")
    if name in ("config-ssh", "logout", "support bundle", "netcheck"):  # do what can be done
        assert "Traceback" not in said.err + said.out
    else:
        said.check_refused()
    assert "BBBBBBBB" not in said.err + said.out


@pytest.mark.parametrize("name", sorted(set(dict(JSON)) - LOCAL - {"logout", "support bundle"}))
def test_ctrl_c_while_the_server_is_asked(
    run: Callable[[str], Said], place: Deployment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    """The signal itself, as it comes while an answer is waited for. Those that do more: test_commands.py."""

    async def interrupted(*arguments: object, **options: object) -> None:
        signal.raise_signal(signal.SIGINT)
        await anyio.sleep_forever()

    monkeypatch.setattr(ApiClient, "call", interrupted)
    said = run(f"{name} {WITHOUT_SERVER[name].format(folder=tmp_path, url=place.url)}")
    assert said.code == 130, said
    assert "Traceback" not in said.err + said.out


def test_nobody_reads_or_there_is_no_room_or_nothing_to_write_to(place: Deployment) -> None:
    """A pipe that is closed, a full disk, no stdout at all."""
    environ = place.user.environ()
    for line in ("plugins list", "config show --output json", "--help", "--version"):
        shell = f"coder {line}"
        pipe = subprocess.run(
            ["sh", "-c", f"{shell} | head -c 1"], env=environ, capture_output=True, text=True, timeout=90, check=False
        )
        assert (len(pipe.stdout), pipe.stderr) == (1, ""), line
        full = subprocess.run(
            ["sh", "-c", f"{shell} >/dev/full"], env=environ, capture_output=True, text=True, timeout=90, check=False
        )
        assert (full.returncode, full.stderr) == (1, f"error: cannot write the output: {os.strerror(28)}\n"), line
        closed = subprocess.run(
            ["sh", "-c", f"{shell} >&-"], env=environ, capture_output=True, text=True, timeout=90, check=False
        )
        assert (closed.returncode, closed.stderr) == (0, ""), line


FULL = """
mount -t tmpfs -o size=16k none "$DISK" || exit 77
cd "$DISK"
printf 'Host mine\\n' > config
cat /dev/zero > rest 2>/dev/null
for line in \
    "support bundle --yes --output-file $DISK/b.zip" \
    "netcheck --report $DISK/r.json" \
    "config-ssh --yes --ssh-config-file $DISK/config" \
    "--global-config $DISK login $SERVER --email alice@example.com"
do coder $line >/dev/null; echo "exit $?"; done
cat config
rm -f r.json  # what there was room for
ls
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_said_and_what_was_there_stays(place: Deployment, tmp_path: Path) -> None:
    environ = place.user.environ({"DISK": str(tmp_path), "SERVER": place.url, "CODER_PASSWORD": PASSWORD})
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", FULL], env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode == 77:
        pytest.skip("nothing may be mounted here")
    assert done.stdout == "exit 1\n" * 4 + "Host mine\nconfig\nrest\n", done
    assert len(re.findall(r"^error: .*No space left on device", done.stderr, re.MULTILINE)) == 4, done.stderr
    assert "Traceback" not in done.stderr
