"""What users get wrong: each time one line that says what, a hint that says what to do, an exit code, no traceback."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme

from coder_agent.testing.deployment import PASSWORD, Deployment, Machine, Registered, Result
from coder_agent.testing.netns import Lab, unavailable

pytestmark = [pytest.mark.slow]
WRONG = {"CODER_PASSWORD": "not-the-password"}
UUID = "11111111-2222-4333-8444-555555555555"


def check_error(done: Result, pattern: str, *, hint: str | None = ".") -> None:
    """One `error:` line that matches, a hint if there must be one, an exit code, and no traceback."""
    lines = done.err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1, str(done)
    assert re.search(pattern, errors[0]), str(done)
    hints = [line for line in lines if line.startswith("hint: ")]
    assert len(hints) <= 1, str(done)
    if hint is not None:
        assert hints, str(done)
        assert re.search(hint, hints[0]), str(done)
    assert 0 < done.code < 128, str(done)
    assert "Traceback" not in done.err + done.out, str(done)


def agent_env(url: str, token: str = UUID) -> dict[str, str]:
    """What an agent is told."""
    return {"CODER_AGENT_URL": url, "CODER_AGENT_TOKEN": token}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One server for all these mistakes. They must not hurt it."""
    with Deployment(tmp_path_factory.mktemp("bad-input")) as deployment:
        deployment.start_server()
        deployment.sign_in()
        yield deployment


@pytest.fixture(scope="module")
def dev(place: Deployment) -> Registered:
    return place.create("dev")


@pytest.fixture
def fresh(tmp_path: Path) -> Machine:
    """A machine on which nobody ever signed in."""
    return Machine(tmp_path / "fresh")


# ---------------------------------------------------------------- where is the server, and who am I


@pytest.mark.parametrize("command", [["list"], ["create", "x"], ["ping", "dev"], ["speedtest", "dev"], ["delete", "x"]])
def test_commands_of_a_user_who_never_signed_in(fresh: Machine, command: list[str]) -> None:
    check_error(fresh.coder(*command), "no coder server is known", hint="coder login")


def test_a_server_but_no_session(fresh: Machine, place: Deployment) -> None:
    check_error(fresh.coder("list", env={"CODER_URL": place.url}), "not logged in", hint="coder login")


