"""A stock Coder agent with our server: reached by our commands and through our server's own pages.

That the stock CLI reaches it, too, is in test_stock_coder_cli.py.
"""

from __future__ import annotations

import json
import shutil
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import trustme
from websockets.sync.client import connect

from coder_agent.testing.deployment import Deployment, Registered, interrupt, until
from coder_agent.testing.stock_program import PAGE, StockMachine, StockSite

pytestmark = [
    pytest.mark.foreign,
    pytest.mark.slow,
    *(
        pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is not installed")
        for name in ("ssh", "scp", "curl")
    ),
]


# ---------------------------------------------------------------- our commands


@pytest.mark.parametrize(("workspace", "kind"), [("stock", "direct"), ("stock-relayed", "relay")])
def test_ping_and_speedtest(stock_site: StockSite, workspace: str, kind: str) -> None:
    coder = stock_site.place.user.coder
    pinged = coder("ping", workspace, "-n", "2", "--wait", "100ms")
    assert pinged.code == 0, str(pinged)
    assert ("p2p via" if kind == "direct" else "proxied via DERP(Coder Embedded Relay)") in pinged.out
    direct = ["--direct"] if kind == "direct" else []
    report = coder("speedtest", workspace, "-t", "1s", "--direction", "both", *direct, "-o", "json").json()
    assert json.dumps(report).count('"throughput_mbits"') > 2
    assert ("direct" if kind == "direct" else "coder") in json.dumps(report)


def test_path_says_that_the_other_side_is_stock(stock_site: StockSite) -> None:
    done = stock_site.place.user.coder("path", "stock")
    assert done.code == 0, str(done)
    assert "directly (p2p)" in done.out
    assert "an older or a stock program" in done.out


def test_commands_their_streams_and_exit_codes(stock_site: StockSite) -> None:
    user = stock_site.place.user
    done = user.run(
        "coder", "ssh", "stock", "--", "cat; echo oops >&2; echo in $CODER_WORKSPACE_NAME; exit 7", stdin="line\n"
    )
    assert (done.out, done.code) == ("line\nin stock\n", 7), str(done)
    assert done.err.endswith("oops\n")
    shown = user.coder("terminal", "stock", "--", "echo on a terminal; tty")
    assert "on a terminal" in shown.out
    assert "/dev/pts/" in shown.out


def test_openssh_and_scp(stock_site: StockSite, tmp_path: Path) -> None:
    user, config = stock_site.place.user, str(tmp_path / "config")
    written = user.coder("config-ssh", "--yes", "--ssh-config-file", config)
    assert written.code == 0, str(written)
    big, there = stock_site.place.folder / "pages/big", tmp_path / "there"
    copied = user.run("scp", "-q", "-F", config, str(big), f"coder.stock:{there}")
    assert copied.code == 0, str(copied)
    assert there.read_bytes() == big.read_bytes()
    done = user.run("ssh", "-F", config, "coder.stock", "exit 9")
    assert done.code == 9, str(done)


def test_ports_of_the_workspace_are_here(stock_site: StockSite) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there, socket.socket(type=socket.SOCK_DGRAM) as here:
        there.bind(("127.0.0.1", 0))
        there.settimeout(0.5)
        specs = (f"tcp:{stock_site.page_port}", f"udp:{there.getsockname()[1]}")
        forward, (web, udp) = stock_site.forward(*specs, workspace="stock", ours=True)
        curl = ("curl", "-sS", "--max-time", "60")
        assert stock_site.place.user.run(*curl, f"http://127.0.0.1:{web}/").out == PAGE

        def arrives() -> tuple[bytes, tuple[str, int]] | None:
            here.sendto(b"hello", ("127.0.0.1", udp))
            try:
                return there.recvfrom(2048)
            except TimeoutError:
                return None  # the first datagrams may be lost, as UDP's may

        data, back = until("a datagram arrives", arrives)
        assert data == b"hello"
        there.sendto(b"welcome", back)
        here.settimeout(60)
        assert here.recv(2048) == b"welcome"
        assert interrupt(forward) == 0, forward.output


# ---------------------------------------------------------------- our server


def test_what_the_agent_reports_is_known(stock_site: StockSite) -> None:
    agent = until("the app was asked", lambda: _with_healthy_app(stock_site))
    assert agent["version"].startswith("v2.")
    assert agent["lifecycle_state"] == "ready"
    assert agent["latency"]["Coder Embedded Relay"]["preferred"]
    assert agent["api_version"].startswith("2.")


def _with_healthy_app(site: StockSite) -> Any:
    agent = site.agent("stock")
    return agent if [app["health"] for app in agent["apps"]] == ["healthy"] else None


def test_its_listening_ports_come_through_the_servers_tailnet(stock_site: StockSite) -> None:
    path = f"/workspaceagents/{stock_site.workspaces['stock'].agent_id}/listening-ports"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        until(
            "the port is told", lambda: port in [one["port"] for one in stock_site.call("GET", path)["ports"]] or None
        )


