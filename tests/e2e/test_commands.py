"""What the commands say to programs, and how they end when somebody presses Ctrl-C."""

from __future__ import annotations

import json
import re
import shutil
import socket
import struct
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from coder_agent.testing.deployment import Deployment, Registered, interrupt
from coder_agent.testing.processes import Program

pytestmark = [pytest.mark.slow]
QUICK = 30.0
"""Seconds a program may take to end. It says goodbye to a server for at most 5 s (agents) or 1 s (clients)."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A server, a user, a workspace with its agent."""
    with Deployment(tmp_path_factory.mktemp("commands")) as deployment:
        deployment.start_server()
        deployment.sign_in()
        yield deployment


@pytest.fixture(scope="module")
def dev(place: Deployment) -> Registered:
    workspace = place.create("dev")
    place.start_agent(workspace)
    return workspace


def test_delete_asks_first(place: Deployment) -> None:
    workspace = place.create("doomed")
    kept = place.user.run("coder", "delete", workspace.name, stdin="n\n")
    assert (kept.code, kept.out.strip()) == (1, "")
    assert "stays" in kept.err
    assert place.status(workspace.name) == "connecting"
    gone = place.user.run("coder", "delete", workspace.name, stdin="y\n")
    assert (gone.code, gone.out.strip()) == (0, "Workspace alice/doomed is removed.")


# ---------------------------------------------------------------- for programs


def test_ping_as_json(place: Deployment, dev: Registered) -> None:
    document = place.user.coder("ping", dev.name, "-n", "3", "--wait", "50ms", "--output", "json").json()
    assert document["workspace"] == "dev"
    assert [pong["sequence"] for pong in document["pongs"]] == [1, 2, 3]
    assert all(pong["error"] is None and pong["latency_ms"] > 0 for pong in document["pongs"])
    assert document["summary"]["total"] == document["summary"]["successful"] == 3


def test_speedtest_both_ways_with_several_streams(place: Deployment, dev: Registered) -> None:
    flags = ["-t", "1s", "--direction", "both", "--parallel", "3"]
    document = place.user.coder("speedtest", dev.name, *flags, "--output", "json").json()
    assert {row["direction"] for row in document["intervals"]} == {"down", "up"}
    assert document["down"]["throughput_mbits"] > 1
    assert document["up"]["throughput_mbits"] > 1
    assert 0 < document["bottleneck"]["sender_cpu"] < 2  # the agent told its figures, too
    assert 0 < document["bottleneck"]["receiver_cpu"] < 2
    table = place.user.coder("speedtest", dev.name, *flags)
    assert {line.split()[0] for line in table.out.splitlines() if " sec " in line} == {"down", "up"}
    assert table.out.splitlines()[-1].startswith("limited by ")


@pytest.mark.parametrize("direction", ["down", "up"])
def test_speedtest_as_json(place: Deployment, dev: Registered, direction: str) -> None:
    flags = ["-t", "1s", "--direction", direction, "--output", "json", "--disable-direct-connections"]
    document = place.user.coder("speedtest", dev.name, *flags).json()
    assert document["path"] == "coder"
    assert document["overall"]["throughput_mbits"] > 1
    assert document["overall"]["end_time_seconds"] == pytest.approx(1, abs=1)
    ends = [interval["end_time_seconds"] for interval in document["intervals"]]
    assert ends == sorted(ends)
    assert ends


def test_list_as_json(place: Deployment, dev: Registered) -> None:
    (workspace,) = place.user.coder("list", "--output", "json").json()
    assert (workspace["owner_name"], workspace["name"]) == ("alice", "dev")
    assert workspace["latest_build"]["resources"][0]["agents"][0]["status"] == "connected"


def test_plugins_as_json(place: Deployment) -> None:
    found = {plugin["name"]: plugin for plugin in place.user.coder("plugins", "list", "--output", "json").json()}
    for name in ("server", "speedtest", "diagnostics", "transport_udp", "transport_derp", "nat_traversal"):
        assert found[name]["status"] == "ok"
    assert place.user.coder("plugins", "info", "speedtest", "--output", "json").json()["name"] == "speedtest"
    assert place.user.coder("plugins", "hooks", "--output", "json").json()


def test_config_as_json_stars_the_token_out(place: Deployment) -> None:
    done = place.user.coder("--token", "AAAAAAAAAA-BBBBBBBBBBBBBBBBBBBBBB", "config", "show", "--output", "json")
    assert done.json()["settings"]["client"]["token"]["value"]
    assert "BBBBBBBB" not in done.out + done.err