def test_no_server_listens_at_the_url(fresh: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    for command in (
        ["login", url],
        ["--url", url, "--token", "x", "list"],
        ["--url", url, "--token", "x", "ping", "d"],
    ):
        check_error(fresh.coder(*command), "refuses the connection", hint="is the server running")


@pytest.mark.parametrize("url", ["ftp://example.com", "http://", "http://host:notaport", "http://a b"])
def test_urls_that_are_none(fresh: Machine, url: str) -> None:
    check_error(fresh.coder("login", url), "is not the URL of a server", hint="https://")


def test_a_name_that_does_not_exist(fresh: Machine) -> None:
    done = fresh.coder("login", "http://nobody.invalid:1")
    check_error(done, "the name nobody.invalid cannot be found", hint="URL|DNS")


def test_a_wrong_password(fresh: Machine, place: Deployment) -> None:
    done = fresh.coder("login", place.url, "--email", "alice@example.com", env=WRONG)
    check_error(done, "wrong email or password")
    unknown = fresh.coder("login", place.url, "--email", "nobody@example.com", env=WRONG)
    assert unknown.err == done.err, "who is a user would be told"
    assert not (fresh.folder / ".config").exists()


def test_signing_in_again_with_a_wrong_password_loses_nothing(place: Deployment) -> None:
    done = place.user.coder("login", place.url, "--email", "alice@example.com", env=WRONG)
    check_error(done, "wrong email or password")
    assert place.user.coder("list").code == 0


def test_a_login_that_would_have_to_ask(fresh: Machine, place: Deployment) -> None:
    check_error(fresh.coder("login", place.url), "there is no terminal", hint="--help")


@pytest.mark.parametrize("token", ["nonsense", "AAAAAAAAAA-BBBBBBBBBBBBBBBBBBBBBB", "ä", "a b"])
def test_a_wrong_session_token(fresh: Machine, place: Deployment, token: str) -> None:
    for command in ("list", "ping dev"):
        done = fresh.coder("--url", place.url, "--token", token, *command.split())
        check_error(done, ".", hint="coder login")
        assert token not in done.err or len(token) < 8


@pytest.mark.parametrize("token", [UUID, "nonsense"])
def test_a_wrong_agent_token(fresh: Machine, place: Deployment, token: str) -> None:
    done = fresh.run("coder-agent", "run", env=agent_env(place.url, token))
    check_error(done, "agent token", hint="coder create|CODER_AGENT_TOKEN")


def test_a_revoked_agent_token(fresh: Machine, place: Deployment) -> None:
    gone = place.create("gone")
    place.start_agent(gone)
    agent = place.programs[-1]
    assert place.user.coder("delete", "gone", "--yes").code == 0
    agent.wait_for("(?i)token|deleted|removed|unauthenti")
    again = fresh.run("coder-agent", "run", env=agent_env(place.url, gone.token))
    check_error(again, "agent token")


@pytest.mark.parametrize(
    ("env", "pattern"),
    [
        ({}, "no coder server is known"),
        ({"CODER_AGENT_URL": "http://127.0.0.1:1"}, "no agent token"),
        ({"CODER_AGENT_URL": "http://127.0.0.1:1", "CODER_AGENT_TOKEN_FILE": "/nonexistent"}, "cannot read the agent"),
    ],
)
def test_an_agent_that_was_not_told_enough(fresh: Machine, env: dict[str, str], pattern: str) -> None:
    check_error(fresh.run("coder-agent", "run", env=env), pattern, hint=None)


# ---------------------------------------------------------------- workspaces


def test_an_unknown_workspace_and_a_forbidden_one_are_the_same(
    place: Deployment, dev: Registered, tmp_path: Path
) -> None:
    stranger = second_user(place, tmp_path, "mallory")
    for command in ("ping", "speedtest"):
        forbidden = stranger.coder(command, f"alice/{dev.name}")
        check_error(forbidden, "workspace alice/dev not found", hint="coder list")
        unknown = stranger.coder(command, "alice/xyz")
        assert unknown.err.replace("xyz", dev.name) == forbidden.err
        assert unknown.code == forbidden.code
    check_error(stranger.coder("delete", "--yes", f"alice/{dev.name}"), "workspace alice/dev not found")
    assert place.status(dev.name)


def second_user(place: Deployment, folder: Path, name: str) -> Machine:
    """A user without any role, signed in."""
    session = (place.user.folder / ".config/coderv2/session").read_text()
    body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD, "login_type": "password"}
    done = place.user.run(
        "curl", "-sS", "-f", "-H", "@-", "-H", "Content-Type: application/json",
        "-d", json.dumps(body), f"{place.url}/api/v2/users",
        stdin=f"Coder-Session-Token: {session}\n",
    )  # fmt: skip
    assert done.code == 0, str(done)
    machine = Machine(folder / name)
    done = machine.coder("login", place.url, "--email", f"{name}@example.com", env={"CODER_PASSWORD": PASSWORD})
    assert done.code == 0, str(done)
    return machine


def test_an_unknown_workspace(place: Deployment) -> None:
    for command in (["ping", "nope"], ["speedtest", "nope"], ["delete", "--yes", "nope"], ["ping", "dev.nope"]):
        check_error(place.user.coder(*command), "nope", hint=None)


def test_an_agent_that_never_connected(place: Deployment, dev: Registered) -> None:
    for command in ("ping", "speedtest"):
        done = place.user.coder(command, dev.name)
        check_error(done, "workspace alice/dev: its agent has never connected", hint="coder-agent run")


@pytest.mark.parametrize("name", ["", "a/b/c", "Üml", "-x-", "a..b", "x" * 33, "a b", "../../etc"])
def test_workspace_names_that_are_none(place: Deployment, name: str) -> None:
    for command in ("create", "ping"):
        check_error(place.user.coder(command, "--", name), "name|workspace", hint=None)


