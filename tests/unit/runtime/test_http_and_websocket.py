"""Dialling, requests and WebSockets over loopback sockets: what works, and what each failure tells the user."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import anyio.abc
import pytest
import trustme
from anyio.streams.tls import TLSListener
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.utils import accept_key

from coder_agent.errors import ApiError, CoderAgentError, ConfigError, TransportBroken, Unauthenticated
from coder_agent.hooks.interfaces import DialOptions
from coder_agent.runtime import http
from coder_agent.runtime.dial import CertificateNotTrusted, Endpoint, dial, proxy_for
from coder_agent.runtime.http import ApiClient, NotACoderServer, merge_headers, request
from coder_agent.runtime.websocket import open_websocket

pytestmark = pytest.mark.anyio

Handler = Callable[[anyio.abc.ByteStream], Awaitable[None]]
DIRECT = DialOptions(proxy="")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@asynccontextmanager
async def listening(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port: int = listener.extra(anyio.abc.SocketAttribute.local_port)

    async def handle(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            await handler(stream)

    served = listener if tls is None else TLSListener(listener, tls, standard_compatible=False)
    async with served, anyio.create_task_group() as tasks:
        tasks.start_soon(served.serve, handle)
        yield port
        tasks.cancel_scope.cancel()


def answering(response: bytes, seen: list[bytes] | None = None) -> Handler:
    """Read one request head (and what came with it), answer, hang up."""

    async def handler(stream: anyio.abc.ByteStream) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += await stream.receive()
        length = next(
            (int(x.split(b":")[1]) for x in data.split(b"\r\n") if x.lower().startswith(b"content-length")), 0
        )
        while len(data.partition(b"\r\n\r\n")[2]) < length:
            data += await stream.receive()
        if seen is not None:
            seen.append(data)
        await stream.send(response)

    return handler


def reply(status: int, document: object, *headers: str, ours: bool = True) -> bytes:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"Content-Length: {len(body)}", *headers]
    if ours:
        lines.append("X-Coder-Build-Version: v0.0.0-test")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def error_of(url: str, options: DialOptions = DIRECT) -> CoderAgentError:
    with pytest.raises(CoderAgentError) as caught:
        await ApiClient(url, "t0ken", options).get("/api/v2/users/me")
    assert "\n" not in caught.value.message
    assert "t0ken" not in f"{caught.value.message} {caught.value.hint}"
    return caught.value


# ---------------------------------------------------------------- URLs


@pytest.mark.parametrize(
    ("url", "endpoint", "host_header"),
    [
        ("https://coder.example.com", Endpoint(True, "coder.example.com", 443, "/"), "coder.example.com"),
        ("http://127.0.0.1:3000/a?b=c", Endpoint(False, "127.0.0.1", 3000, "/a?b=c"), "127.0.0.1:3000"),
        ("wss://[::1]:8443/x", Endpoint(True, "::1", 8443, "/x"), "[::1]:8443"),
        ("ws://h:80", Endpoint(False, "h", 80, "/"), "h"),
    ],
)
def test_urls_are_read(url: str, endpoint: Endpoint, host_header: str) -> None:
    assert Endpoint.parse(url) == endpoint
    assert endpoint.host_header == host_header


@pytest.mark.parametrize("url", ["", "coder.example.com", "ftp://x", "http://", "http://h:99999", "http://[::1"])
def test_what_is_not_a_url_is_said_at_once(url: str) -> None:
    with pytest.raises(ConfigError, match="not a URL"):
        ApiClient(url, "")


# ---------------------------------------------------------------- requests


async def test_documents_go_both_ways() -> None:
    seen: list[bytes] = []
    async with listening(answering(reply(201, {"id": 7}), seen)) as port:
        api = ApiClient(f"http://127.0.0.1:{port}/", "t0ken", DialOptions(headers={"X-Extra": "1"}, proxy=""))
        assert await api.post("/api/v2/things?x=1", {"name": "dev"}) == {"id": 7}
    head, _, body = seen[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /api/v2/things?x=1 HTTP/1.1\r\n")
    assert b"\r\nCoder-Session-Token: t0ken" in head
    assert b"\r\nX-Extra: 1" in head
    assert json.loads(body) == {"name": "dev"}


async def test_an_empty_answer_is_none() -> None:
    async with listening(answering(reply(204, b""))) as port:
        assert await ApiClient(f"http://127.0.0.1:{port}", "t", DIRECT).delete("/api/v2/workspaces/1") is None


async def test_error_documents_become_exceptions() -> None:
    document = {
        "message": "Validation failed.",
        "detail": "why",
        "validations": [{"field": "name", "detail": "too long"}, "junk"],
    }
    async with listening(answering(reply(400, document))) as port:
        error = await error_of(f"http://127.0.0.1:{port}")
    assert isinstance(error, ApiError)
    assert (error.status, error.detail, error.validations) == (400, "why", (("name", "too long"),))
    assert error.message == "Validation failed: too long (name)"


async def test_a_missing_login_suggests_one() -> None:
    async with listening(answering(reply(401, {"message": "You are signed out."}))) as port:
        error = await error_of(f"http://127.0.0.1:{port}")
    assert isinstance(error, Unauthenticated)
    assert error.hint is not None
    assert "coder login" in error.hint


@pytest.mark.parametrize(
    "answer",
    [
        reply(200, {"fine": True}, ours=False),
        reply(200, b"<html>", ours=True),
        reply(404, b"<html>not here</html>", ours=False),
        reply(301, b"", "Location: https://elsewhere.example/", ours=False),
    ],
)
async def test_something_else_behind_the_url_is_named(answer: bytes) -> None:
    async with listening(answering(answer)) as port:
        error = await error_of(f"http://127.0.0.1:{port}")
    assert isinstance(error, NotACoderServer)
    assert error.hint


async def test_a_proxy_error_page_is_told_with_its_status() -> None:
    async with listening(answering(reply(502, b"<html>", ours=False))) as port:
        error = await error_of(f"http://127.0.0.1:{port}")
    assert isinstance(error, ApiError)
    assert error.status == 502


async def test_answers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_BODY", 1 << 20)
    async with listening(answering(reply(200, bytes((1 << 20) + 1)))) as port:
        error = await error_of(f"http://127.0.0.1:{port}")
    assert "more than 1 MiB" in error.message


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not answer in HTTP"),
        (b"", "closed the connection before"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", "closed the connection before"),
    ],
)
async def test_broken_answers_are_told(answer: bytes, message: str) -> None:
    async with listening(answering(answer)) as port:
        error = await error_of(f"http://127.0.0.1:{port}")
    assert isinstance(error, TransportBroken)
    assert message in error.message


async def test_a_server_that_never_answers_times_out() -> None:
    async def silent(stream: anyio.abc.ByteStream) -> None:
        await anyio.sleep_forever()

    async with listening(silent) as port:
        with pytest.raises(TransportBroken, match=r"longer than 0\.05 s"):
            await request("GET", f"http://127.0.0.1:{port}/", timeout=0.05, options=DIRECT)


async def test_a_header_that_cannot_be_sent_is_the_users_to_mend() -> None:
    async with listening(answering(reply(200, {}))) as port:
        error = await error_of(f"http://127.0.0.1:{port}", DialOptions(headers={"X": "a\r\nb"}, proxy=""))
    assert isinstance(error, ConfigError)


def test_later_headers_replace_earlier_ones_whatever_their_case() -> None:
    assert merge_headers({"User-Agent": "a", "X": "1"}, {"user-agent": "b"}) == {"user-agent": "b", "X": "1"}


# ---------------------------------------------------------------- reaching a server


async def test_a_refused_connection_says_so() -> None:
    async with listening(answering(b"")) as port:
        pass
    error = await error_of(f"http://127.0.0.1:{port}")
    assert error.message == f"127.0.0.1:{port} refuses the connection"
    assert error.hint == "is the server running, and is the port right?"


async def test_an_unknown_name_says_so() -> None:
    error = await error_of("http://no-such-host.invalid:3000")
    assert "no-such-host.invalid cannot be found" in error.message


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return str(path)


async def test_tls_with_a_private_authority(server_tls: ssl.SSLContext, ca_file: str) -> None:
    async with listening(answering(reply(200, {"ok": 1})), server_tls) as port:
        for options in (DialOptions(ca_file=ca_file, proxy=""), DialOptions(insecure=True, proxy="")):
            assert await ApiClient(f"https://127.0.0.1:{port}", "t", options).get("/api/v2/x") == {"ok": 1}


async def test_a_certificate_that_does_not_verify_says_what_to_do(server_tls: ssl.SSLContext) -> None:
    async with listening(answering(reply(200, {})), server_tls) as port:
        error = await error_of(f"https://127.0.0.1:{port}")
    assert isinstance(error, CertificateNotTrusted)
    assert "does not verify" in error.message
    assert error.hint is not None
    assert "ca_file" in error.hint


async def test_a_certificate_for_another_name_does_not_verify(server_tls: ssl.SSLContext, ca_file: str) -> None:
    async with listening(answering(reply(200, {})), server_tls) as port:
        error = await error_of(f"https://localhost:{port}", DialOptions(ca_file=ca_file, proxy=""))
    assert isinstance(error, CertificateNotTrusted)


async def test_http_on_a_tls_url_says_so() -> None:
    async def plain(stream: anyio.abc.ByteStream) -> None:
        await stream.receive()
        await stream.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with listening(plain) as port:
        error = await error_of(f"https://127.0.0.1:{port}")
    assert "does not speak TLS" in error.message


async def test_hanging_up_during_the_handshake_says_so() -> None:
    async def hang_up(stream: anyio.abc.ByteStream) -> None:
        await stream.receive()

    async with listening(hang_up) as port:
        error = await error_of(f"https://127.0.0.1:{port}")
    assert "during the TLS handshake" in error.message


@pytest.mark.parametrize("content", [None, "not a certificate"])
async def test_an_unusable_ca_file_is_a_configuration_error(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    error = await error_of("https://127.0.0.1:1", DialOptions(ca_file=str(path), proxy=""))
    assert isinstance(error, ConfigError)
    assert str(path) in error.message


async def test_dialling_gives_up_in_time(server_tls: ssl.SSLContext) -> None:
    async def silent(stream: anyio.abc.ByteStream) -> None:
        await anyio.sleep_forever()

    async with listening(silent) as port:
        with pytest.raises(TransportBroken, match=r"does not answer within 0\.05 s"):
            await dial(Endpoint(True, "127.0.0.1", port, "/"), DIRECT, timeout=0.05)


# ---------------------------------------------------------------- proxies


def test_which_proxy_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    secure, plain = Endpoint(True, "coder.example", 443, "/"), Endpoint(False, "coder.example", 80, "/")
    assert proxy_for(secure, DialOptions()) is None
    monkeypatch.setenv("HTTPS_PROXY", "proxy.example:3128")
    monkeypatch.setenv("ALL_PROXY", "socks5://all.example:1080")
    assert proxy_for(secure, DialOptions()) == "http://proxy.example:3128"
    assert proxy_for(plain, DialOptions()) == "socks5://all.example:1080"
    assert proxy_for(secure, DialOptions(proxy="http://mine:1")) == "http://mine:1"
    assert proxy_for(secure, DialOptions(proxy="")) is None
    monkeypatch.setenv("NO_PROXY", "coder.example")
    assert proxy_for(secure, DialOptions()) is None


def connect_proxy(seen: list[str]) -> Handler:
    async def handler(stream: anyio.abc.ByteStream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive()
        target = head.split()[1].decode()
        seen.append(target)
        host, _, port = target.rpartition(":")
        async with await anyio.connect_tcp(host, int(port)) as onward, anyio.create_task_group() as tasks:
            await stream.send(b"HTTP/1.1 200 Connection established\r\n\r\n")

            async def copy(source: anyio.abc.ByteStream, target: anyio.abc.ByteStream) -> None:
                try:
                    async for data in source:
                        await target.send(data)
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    pass
                tasks.cancel_scope.cancel()

            tasks.start_soon(copy, stream, onward)
            tasks.start_soon(copy, onward, stream)

    return handler


async def test_requests_go_through_a_connect_proxy_with_tls_inside(server_tls: ssl.SSLContext, ca_file: str) -> None:
    seen: list[str] = []
    async with listening(answering(reply(200, {"ok": 1})), server_tls) as port, listening(connect_proxy(seen)) as proxy:
        options = DialOptions(ca_file=ca_file, proxy=f"http://127.0.0.1:{proxy}")
        assert await ApiClient(f"https://127.0.0.1:{port}", "t", options).get("/api/v2/x") == {"ok": 1}
    assert seen == [f"127.0.0.1:{port}"]


async def test_a_proxy_that_refuses_is_named_without_its_password() -> None:
    async with listening(answering(b"HTTP/1.1 403 Forbidden\r\n\r\n")) as proxy:
        error = await error_of("http://coder.example", DialOptions(proxy=f"http://bob:hunter2@127.0.0.1:{proxy}"))
    assert f"the proxy 127.0.0.1:{proxy} does not connect" in error.message
    assert "hunter2" not in error.message


async def test_a_proxy_that_is_away_is_named() -> None:
    async with listening(answering(b"")) as proxy:
        pass
    error = await error_of("http://coder.example", DialOptions(proxy=f"http://127.0.0.1:{proxy}"))
    assert f"the proxy 127.0.0.1:{proxy} cannot be reached" in error.message


async def test_a_proxy_url_that_is_none_is_a_configuration_error() -> None:
    error = await error_of("http://coder.example", DialOptions(proxy="gopher://x"))
    assert isinstance(error, ConfigError)


# ---------------------------------------------------------------- WebSockets


async def echo(socket: ServerConnection) -> None:
    assert socket.request is not None
    assert "permessage-deflate" not in str(socket.request.headers)
    await socket.send((socket.request.headers["X-Extra"] + socket.request.path).encode())
    await socket.ping()
    async for message in socket:
        if message == b"close":
            await socket.close(1001, "going down")
            return
        await socket.send(message)


@asynccontextmanager
async def websocket_server(tls: ssl.SSLContext | None = None, answer: bytes = b"") -> AsyncIterator[str]:
    def refuse(socket: ServerConnection, request: Request) -> Response | None:
        if not answer:
            return None
        headers = Headers({"Content-Length": str(len(answer)), "X-Coder-Build-Version": "v0.0.0-test"})
        return Response(404, "Not Found", headers, answer)

    async with serve(echo, "127.0.0.1", 0, ssl=tls, process_request=refuse, close_timeout=0.2) as server:
        port = server.sockets[0].getsockname()[1]
        yield f"{'https' if tls else 'http'}://127.0.0.1:{port}/ws?a=b"


async def test_a_websocket_is_a_byte_stream(server_tls: ssl.SSLContext, ca_file: str) -> None:
    for tls in (None, server_tls):
        async with websocket_server(tls) as url:
            options = DialOptions(ca_file=ca_file, headers={"X-Extra": "extra|"}, proxy="")
            socket = await open_websocket(url, options=options)
            assert await socket.receive() == b"extra|/ws?a=b"
            big = bytes(range(256)) * 4096
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(socket.send, big)
                assert await socket.receive() == big
            await socket.aclose()
            await socket.aclose()


async def test_the_servers_reason_for_closing_is_told() -> None:
    async with websocket_server() as url:
        socket = await open_websocket(url, headers={"X-Extra": ""}, options=DIRECT)
        await socket.receive()
        await socket.send(b"close")
        with pytest.raises(TransportBroken, match="closed the connection: going down"):
            await socket.receive()
        with pytest.raises(TransportBroken):
            await socket.send(b"x")
        await socket.aclose()


async def test_a_refused_websocket_is_the_error_document() -> None:
    async with websocket_server(answer=b'{"message": "Resource not found."}') as url:
        with pytest.raises(ApiError, match="Resource not found") as caught:
            await open_websocket(url, options=DIRECT)
    assert caught.value.status == 404


async def test_a_server_without_websockets_is_named() -> None:
    async with listening(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")) as port:
        with pytest.raises(NotACoderServer):
            await open_websocket(f"http://127.0.0.1:{port}/", options=DIRECT)


@pytest.mark.parametrize("answer", [b"junk\r\n\r\n", b"", b"HTTP/1.1 101 OK\r\nUpgrade: websocket\r\n\r\n"])
async def test_broken_handshakes_are_transport_errors(answer: bytes) -> None:
    async with listening(answering(answer)) as port:
        with pytest.raises(CoderAgentError) as caught:
            await open_websocket(f"http://127.0.0.1:{port}/", options=DIRECT)
    assert isinstance(caught.value, TransportBroken | NotACoderServer)


async def test_messages_over_the_limit_end_the_connection() -> None:
    async def flood(stream: anyio.abc.ByteStream) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += await stream.receive()
        key = next(
            line.split(b": ")[1] for line in data.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key")
        )
        accept = accept_key(key.decode()).encode()
        await stream.send(
            b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
            + accept
            + b"\r\n\r\n"
            + b"\x82\x7f"
            + (64 << 20).to_bytes(8, "big")
        )
        while await stream.receive():
            continue

    async with listening(flood) as port:
        with pytest.raises(TransportBroken, match="broke the WebSocket rules"):
            async with aclosing(await open_websocket(f"http://127.0.0.1:{port}/", options=DIRECT)) as socket:
                await socket.receive()


def test_a_base_url_with_a_path_keeps_it() -> None:
    assert urlsplit(ApiClient("https://h/sub/", "").url).path == "/sub"
