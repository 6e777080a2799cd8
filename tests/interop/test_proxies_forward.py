"""A forward proxy as the only way out: tinyproxy (HTTP CONNECT) and microsocks (SOCKS5), each asking for a password.

User and workspace are on machines whose firewall lets them reach nothing but the proxy. So whatever goes round it does
not work; and it is seen, because the firewall counts what it drops.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from coder_agent.testing.deployment import Deployment, Machine, until
from coder_agent.testing.netns import Host, Lab, unavailable
from coder_agent.testing.netns_deployment import Tls
from coder_agent.testing.processes import Program

pytestmark = [
    pytest.mark.foreign,
    pytest.mark.netns,
    pytest.mark.skipif(unavailable() is not None, reason=str(unavailable())),
    pytest.mark.skipif(shutil.which("nft") is None, reason="nft (nftables) is not installed"),
]
PASSWORD = "hunter2-hunter2"


@dataclass(slots=True)
class Inside(Machine):
    """A machine whose programs all get `extra` in their environment."""

    extra: dict[str, str] = field(default_factory=dict)

    def environ(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        return Machine.environ(self, {**self.extra, **(more or {})})


@dataclass(slots=True)
class Place:
    """A deployment with a proxy in the middle."""

    deployment: Deployment
    proxy: Program
    url: str
    """The proxy's, with its password."""
    scheme: str
    proxy_host: Host

    def tell_environment(self) -> None:
        """Tell user and workspace by the variable for the kind of URL that the server has."""
        for machine in (self.deployment.user, self.deployment.workspace):
            assert isinstance(machine, Inside)
            machine.extra["HTTPS_PROXY" if self.scheme == "https" else "HTTP_PROXY"] = self.url

    def tell_settings(self) -> None:
        """Tell them by the configuration file; what the environment says is of no use."""
        for machine in (self.deployment.user, self.deployment.workspace):
            assert isinstance(machine, Inside)
            machine.extra["ALL_PROXY"] = "http://192.0.2.1:9"
            folder = machine.folder / ".config" / "coder-agent"
            folder.mkdir(parents=True)
            (folder / "config.toml").write_text(f'[network]\nproxy = "{self.url}"\n')

    def set(self, **variables: str) -> None:
        """More of the environment of user and workspace."""
        for machine in (self.deployment.user, self.deployment.workspace):
            assert isinstance(machine, Inside)
            machine.extra.update(variables)


@contextmanager
def place_behind(kind: str, folder: Path, *, tls: bool) -> Iterator[Place]:
    """Server and proxy outside, user and workspace inside."""
    program = {"http": "tinyproxy", "socks5": "microsocks"}[kind]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    with Lab() as lab:
        server, user, workspace, middle = (lab.host(name) for name in ("server", "user", "agent", "proxy"))
        lab.switch(server, user, workspace, middle)
        port = 3128 if kind == "http" else 1080
        for host in (user, workspace):
            lock_in(host, middle.address4, port)
        with Deployment(folder, server.address4, (server, user, workspace)) as place:
            extra: dict[str, str] = {}
            flags: list[str] = []
            if tls:
                pair = Tls.issue(folder, server.address4)
                place.port = 80
                flags = [
                    *("--tls-enable", "--tls-address", f"{server.address4}:443", "--access-url"),
                    f"https://{server.address4}",
                    *("--tls-cert-file", str(pair.certificate), "--tls-key-file", str(pair.key)),
                ]
                extra["SSL_CERT_FILE"] = str(pair.authority)
            place.user = Inside(folder / "user", user, dict(extra))
            place.workspace = Inside(folder / "workspace", workspace, dict(extra))
            machine = Machine(folder / "proxy", middle)
            proxy = place.start(machine, *proxy_command(kind, folder, middle.address4, port))
            scheme = "https" if tls else "http"
            place.start_server(*flags)
            yield Place(place, proxy, f"{kind}://bob:{PASSWORD}@{middle.address4}:{port}", scheme, middle)
            everything = place.transcript()
            assert PASSWORD not in everything.replace(f"-P {PASSWORD}", "")
            assert "Traceback" not in everything


def proxy_command(kind: str, folder: Path, address: str, port: int) -> list[str]:
    if kind == "socks5":
        return ["microsocks", "-i", address, "-p", str(port), "-u", "bob", "-P", PASSWORD]
    config = folder / "tinyproxy.conf"
    lines = ["LogLevel Connect", "Timeout 600", "MaxClients 100", f"Listen {address}", f"Port {port}"]
    config.write_text("\n".join([*lines, f"BasicAuth bob {PASSWORD}", ""]))
    return ["tinyproxy", "-d", "-c", str(config)]


def lock_in(host: Host, proxy: str, port: int) -> None:
    """Nothing leaves but to the proxy; TCP that tries is counted."""
    host.filter(
        "table inet lock {\n"
        " counter round { }\n"
        " chain leaving { type filter hook output priority 0; policy drop;\n"
        '  oifname "lo" accept\n'
        f"  ip daddr {proxy} tcp dport {port} accept\n"
        "  meta l4proto tcp counter name round drop\n"
        " }\n}\n"
    )


def went_round(host: Host | None) -> int:
    """TCP packets that were not for the proxy."""
    assert host is not None
    document = json.loads(host.run("nft", "-j", "list", "counters"))
    (counter,) = (item["counter"] for item in document["nftables"] if "counter" in item)
    return int(counter["packets"])