def test_a_workspace_that_is_there_already(place: Deployment, dev: Registered) -> None:
    check_error(place.user.coder("create", dev.name), "dev", hint=None)


@pytest.mark.parametrize(
    "arguments",
    [
        ["speedtest", "dev", "-t", "soon"],
        ["speedtest", "dev", "-t", "0"],
        ["speedtest", "dev", "-t", "-5s"],
        ["speedtest", "dev", "-t", "2h"],
        ["speedtest", "dev", "--direction", "sideways"],
        ["speedtest", "dev", "--direct", "--disable-direct-connections"],
        ["speedtest", "dev", "--pcap-file", "/nonexistent/x.pcap"],
        ["ping", "dev", "-n", "-1"],
        ["ping", "dev", "-n", "x"],
        ["ping", "dev", "--wait", "1 fortnight"],
        ["ping", "dev", "-t", "nan"],
        ["ping", "dev", "--output", "xml"],
        ["ping"],
        ["nosuchcommand"],
        ["ping", "dev", "--nosuchflag"],
        ["--header", "nonsense", "list"],
    ],
    ids=" ".join,
)
def test_arguments_that_make_no_sense(place: Deployment, dev: Registered, arguments: list[str]) -> None:
    check_error(place.user.coder(*arguments), ".", hint=None)


# ---------------------------------------------------------------- servers that are not ours


class _Stranger(BaseHTTPRequestHandler):
    """A web server with pages."""

    protocol_version = "HTTP/1.1"
    status = 200

    def do_GET(self) -> None:
        self._answer(200 if self.path == "/" else self.status)

    do_POST = do_GET

    def _answer(self, status: int) -> None:
        page = b"<!doctype html><html><body>It works!</body></html>"
        self.send_response(status)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture(params=[200, 404, 401, 403])