@pytest.mark.parametrize("workspace", ["stock", "stock-relayed"])
def test_web_apps_through_the_proxy(stock_site: StockSite, workspace: str) -> None:
    url = f"{stock_site.place.url}/@alice/{workspace}.main/apps/web/"
    cookie = {"Cookie": f"coder_session_token={stock_site.session}"}
    with urllib.request.urlopen(urllib.request.Request(url, headers=cookie), timeout=60) as page:
        assert page.read().decode() == PAGE
    with urllib.request.urlopen(urllib.request.Request(f"{url}big", headers=cookie), timeout=60) as page:
        assert page.read() == (stock_site.place.folder / "pages/big").read_bytes()
    with pytest.raises(urllib.error.HTTPError) as missing:
        urllib.request.urlopen(urllib.request.Request(f"{url}nothing", headers=cookie), timeout=60)
    assert missing.value.status == 404
    missing.value.close()


def test_the_web_terminal(stock_site: StockSite) -> None:
    agent, terminal = stock_site.workspaces["stock"].agent_id, uuid4()
    url = f"{stock_site.place.url}/api/v2/workspaceagents/{agent}/pty?reconnect={terminal}&width=90&height=20"
    headers = {"Coder-Session-Token": stock_site.session}

    def say(line: str, answer: bytes) -> None:
        """On the same terminal, whoever opened it."""
        with connect(url.replace("http", "ws", 1), additional_headers=headers, max_size=None) as socket:
            socket.send(json.dumps({"data": f"{line}\r"}).encode())
            seen = b""
            while answer not in seen:
                said = socket.recv(timeout=90)
                assert isinstance(said, bytes)
                seen += said

    say("stty size; mine=kept; echo $mine-$((6*7))", b"kept-42")
    say("echo again-$mine", b"again-kept")


# ---------------------------------------------------------------- when something goes away


def test_a_forward_and_all_agents_survive_our_servers_restart(stock_site: StockSite) -> None:
    site = stock_site
    forward, (web,) = site.forward(f"tcp:{site.page_port}", workspace="stock")
    curl = ("curl", "-sS", "--max-time", "60", f"http://127.0.0.1:{web}/")
    assert site.stranger.run(*curl).out == PAGE
    assert interrupt(site.server) == 0
    assert site.stranger.run(*curl).out == PAGE, "the path is direct: the server is not needed for it"
    site.server = site.place.start_server()
    until("all agents are back", lambda: site.statuses() == {"connected"} or None)
    assert site.stranger.run(*curl).out == PAGE
    forward.stop()
    for workspace in ("stock", "stock-relayed"):
        again = site.stranger.stock("ping", workspace, "-n", "1")
        assert again.code == 0, str(again)
        assert f"pong from {workspace}" in again.out


def test_a_stock_agent_that_ends_is_missed_and_its_successor_found(stock_site: StockSite) -> None:
    site = stock_site
    interrupt(site.stock_agents["stock-relayed"])
    until("it is missed", lambda: site.agent("stock-relayed")["status"] == "disconnected" or None)
    site.start_stock_agent("stock-relayed")
    until("it is back", lambda: site.agent("stock-relayed")["status"] == "connected" or None)
    assert "pong from" in site.place.user.coder("ping", "stock-relayed", "-n", "1").out


# ---------------------------------------------------------------- another deployment


NAME = "scaletest-0"
"""What a stock `coder exp scaletest` takes for its own."""
TRAFFIC = (
    *(
        "exp",
        "scaletest",
        "workspace-traffic",
        "--use-host-login",
        "--bytes-per-tick",
        "4096",
        "--tick-interval",
        "20ms",
    ),
    *("--job-timeout", "2s", "--scaletest-prometheus-address", "127.0.0.1:0", "--scaletest-prometheus-wait", "0s"),
)
"""Writes 200 kB a second into a web terminal for 2 s."""


def test_over_tls_and_websockets(stock_coder: str, tmp_path: Path) -> None:
    """What Upgrade-less proxies leave: everything in TLS, and the relay inside WebSockets."""
    authority, trusted = trustme.CA(), tmp_path / "ca.pem"
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(trusted)
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    files = ("--tls-cert-file", str(tmp_path / "cert.pem"), "--tls-key-file", str(tmp_path / "key.pem"))
    with Deployment(tmp_path) as place:
        server = place.start_server(
            "--tls-enable", "--tls-address", "127.0.0.1:0", *files, "--derp-force-websockets",
            "--block-direct-connections",
        )  # fmt: skip
        url = server.wait_for(r"HTTPS listener at (https://\S+:\d+)")[1]
        stranger = StockMachine(tmp_path / "stranger", program=stock_coder, trusted=trusted)
        site = StockSite(place, stranger, {}, server, 0, url=url)
        site.sign_in()
        made = site.call("POST", "/users/me/workspaces", {"name": NAME})
        site.workspaces[NAME] = Registered(NAME, made["agent_tokens"][0]["agent_id"], made["agent_token"])
        site.start_stock_agent(NAME)
        until("it is connected", lambda: site.statuses() == {"connected"} or None)
        pinged = stranger.stock("ping", NAME, "-n", "1")
        assert "proxied via DERP(Coder Embedded Relay)" in pinged.out, str(pinged)
        assert "Your Coder administrator has blocked direct connections" in pinged.err
        done = stranger.stock("ssh", NAME, stdin="exit 5\n")
        assert done.code == 5, str(done)
        assert "p2p" not in pinged.out
        site.stock_agents[NAME].wait_for("connecting websocket to https://127")
        traffic = stranger.stock(*TRAFFIC)
        assert traffic.code == 0, str(traffic)
        assert "Pass:  1" in traffic.out
        ours = place.user.coder("ping", NAME, "-n", "1")
        assert "proxied via DERP(Coder Embedded Relay)" in ours.out, str(ours)
