"""`coder_agent.connect` and its blocking twin against a real server and agent, with a web server in the workspace."""

from __future__ import annotations

import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import AF_INET6, create_server

import anyio
import httpx2
import pytest
import trustme

import coder_agent
import coder_agent.blocking
from coder_agent.base.paths import PathKind
from coder_agent.errors import ApiError, ConfigError, PeerUnreachable, TransportBroken, Unauthenticated
from coder_agent.testing.deployment import Deployment, kill

pytestmark = [pytest.mark.slow, pytest.mark.anyio, pytest.mark.usefixtures("as_the_user")]
PAGE = b"hello from the workspace\n" * 40_000


@pytest.fixture(scope="module")
def place(api_place: Deployment) -> Deployment:
    """A server, a user, a workspace with its agent."""
    return api_place


class _Page(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(PAGE)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


class _Server6(ThreadingHTTPServer):
    address_family = AF_INET6


@pytest.fixture(params=["127.0.0.1", "::1"])
def web_port(request: pytest.FixtureRequest) -> Iterator[int]:
    """A web server on one family of loopback only."""
    kind = _Server6 if request.param == "::1" else ThreadingHTTPServer
    server = kind((request.param, 0), _Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


async def test_an_http_request_through_the_tunnel(web_port: int) -> None:
    with anyio.fail_after(90):
        async with coder_agent.connect("dev") as workspace:
            async with await workspace.open_tcp(web_port) as stream:
                await stream.send(b"GET / HTTP/1.0\r\n\r\n")
                answer = b"".join([part async for part in stream])
            assert answer.startswith(b"HTTP/1.1 200")
            assert answer.partition(b"\r\n\r\n")[2] == PAGE
            assert (await workspace.ping()).latency > 0
            assert (await workspace.wait_direct()).kind is PathKind.DIRECT


async def test_relayed_when_asked(web_port: int) -> None:
    with anyio.fail_after(90):
        async with coder_agent.connect("alice/dev.main", direct=False) as workspace:
            async with await workspace.open_tcp(web_port) as stream:
                await stream.send(b"GET / HTTP/1.0\r\n\r\n")
                answer = b"".join([part async for part in stream])
            assert answer.endswith(PAGE)
            assert workspace.path().kind is PathKind.RELAYED


async def test_many_streams_at_once(web_port: int) -> None:
    got: list[bytes] = []

    async def fetch(workspace: coder_agent.Workspace) -> None:
        async with await workspace.open_tcp(web_port) as stream:
            await stream.send(b"GET / HTTP/1.0\r\n\r\n")
            got.append(b"".join([part async for part in stream]).partition(b"\r\n\r\n")[2])

    with anyio.fail_after(90):
        async with coder_agent.connect("dev") as workspace, anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(fetch, workspace)
    assert got == [PAGE] * 20


async def test_nothing_listens_on_that_port() -> None:
    with create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with anyio.fail_after(90):
        async with coder_agent.connect("dev") as workspace:
            for closed in (port, 5):  # a program's port, and a service that the agent does not have
                with pytest.raises(TransportBroken, match=r"refused|reset"):
                    await workspace.open_tcp(closed)
            assert (await workspace.ping_tunnel()).latency > 0


async def test_what_is_wrong_is_told_by_type() -> None:
    with pytest.raises(ApiError, match="workspace nope not found"):
        async with coder_agent.connect("nope"):
            pass
    with pytest.raises(ConfigError):
        async with coder_agent.connect("a/b/c/d"):
            pass
    with pytest.raises(Unauthenticated):
        async with coder_agent.connect("dev", token="AAAAAAAAAA-BBBBBBBBBBBBBBBBBBBBBB"):
            pass


async def test_an_error_of_the_caller_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError, match="mine"):
        async with coder_agent.connect("dev"):
            raise KeyError("mine")


def test_blocking(web_port: int) -> None:
    with coder_agent.blocking.connect("dev") as workspace:
        assert workspace.ping().latency > 0
        with workspace.open_tcp(web_port) as stream:
            stream.send(b"GET / HTTP/1.0\r\n\r\n")
            answer = b""
            while data := stream.receive():
                answer += data
        assert answer.endswith(PAGE)
        with pytest.raises(TransportBroken):
            workspace.open_tcp(5)
    with pytest.raises(ApiError, match="not found"), coder_agent.blocking.connect("nope"):
        pass


async def test_an_agent_that_goes_away_meanwhile(place: Deployment, tmp_path: Path) -> None:
    gone = place.create("gone")
    agent = place.start_agent(gone)
    with anyio.fail_after(60):
        async with coder_agent.connect("gone") as workspace:
            kill(agent)
            with pytest.raises(PeerUnreachable):
                await workspace.open_tcp(3, timeout=2)
            with pytest.raises(PeerUnreachable):
                await workspace.ping_tunnel(timeout=1)
            assert (await workspace.refresh_agent()).status == "disconnected"


# ---------------------------------------------------------------- HTTP clients


class _Echo(BaseHTTPRequestHandler):
    """Says which connection a request came by; POST gives the body back; /slow never answers; /away leads elsewhere."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/away":
            self._answer(302, b"", Location="http://other.example.com/")
        elif self.path == "/slow":
            self.rfile.read()  # until the client has had enough
        else:
            self._answer(200, f"{self.headers['Host']} {self.client_address[1]}".encode())

    def do_POST(self) -> None:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        self._answer(200, body)

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextmanager
def _serving(context: ssl.SSLContext | None = None) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_an_http_client_goes_to_a_port_of_the_workspace() -> None:
    async def parts() -> AsyncIterator[bytes]:
        for number in range(50):
            yield b"%05d" % number * 4000

    with _serving() as port, anyio.fail_after(90):
        async with coder_agent.connect("dev") as workspace, workspace.http(port) as client:
            first, second = [(await client.get("/")).text for _ in range(2)]
            assert first == second, "the connection was not used again"
            assert first.startswith(f"localhost:{port} ")
            sent = b"".join([part async for part in parts()])
            async with client.stream("POST", "/", content=parts()) as answer:
                assert b"".join([part async for part in answer.aiter_bytes()]) == sent
            with pytest.raises(httpx2.ReadTimeout):
                await client.get("/slow", timeout=0.3)
            with pytest.raises(httpx2.UnsupportedProtocol, match=r"other\.example\.com is not the workspace"):
                await client.get("/away", follow_redirects=True)
            assert (await client.get("/")).status_code == 200  # and it still works


async def test_an_http_client_says_that_nothing_listens() -> None:
    with create_server(("127.0.0.1", 0)) as closed:
        nothing_listens = closed.getsockname()[1]
    with anyio.fail_after(90):
        async with coder_agent.connect("dev") as workspace, workspace.http(nothing_listens) as client:
            with pytest.raises(httpx2.ConnectError):
                await client.get("/")


async def test_an_https_client(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    believing = ssl.create_default_context()
    authority.configure_trust(believing)
    with _serving(context) as port, anyio.fail_after(90):
        async with coder_agent.connect("dev") as workspace:
            for verify in (False, believing):
                async with workspace.http(port, tls=True, verify=verify) as client:
                    assert (await client.get("/")).status_code == 200
            async with workspace.http(port, tls=True, verify=True) as client:
                with pytest.raises(httpx2.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                    await client.get("/")


def test_a_blocking_http_client() -> None:
    with (
        _serving() as port,
        coder_agent.blocking.connect("dev") as workspace,
        workspace.http(port) as client,
    ):
        assert client.get("/").text == client.get("/").text
        assert client.post("/", content=iter([b"a" * 100_000, b"b"])).content == b"a" * 100_000 + b"b"
        with client.stream("GET", "/") as answer:
            assert b"".join(answer.iter_raw()).startswith(b"localhost")