# ---------------------------------------------------------------- captures


def test_a_capture_can_be_read(place: Deployment, dev: Registered) -> None:
    path = place.user.folder / "x.pcap"
    done = place.user.coder("speedtest", dev.name, "-t", "1s", "--pcap-file", str(path))
    assert done.code == 0, str(done)
    content = path.read_bytes()
    magic, major, minor, _, _, snaplen, link = struct.unpack_from("<IHHiIII", content)
    assert (magic, major, minor, link) == (0xA1B2C3D4, 2, 4, 101)
    offset, packets, ports = 24, 0, set()
    while offset < len(content):
        seconds, microseconds, captured, original = struct.unpack_from("<IIII", content, offset)
        assert captured == original <= snaplen
        assert microseconds < 1_000_000
        assert abs(seconds - time.time()) < 600
        packet = content[offset + 16 : offset + 16 + captured]
        assert len(packet) == captured
        assert packet[0] >> 4 == 6
        assert len(packet) == 40 + int.from_bytes(packet[4:6], "big")
        if packet[6] == socket.IPPROTO_TCP:
            ports.add(min(struct.unpack_from(">HH", packet, 40)))
        offset += 16 + captured
        packets += 1
    assert packets > 100
    assert ports == {3}
    told = place.user.coder("speedtest", dev.name, "-t", "1s", "--pcap-file", "/dev/full")
    assert told.code == 1
    assert "not complete: No space left on device" in told.err
    assert " sec " in told.out  # the test itself was not disturbed
    if shutil.which("tcpdump"):
        read = place.user.run("tcpdump", "-n", "-c", "50", "-r", str(path))
        assert read.code == 0, str(read)
        assert re.search(r"IP6 \S+ > \S+: Flags \[S\]", read.out), str(read)


# ---------------------------------------------------------------- Ctrl-C


def check_interrupted(program: Program, code: int) -> None:
    began = time.monotonic()
    assert interrupt(program) == code, program.output
    assert time.monotonic() - began < QUICK
    assert "Traceback" not in program.output
    assert "Error" not in program.output


def test_ctrl_c_ends_ping_with_its_summary(place: Deployment, dev: Registered) -> None:
    ping = place.start(place.user, "coder", "ping", dev.name, "--wait", "100ms")
    ping.wait_for(r"^pong from dev")
    check_interrupted(ping, 0)
    assert re.search(r"^dev +\d+ +\d+", ping.output, re.MULTILINE)


@pytest.mark.parametrize("direction", ["down", "up"])
def test_ctrl_c_ends_speedtest(place: Deployment, dev: Registered, direction: str) -> None:
    speedtest = place.start(place.user, "coder", "speedtest", dev.name, "-t", "30s", "--direction", direction)
    speedtest.wait_for(r"^0\.00-1\.")
    check_interrupted(speedtest, 130)
    assert place.user.coder("ping", dev.name, "-n", "1").code == 0


def test_ctrl_c_while_the_server_does_not_answer(place: Deployment) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for command in ("list", "ping x", "speedtest x"):
            program = place.start(place.user, "coder", *command.split(), env={"CODER_URL": url})
            connection, _ = silent.accept()
            with connection:
                connection.recv(1)
                check_interrupted(program, 130)


def test_ctrl_c_ends_an_agent_that_never_reached_its_server(place: Deployment) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        agent = place.start(
            place.workspace, "coder-agent", "run", env={"CODER_AGENT_URL": url, "CODER_AGENT_TOKEN": "x" * 36}
        )
        connection, _ = silent.accept()
        with connection:
            connection.recv(1)
            check_interrupted(agent, 0)


def test_ctrl_c_ends_agent_and_server_in_order(tmp_path: Path) -> None:
    with Deployment(tmp_path) as own:
        server = own.start_server()
        own.sign_in()
        agent = own.start_agent(own.create("dev"))
        check_interrupted(agent, 0)
        assert own.status("dev") == "disconnected"
        check_interrupted(server, 0)
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", own.port)) != 0
        left = sorted(path.name for path in (own.server.folder / "data").iterdir())
        assert not [name for name in left if name.endswith(("-wal", "-shm"))], left
        own.start_server()
        assert json.loads(own.user.coder("list", "-o", "json").out)[0]["name"] == "dev"