def website(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of somebody else's web server, which answers everything with this status and HTML."""
    handler = type("Handler", (_Stranger,), {"status": request.param})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_website_is_not_a_coder_server(fresh: Machine, website: str) -> None:
    check_error(fresh.coder("login", website), "is not a coder server", hint="URL")
    check_error(fresh.coder("--url", website, "--token", "x", "ping", "dev"), "is not a coder server", hint="URL")
    done = fresh.run("coder-agent", "run", env=agent_env(website))
    check_error(done, "is not a coder server", hint="URL")


@pytest.fixture(
    params=[b"SSH-2.0-OpenSSH_9.6\r\n", b"", b"\x00\xff" * 50_000, b"HTTP/1.1 200 OK\r\nA: " + b"x" * 200_000]
)
def babbler(request: pytest.FixtureRequest) -> Iterator[str]:
    """Something that listens, says this to whoever comes, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def babble() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    try:
                        connection.recv(65536)
                        connection.sendall(request.param)
                    except OSError:
                        pass

        thread = threading.Thread(target=babble)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_something_that_does_not_speak_http(fresh: Machine, babbler: str) -> None:
    pattern = "does not answer in HTTP|closed the connection before"
    check_error(fresh.coder("login", babbler), pattern, hint=None)
    check_error(fresh.coder("--url", babbler, "--token", "x", "ping", "dev"), pattern, hint=None)


def test_a_certificate_that_does_not_verify(fresh: Machine, place: Deployment, tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    files = {"cert.pem": certificate.cert_chain_pems[0].bytes(), "key.pem": certificate.private_key_pem.bytes()}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with Deployment(tmp_path / "tls") as other:
        program = other.start(
            other.server, "coder", "server", "--http-address", "", "--tls-enable", "--tls-address", "127.0.0.1:0",
            "--tls-cert-file", str(tmp_path / "cert.pem"), "--tls-key-file", str(tmp_path / "key.pem"),
            "--data-dir", str(tmp_path / "data"), "--stun-address", "disable",
        )  # fmt: skip
        url = program.wait_for(r"Started HTTPS listener at (https://\S+)")[1]
        pattern = "the certificate of 127.0.0.1:.* does not verify"
        check_error(fresh.coder("login", url), pattern, hint=r"ca_file in \[network\]")
        done = fresh.run("coder-agent", "run", env=agent_env(url))
        check_error(done, pattern, hint=r"ca_file in \[network\]")
        wrong = url.replace("https", "http")
        check_error(fresh.coder("login", wrong), ".", hint=None)
        user = ["--first-user-username", "tess", "--first-user-email", "t@example.com"]
        path = config(fresh, f"[network]\nca_file = '{tmp_path / 'ca.pem'}'\n")
        for trusting in ({"SSL_CERT_FILE": str(tmp_path / "ca.pem")}, {"CODER_CONFIG_PATH": path}):
            done = fresh.coder(
                "login", url, *user, "--email", "t@example.com", env={**trusting, "CODER_FIRST_USER_PASSWORD": PASSWORD,
                "CODER_PASSWORD": PASSWORD},
            )  # fmt: skip
            assert done.code == 0, str(done)


def test_https_where_there_is_only_http(fresh: Machine, place: Deployment) -> None:
    check_error(fresh.coder("login", place.url.replace("http", "https")), "does not speak TLS", hint="http://")


# ---------------------------------------------------------------- the server's own start


def test_a_port_that_is_taken(place: Deployment, fresh: Machine) -> None:
    done = fresh.coder("server", "--http-address", f"127.0.0.1:{place.port}", "--data-dir", str(fresh.folder / "data"))
    check_error(done, f"cannot listen on 127.0.0.1:{place.port}", hint="--http-address")
    assert not (fresh.folder / "data").exists()


def test_a_stun_port_that_is_taken(place: Deployment, fresh: Machine) -> None:
    done = fresh.coder(
        "server", "--http-address", "127.0.0.1:0", "--stun-address", f"127.0.0.1:{place.stun_port}",
        "--data-dir", str(fresh.folder / "data"),
    )  # fmt: skip
    check_error(done, "cannot listen for STUN", hint="--stun-address")


def test_databases_that_cannot_be_used(fresh: Machine, place: Deployment) -> None:
    fresh.folder.mkdir()
    (fresh.folder / "a-file").write_text("not a folder")
    garbage = fresh.folder / "garbage"
    garbage.mkdir()
    (garbage / "coder.db").write_bytes(b"not a database " * 1000)
    busy = place.server.folder / "data"
    for folder in ("/proc/nowhere", str(fresh.folder / "a-file"), str(garbage), str(busy)):
        done = fresh.coder(
            "server", "--http-address", "127.0.0.1:0", "--stun-address", "127.0.0.1:0", "--data-dir", folder
        )
        check_error(done, re.escape(folder))
    assert (garbage / "coder.db").read_bytes().startswith(b"not a database"), "what was there must stay"
    assert place.user.coder("list").code == 0


@pytest.mark.parametrize(
    "flags",
    [
        ["--http-address", "nowhere"],
        ["--http-address", "127.0.0.1:99999"],
        ["--http-address", "203.0.113.77:0"],
        ["--access-url", "gopher://x"],
        ["--tls-enable"],
        ["--tls-enable", "--tls-cert-file", "/nonexistent", "--tls-key-file", "/nonexistent"],
        ["--derp-server-region-id", "0"],
        ["--derp-server-region-id", "x"],
    ],
    ids=" ".join,
)
def test_server_flags_that_make_no_sense(fresh: Machine, flags: list[str]) -> None:
    base = ["--stun-address", "disable", "--data-dir", str(fresh.folder / "data")]
    if "--http-address" not in flags:
        base += ["--http-address", "127.0.0.1:0"]
    check_error(fresh.coder("server", *base, *flags), ".", hint=None)


# ---------------------------------------------------------------- configuration and plugins


def config(machine: Machine, text: str) -> str:
    machine.folder.mkdir(parents=True, exist_ok=True)
    path = machine.folder / "config.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("[client]\nurll = 'x'\n", "urll.*|url"),
        ("[plugins.server]\nhttp_adress = 'x'\n", "http_adress"),
        ("[plugins.transport_udp]\nnosuch = 1\n", "nosuch"),
        ("[network]\nforce_websocket = true\n", "force_websocket"),
        ("[network]\nlisten_port = 'many'\n", "listen_port"),
        ("[clinet]\nurl = 'x'\n", "clinet"),
        ("[plugins.sever]\nx = 1\n", "sever"),
        ("this is not toml\n", "config.toml"),
    ],
)
def test_configuration_that_is_wrong(fresh: Machine, text: str, pattern: str) -> None:
    path = config(fresh, text)
    done = fresh.coder("--config", path, "list")
    check_error(done, pattern, hint=None)
    assert "config.toml" in done.err


def test_an_unknown_key_names_its_neighbour(fresh: Machine) -> None:
    path = config(fresh, "[plugins.server]\nhttp_adress = '127.0.0.1:0'\n")
    done = fresh.coder("--config", path, "server")
    check_error(done, "http_adress", hint=None)
    assert "http_address" in done.err
    assert "server" in done.err


def test_a_configuration_file_that_is_not_there(fresh: Machine) -> None:
    check_error(fresh.coder("--config", "/nonexistent.toml", "list"), "/nonexistent.toml", hint=None)


@pytest.fixture
def broken_plugin(tmp_path: Path) -> dict[str, str]:
    """The environment in which a package is installed whose plugin fails to import."""
    site = tmp_path / "site"
    info = site / "broken_thing-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-thing\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[coder_agent]\nbroken = broken_thing\n")
    (site / "broken_thing.py").write_text("import a_module_that_nobody_has\n")
    return {"PYTHONPATH": str(site)}


def test_a_plugin_that_fails_to_import_costs_only_itself(
    fresh: Machine, place: Deployment, broken_plugin: dict[str, str]
) -> None:
    done = place.user.coder("list", env=broken_plugin)
    assert done.code == 0, str(done)
    assert re.search(r"^warning: .*'broken'.*broken-thing.*a_module_that_nobody_has", done.err, re.MULTILINE), str(done)

    listed = fresh.coder("plugins", "list", env=broken_plugin)
    assert listed.code == 0, str(listed)
    (row,) = [line for line in listed.out.splitlines() if line.startswith("broken ")]
    assert "broken-thing" in row
    assert "a_module_that_nobody_has" in listed.out
    assert re.search(r"^speedtest .*ok", listed.out, re.MULTILINE)


def test_a_required_plugin_that_fails_to_import_stops_everything(fresh: Machine, broken_plugin: dict[str, str]) -> None:
    path = config(fresh, "[plugins]\nrequire = ['broken']\n")
    check_error(fresh.coder("--config", path, "list", env=broken_plugin), "'broken'.*a_module_that_nobody_has")
    path = config(fresh, "[plugins]\nrequire = ['nowhere']\n")
    check_error(fresh.coder("--config", path, "list"), "'nowhere', which is not installed")


def test_plugins_that_nobody_has(fresh: Machine) -> None:
    check_error(fresh.coder("--disable-plugin", "nowhere", "list"), "nowhere", hint="plugins list")
    check_error(fresh.coder("--only-plugin", "nowhere", "list"), "nowhere", hint="plugins list")
    check_error(fresh.coder("plugins", "info", "nowhere"), "nowhere", hint=None)


# ---------------------------------------------------------------- no network


@pytest.mark.netns
@pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))
def test_without_any_network(tmp_path: Path) -> None:
    with Lab() as lab:
        island = Machine(tmp_path / "island", lab.host("island"))
        done = island.coder("login", "http://10.1.2.3:3000")
        check_error(done, "10.1.2.3:3000 cannot be reached: Network is unreachable", hint=None)
        done = island.coder("login", "https://coder.example.com")
        check_error(done, "coder.example.com", hint=None)
