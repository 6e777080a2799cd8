"""A stock Coder CLI with our server: to our agent (`dev`) and to a stock one (`stock`), directly and by relay."""

from __future__ import annotations

import json
import re
import shutil
import socket
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from coder_agent.testing.deployment import until
from coder_agent.testing.stock_program import PAGE, StockMachine, StockSite, free_port

pytestmark = [
    pytest.mark.foreign,
    pytest.mark.slow,
    *(
        pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is not installed")
        for name in ("ssh", "scp", "ssh-agent", "curl")
    ),
]
AGENTS = pytest.mark.parametrize("workspace", ["dev", "stock"])
LOST = "Route not found."
"""What there is none of here is unknown, in Coder's own words."""


# ---------------------------------------------------------------- who, and what is there


def test_sign_in_with_a_token_and_out_again(stock_site: StockSite, tmp_path: Path) -> None:
    url, second = stock_site.place.url, StockMachine(tmp_path, program=stock_site.stranger.program)
    token = stock_site.stranger.stock("tokens", "create", "--name", "second", "--lifetime", "1h").out.strip()
    signed_in = second.stock("login", url, "--token", token)
    assert signed_in.code == 0, str(signed_in)
    assert "You're authenticated" in signed_in.out
    assert "alice" in second.stock("whoami").out
    assert second.stock("logout", "--yes").code == 0
    after = second.stock("whoami")
    assert after.code == 1
    assert "You are not logged in. Try logging in" in after.err
    wrong = second.stock("login", url, "--token", "0123456789-0123456789012345678901")
    assert wrong.code == 1
    assert "panic" not in wrong.err


def test_no_version_warning(stock_site: StockSite) -> None:
    assert stock_site.stranger.stock("whoami").err.strip() == ""


def test_workspaces_are_listed_and_shown(stock_site: StockSite) -> None:
    stock = stock_site.stranger.stock
    listed = stock("list", "--output", "json").json()
    assert {one["name"] for one in listed} == set(stock_site.workspaces)
    assert "alice/dev" in stock("list").out
    found = stock("list", "--search", "name:stock", "--output", "json").json()
    assert {one["name"] for one in found} == {"stock", "stock-relayed"}, "part of a name will do"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        for name, version in (("dev", r"v0\."), ("stock", r"v2\.")):
            shown = until("the port is shown", partial(_shown, stock_site, name, f"{port}/tcp"))
            assert "⦿ connected" in shown
            assert re.search(rf"✔ healthy\s+{version}", shown), shown
    unknown = stock("show", "nothing")
    assert (unknown.code, "Resource not found" in unknown.err) == (1, True)


def _shown(site: StockSite, workspace: str, word: str) -> str | None:
    """What `coder show` says, when it says this, too: ports that an agent has just looked for are a second old."""
    shown = site.stranger.stock("show", workspace).out
    return shown if word in shown else None


def test_tokens_and_users(stock_site: StockSite) -> None:
    stock = stock_site.stranger.stock
    made = stock("tokens", "create", "--name", "short")
    assert re.fullmatch(r"\w{10}-\w{22}", made.out.strip()), str(made)
    assert "short" in stock("tokens", "list").out
    assert stock("tokens", "remove", "short").code == 0
    assert "short" not in stock("tokens", "list").out
    assert "alice@example.com" in stock("users", "list").out
    assert "Owner" in stock("users", "show", "me").out
    assert "default" in stock("organizations", "show", "me").out


def test_what_is_no_networking_is_refused_in_words(stock_site: StockSite) -> None:
    stock = stock_site.stranger.stock
    for command in ("stop dev --yes", "delete dev --yes", "templates list", "publickey", "favorite dev"):
        done = stock(*command.split())
        assert (done.code, LOST in done.err) == (1, True), str(done)
    assert "already running" in stock("start", "dev", "--yes").out
    assert "up-to-date" in stock("update", "dev").out
    assert "alice/dev" in stock("schedule", "show", "dev").out


# ---------------------------------------------------------------- paths