def use(place: Place) -> None:
    """Sign in, make a workspace, reach it: the API, the coordination and the relay, for user and agent."""
    deployment = place.deployment
    if place.scheme == "https":
        deployment_url = f"https://{deployment.address}"
        done = deployment.user.coder(
            "login", deployment_url, "--first-user-username", "alice", "--first-user-email", "alice@example.com",
            env={"CODER_FIRST_USER_PASSWORD": "S3cure-pass-word"},
        )  # fmt: skip
        assert done.code == 0, str(done)
    else:
        deployment_url = deployment.url
        deployment.sign_in()
    dev = deployment.create("dev")
    deployment.start_agent(dev, url=deployment_url)
    ping = deployment.user.coder("ping", "dev", "-n", "3", "--wait", "100ms")
    assert ping.code == 0, str(ping)
    assert ping.out.count("proxied via DERP(Coder Embedded Relay)") == 3, str(ping)
    speed = deployment.user.coder("speedtest", "dev", "-t", "1s")
    assert speed.code == 0, str(speed)
    assert re.search(r"[1-9][\d.]* Mbits/sec", speed.out), str(speed)


def nobody_went_round(place: Place) -> None:
    assert went_round(place.deployment.user.host) == 0
    assert went_round(place.deployment.workspace.host) == 0


@pytest.mark.parametrize("told", ["environment", "settings"])
@pytest.mark.parametrize("kind", ["http", "socks5"])
def test_everything_goes_through_the_proxy(kind: str, told: str, tmp_path: Path) -> None:
    with place_behind(kind, tmp_path, tls=told == "environment") as place:
        if told == "environment":
            place.tell_environment()
        else:
            place.tell_settings()
        use(place)
        nobody_went_round(place)


@pytest.mark.parametrize("kind", ["http", "socks5"])
def test_the_relay_s_websocket_goes_through_the_proxy(kind: str, tmp_path: Path) -> None:
    with place_behind(kind, tmp_path, tls=True) as place:
        place.tell_environment()
        place.set(CODER_DERP_FORCE_WEBSOCKETS="true")
        use(place)
        nobody_went_round(place)


def test_netcheck_goes_through_the_proxy(tmp_path: Path) -> None:
    """UDP is dead; the relay's latency is measured by HTTPS."""
    with place_behind("http", tmp_path, tls=False) as place:
        place.tell_environment()
        place.deployment.sign_in()
        report = place.deployment.user.coder("netcheck", timeout=90)
        assert re.search(r"^Coder Embedded Relay \(999\) .* [\d.]+ms \(HTTPS\)  home$", report.out, re.MULTILINE), str(
            report
        )
        nobody_went_round(place)


@pytest.mark.parametrize("kind", ["http", "socks5"])
def test_a_wrong_password_is_explained_and_not_shown(kind: str, tmp_path: Path) -> None:
    with place_behind(kind, tmp_path, tls=False) as place:
        place.url = place.url.replace(PASSWORD, "wrong-password")
        place.tell_environment()
        done = place.deployment.user.coder("login", place.deployment.url, env={"CODER_SESSION_TOKEN": "x"})
        assert done.code == 1
        assert "error: the proxy 10." in done.err
        assert "user name and a password" in done.err, str(done)
        assert "wrong-password" not in done.out + done.err
        shown = place.deployment.user.coder("config", "show", env={"CODER_PROXY": place.url})
        assert "wrong-password" not in shown.out


def test_a_proxy_that_dies_comes_back(tmp_path: Path) -> None:
    """The agent keeps trying, through the proxy and nowhere else."""
    with place_behind("http", tmp_path, tls=False) as place:
        place.tell_environment()
        place.deployment.sign_in()
        dev = place.deployment.create("dev")
        agent = place.deployment.start_agent(dev)
        place.proxy.stop()
        agent.wait_for("no connection to .*: the proxy .* cannot be reached")
        machine = Machine(tmp_path / "proxy", place.proxy_host)
        place.deployment.start(machine, "tinyproxy", "-d", "-c", str(tmp_path / "tinyproxy.conf"))
        until("a pong", lambda: place.deployment.user.coder("ping", "dev", "-n", "1").code == 0 or None)
        nobody_went_round(place)


@pytest.mark.parametrize("kind", ["http", "socks5"])
def test_a_server_fetches_its_relay_map_through_the_proxy(kind: str, tmp_path: Path) -> None:
    """--derp-config-url on a machine that reaches nothing but the proxy."""
    program = {"http": "tinyproxy", "socks5": "microsocks"}[kind]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    with Lab() as lab:
        server, middle, outside = (lab.host(name) for name in ("server", "proxy", "web"))
        lab.switch(server, middle, outside)
        port = 3128 if kind == "http" else 1080
        lock_in(server, middle.address4, port)
        web = tmp_path / "web"
        web.mkdir()
        node = {"Name": "901a", "RegionID": 901, "HostName": "relay.lab.example"}
        region = {"RegionID": 901, "RegionCode": "lab", "RegionName": "Lab", "Nodes": [node]}
        (web / "derpmap.json").write_text(json.dumps({"Regions": {"901": region}}))
        with Deployment(tmp_path, server.address4, (server, server, server)) as place:
            files = place.start(
                Machine(web, outside), sys.executable, "-m", "http.server", "8000", "--bind", outside.address4
            )
            files.wait_for("Serving HTTP")
            place.start(Machine(tmp_path / "proxy", middle), *proxy_command(kind, tmp_path, middle.address4, port))
            proxy = f"{kind}://bob:{PASSWORD}@{middle.address4}:{port}"
            place.server = Inside(tmp_path / "server", server, {"HTTP_PROXY": proxy})
            place.start_server("--derp-config-url", f"http://{outside.address4}:8000/derpmap.json")
            files.wait_for(r'"GET /derpmap\.json HTTP/1\.1" 200')
            remembered = json.loads((tmp_path / "server" / "data" / "derp-maps.json").read_text())
            assert list(remembered["derp-config-url"]["Regions"]) == ["901"]
            assert went_round(server) == 0