@pytest.mark.foreign
@pytest.mark.skipif(shutil.which("tshark") is None, reason="needs tshark")
def test_wireshark_reads_a_capture(place: Deployment, dev: Registered) -> None:
    path = place.user.folder / "y.pcap"
    assert place.user.coder("speedtest", dev.name, "-t", "1s", "--pcap-file", str(path)).code == 0
    flags = [
        "-o",
        "tcp.check_checksum:TRUE",
        "-Y",
        "_ws.malformed or tcp.checksum.status == 0",
    ]
    begin = ("tshark", "-n", "-c", "5000", "-r", str(path))  # of the 100,000 packets of a fast machine's second
    bad = place.user.run(*begin, *flags)
    assert (bad.code, bad.out) == (0, ""), str(bad)
    handshakes = place.user.run(*begin, "-Y", "tcp.flags.syn == 1 and tcp.port == 3")
    assert len(handshakes.out.splitlines()) >= 2


# ---------------------------------------------------------------- for a maintainer


def test_a_support_bundle_has_everything_but_secrets(place: Deployment, dev: Registered) -> None:
    path = place.user.folder / "bundle.zip"
    told = place.user.coder("support", "bundle", dev.name, "-y", "-O", str(path), "--output", "json").json()
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name).decode() for name in archive.namelist()}
    assert set(told["files"]) | {"README.txt"} == set(files)
    assert set(told["missing"]) == {"workspace/agent-magicsock.html"}, told
    assert json.loads(files["network/netcheck.json"])["derp"]
    assert json.loads(files["workspace/path.json"])["verdict"]["code"]
    assert [pong["path"] for pong in json.loads(files["workspace/pings.json"])]
    assert "connected to" in files["workspace/agent-log.txt"]
    assert json.loads(files["deployment/health.json"])["derp"]
    assert "DEBUG" in files["client/log.txt"]
    secrets = [dev.token, next(place.user.folder.rglob("session")).read_text()]
    assert [name for name, text in files.items() for secret in secrets if secret in text] == []


def test_a_support_bundle_is_listed_before_it_is_made(place: Deployment, dev: Registered) -> None:
    listed = place.user.coder("support", "bundle", dev.name, "--dry-run", "--output", "json").json()
    assert {"client/config.json", "network/netcheck.json", "workspace/path.json"} <= {one["name"] for one in listed}
    unasked = place.user.coder("support", "bundle", dev.name)
    assert (unasked.code, unasked.out) == (1, "")
    assert "say `--yes`" in unasked.err


def test_a_support_bundle_without_a_server_says_what_is_missing(place: Deployment) -> None:
    nowhere = {"CODER_URL": "http://127.0.0.1:9", "CODER_SESSION_TOKEN": "x"}
    path = place.user.folder / "alone.zip"
    told = place.user.coder("support", "bundle", "-y", "-O", str(path), "--output", "json", env=nowhere).json()
    assert "refuses the connection" in told["missing"]["deployment/buildinfo.json"]
    assert "client/config.json" not in told["missing"]


# ---------------------------------------------------------------- in a shell

TABULATOR = """
source <(coder completion bash)
COMP_WORDS=(%s)
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_coder_completion coder
echo "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("coder spe", "speedtest"),
        ("coder plugins i", "info"),
        ("coder speedtest --di", "--direct --direction"),
        ("coder ping de", "dev"),
        ("coder ping alice/d", "alice/dev"),
        ("coder ping zz", ""),
        ("coder delete d", "dev"),
    ],
)
def test_bash_completes(place: Deployment, dev: Registered, typed: str, offered: str) -> None:
    said = place.user.run("bash", "-c", TABULATOR % typed)
    assert (said.code, said.out.strip(), said.err) == (0, offered, "")


def test_completion_is_silent_without_a_server(place: Deployment) -> None:
    nowhere = {"CODER_URL": "http://127.0.0.1:9", "CODER_SESSION_TOKEN": "x"}
    said = place.user.run("bash", "-c", TABULATOR % "coder ping d", env=nowhere)
    assert (said.code, said.out.strip(), said.err) == (0, "", "")


@pytest.mark.parametrize(("shell", "marks"), [("zsh", "#compdef coder"), ("fish", "complete --command coder")])
def test_there_are_scripts_for_other_shells(place: Deployment, shell: str, marks: str) -> None:
    assert marks in place.user.run("coder", "completion", shell).out