@AGENTS
def test_ping_over_a_direct_path(stock_site: StockSite, workspace: str) -> None:
    done = stock_site.stranger.stock("ping", workspace, "-n", "3", "--wait", "100ms")
    assert done.code == 0, str(done)
    assert re.search(rf"^pong from {workspace} p2p via \S+:\d+ in ", done.out, re.MULTILINE), str(done)
    assert "outdated" not in done.out
    assert "Failed" not in done.out
    for step in ("sent local data to", "received remote agent data from", "Wireguard handshake"):
        assert f"✔ {step}" in done.err
    assert "You are connected directly (p2p)" in done.err


@AGENTS
def test_ping_by_relay(stock_site: StockSite, workspace: str) -> None:
    done = stock_site.stranger.stock("ping", f"{workspace}-relayed", "-n", "3", "--wait", "100ms")
    assert done.code == 0, str(done)
    assert "proxied via DERP(Coder Embedded Relay)" in done.out
    assert "p2p" not in done.out
    assert "You are connected via a DERP relay" in done.err
    assert "could not connect to STUN" not in done.err


@pytest.mark.parametrize(
    ("workspace", "direction"),
    [("dev", "down"), ("dev", "up"), ("dev-relayed", "down"), ("dev-relayed", "up"), ("stock", "down")],
)
def test_speedtest(stock_site: StockSite, workspace: str, direction: str) -> None:
    command = ("speedtest", workspace, "--time", "1s", "--direction", direction, "--output", "json")
    report = stock_site.stranger.stock(*command).json()
    assert report["overall"]["throughput_mbits"] > 0
    assert report["intervals"]


def test_speedtest_waits_for_a_direct_path(stock_site: StockSite) -> None:
    done = stock_site.stranger.stock("speedtest", "dev", "--direct", "--time", "1s")
    assert done.code == 0, str(done)
    assert re.search(r"via (127\.0\.0\.1:\d+|coder)$", done.out + done.err, re.MULTILINE), str(done)


def test_netcheck_finds_relay_and_stun_in_order(stock_site: StockSite) -> None:
    report = stock_site.stranger.stock("netcheck").json()
    (region,) = report["derp"]["regions"].values()
    (node,) = region["node_reports"]
    assert node["healthy"], node
    assert node["can_exchange_messages"]
    assert not node["uses_websocket"]
    assert node["stun"]["CanSTUN"]  # what Tailscale's own netcheck says next to it hangs on time-outs


# ---------------------------------------------------------------- programs


@contextmanager
def udp_echo() -> Iterator[int]:
    """Sends every datagram back; yields its port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as at:
        at.bind(("127.0.0.1", 0))
        port = at.getsockname()[1]

        def serve() -> None:
            while (came := at.recvfrom(2048))[0] != b"end":
                at.sendto(came[0], came[1])

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield port
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
                end.sendto(b"end", ("127.0.0.1", port))
            thread.join()


@pytest.mark.parametrize("workspace", ["dev", "dev-relayed", "stock"])
def test_ports_of_the_workspace_are_here(stock_site: StockSite, workspace: str, tmp_path: Path) -> None:
    with udp_echo() as echo:
        forward, (web, udp) = stock_site.forward(f"tcp:{stock_site.page_port}", f"udp:{echo}", workspace=workspace)
        curl = ("curl", "-sS", "--max-time", "60")
        assert stock_site.stranger.run(*curl, f"http://127.0.0.1:{web}/").out == PAGE
        assert stock_site.stranger.run(*curl, "-o", str(tmp_path / "big"), f"http://127.0.0.1:{web}/big").code == 0
        assert (tmp_path / "big").read_bytes() == (stock_site.place.folder / "pages/big").read_bytes()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
            here.settimeout(0.5)

            def answer() -> bytes | None:
                here.sendto(b"hello", ("127.0.0.1", udp))
                try:
                    return here.recv(2048)
                except TimeoutError:
                    return None  # the first datagrams of a forward may be lost, as UDP's may

            assert until("the datagram comes back", answer) == b"hello"
        forward.stop()


@AGENTS
def test_a_shell_and_its_exit_code(stock_site: StockSite, workspace: str) -> None:
    script = "echo in $CODER_WORKSPACE_NAME, $WORD\nexit 5\n"
    done = stock_site.stranger.stock("ssh", workspace, "--env", "WORD=two words", stdin=script)
    assert done.code == 5, str(done)
    assert f"in {workspace}, two words" in done.out


@AGENTS
def test_a_shell_reaches_back_to_where_it_was_opened(stock_site: StockSite, workspace: str) -> None:
    """A port (-R) and the keys of an SSH agent (-A) of the user's machine, in the workspace."""
    user, port = stock_site.stranger, free_port()
    make_key = (
        f"ssh-keygen -q -t ed25519 -N '' -C key-of-{workspace} -f ./key-{workspace} && ssh-add -q ./key-{workspace}"
    )
    shell = f"'{user.program}' ssh {workspace} -A -R {port}:127.0.0.1:{stock_site.page_port}"
    script = f"ssh-add -l\ncurl -sS http://127.0.0.1:{port}/; echo\nexit 3\n"
    done = user.run("ssh-agent", "sh", "-c", f"{make_key} && {shell}", stdin=script)
    assert done.code == 3, str(done)
    assert f"key-of-{workspace} (ED25519)" in done.out
    assert PAGE in done.out


@AGENTS
def test_openssh_through_the_stock_programs_own_configuration(
    stock_site: StockSite, workspace: str, tmp_path: Path
) -> None:
    user, config, host = stock_site.stranger, str(tmp_path / "config"), f"coder.{workspace}"
    written = user.stock("config-ssh", "--yes", "--ssh-config-file", config)
    assert written.code == 0, str(written)
    done = user.run("ssh", "-F", config, host, "cat; echo oops >&2; exit 7", stdin="through\n")
    assert (done.out, done.err, done.code) == ("through\n", "oops\n", 7)
    big, there, back = stock_site.place.folder / "pages/big", tmp_path / "there", tmp_path / "back"
    copied = user.run("scp", "-q", "-F", config, str(big), f"{host}:{there}")
    assert copied.code == 0, str(copied)
    assert user.run("scp", "-q", "-F", config, f"{host}:{there}", str(back)).code == 0
    assert back.read_bytes() == big.read_bytes()


def test_an_editor_is_told_where_the_workspace_is(stock_site: StockSite) -> None:
    done = stock_site.stranger.stock("open", "vscode", "dev", "--generate-token", "--test.open-error")
    found = re.search(r"vscode://coder\.coder-remote/open\?\S*token=(\w{10}-\w{22})\S*", done.out + done.err)
    assert found, str(done)
    assert "workspace=dev" in found[0]


# ---------------------------------------------------------------- when something is wrong


@AGENTS
def test_a_support_bundle_has_everything_about_the_network(
    stock_site: StockSite, workspace: str, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle.zip"
    done = stock_site.stranger.stock("support", "bundle", workspace, "--yes", "--output-file", str(bundle))
    assert done.code == 0, str(done)
    assert "ERROR" not in done.out + done.err
    with zipfile.ZipFile(bundle) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    for name in (
        "agent/agent.json",
        "agent/listening_ports.json",
        "agent/manifest.json",
        "agent/peer_diagnostics.json",
        "agent/ping_result.json",
        "deployment/buildinfo.json",
        "deployment/config.json",
        "deployment/health.json",
        "network/connection_info.json",
        "network/interfaces.json",
        "network/netcheck.json",
        "workspace/workspace.json",
    ):
        assert json.loads(files[name]), name
    for name in ("agent/logs.txt", "agent/prometheus.txt", "network/coordinator_debug.html"):
        assert files[name].strip(), name
    for secret in (stock_site.workspaces[workspace].token, stock_site.session):
        assert not [name for name, content in files.items() if secret.encode() in content]
