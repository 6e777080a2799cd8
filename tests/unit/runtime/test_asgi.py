"""ASGI applications over a byte stream: HTTP as it is on the wire, WebSockets by a foreign client, lifespan, mounts."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest
from websockets.asyncio.client import unix_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from coder_agent import asgi
from coder_agent.errors import ConfigError
from coder_agent.mounting import listen
from coder_agent.runtime.mounts import Mounts

pytestmark = pytest.mark.anyio
PORT = 8123
Scope = Any
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


async def body_of(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        assert message["type"] == "http.request"
        body, more = body + message["body"], message["more_body"]
    return body


async def answer(send: Send, body: bytes, status: int = 200, *headers: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [*headers]})
    await send({"type": "http.response.body", "body": body})


async def web(scope: Scope, receive: Receive, send: Send) -> None:
    """The application of these tests: its path says what it does."""
    path = scope["path"]
    if path == "/echo":
        body = await body_of(receive)
        await answer(send, body, 200, (b"content-length", str(len(body)).encode()))
    elif path == "/scope":
        shown = f"{scope['method']} {scope['scheme']} {path} {scope['raw_path']!r} {scope['query_string']!r}"
        await answer(send, shown.encode())
    elif path == "/stream":
        await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": True})
        for part in (b"one", b"two"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"6")]})
    elif path == "/fails":
        raise ValueError("no")
    elif path == "/half":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
        await send({"type": "http.response.body", "body": b"four", "more_body": True})
    elif path == "/ignores-body":
        await answer(send, b"ok", 200, (b"content-length", b"2"))
    else:
        await answer(send, b"", 404, (b"content-length", b"0"))


@asynccontextmanager
async def served(folder: Path, app: asgi.AsgiApp = web) -> AsyncIterator[str]:
    async with listen(PORT, asgi.handler(app), folder=folder):
        path = Mounts(folder)(PORT)
        assert path is not None
        yield path


async def say(path: str, request: bytes) -> bytes:
    """Everything that is answered until the server closes."""
    heard = b""
    with anyio.fail_after(30):
        async with await anyio.connect_unix(path) as stream:
            await stream.send(request)
            while True:
                try:
                    heard += await stream.receive()
                except anyio.EndOfStream:
                    return heard


CLOSE = b"Host: x\r\nConnection: close\r\n"


async def test_answers_follow_one_another_on_one_connection(tmp_path: Path) -> None:
    async with served(tmp_path) as path:
        two = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"
        two += b"POST /echo HTTP/1.1\r\n" + CLOSE + b"Transfer-Encoding: chunked\r\n\r\n3\r\nyou\r\n0\r\n\r\n"
        heard = await say(path, two)
    assert heard.count(b"HTTP/1.1 200") == 2
    assert b"hi" in heard
    assert heard.endswith(b"you")


async def test_scope_says_what_was_asked(tmp_path: Path) -> None:
    async with served(tmp_path) as path:
        heard = await say(path, b"GET /scope?a=%20b HTTP/1.1\r\nX-Forwarded-Proto: https\r\n" + CLOSE + b"\r\n")
        encoded = await say(path, b"GET /sc%6Fpe HTTP/1.1\r\n" + CLOSE + b"\r\n")
    assert b"GET https /scope b'/scope' b'a=%20b'" in heard
    assert b"GET http /scope b'/sc%6Fpe' b''" in encoded


async def test_streams_and_trailers(tmp_path: Path) -> None:
    async with served(tmp_path) as path:
        heard = await say(path, b"GET /stream HTTP/1.1\r\n" + CLOSE + b"\r\n")
    assert heard.endswith(b"3\r\none\r\n3\r\ntwo\r\n0\r\nx-sum: 6\r\n\r\n")


async def test_a_head_request_gets_no_body(tmp_path: Path) -> None:
    async with served(tmp_path) as path:
        heard = await say(path, b"HEAD /scope HTTP/1.1\r\n" + CLOSE + b"\r\n")
    assert heard.startswith(b"HTTP/1.1 200")
    assert heard.endswith(b"\r\n\r\n")


async def test_expect_continue_is_answered_when_the_body_is_wanted(tmp_path: Path) -> None:
    async with served(tmp_path) as path:
        head = b"HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n" + CLOSE + b"\r\n"
        with anyio.fail_after(30):
            async with await anyio.connect_unix(path) as stream:
                await stream.send(b"POST /echo " + head)
                assert (await stream.receive()).startswith(b"HTTP/1.1 100")
                await stream.send(b"ok")
                assert (await stream.receive()).startswith(b"HTTP/1.1 200")
        unwanted = await say(path, b"POST /ignores-body " + head)
    assert unwanted.startswith(b"HTTP/1.1 200")


async def test_failures_of_the_application(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with served(tmp_path) as path:
        failed = await say(path, b"GET /fails HTTP/1.1\r\n" + CLOSE + b"\r\n")
        cut = await say(path, b"GET /half HTTP/1.1\r\nHost: x\r\n\r\n")
    assert failed.startswith(b"HTTP/1.1 500")
    assert cut.endswith(b"four")
    assert "the application failed on GET /fails" in caplog.text
    assert "did not finish its answer" in caplog.text


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        pytest.param(b"nonsense\r\n\r\n", b"400", id="no HTTP"),
        pytest.param(b"GET / HTTP/1.1\r\nA: " + b"x" * 200_000 + b"\r\n\r\n", b"431", id="a huge head"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", b"400", id="no host"),
    ],
)
async def test_bad_requests(tmp_path: Path, request_: bytes, status: bytes) -> None:
    async with served(tmp_path) as path:
        assert (await say(path, request_)).startswith(b"HTTP/1.1 " + status)


async def test_a_body_that_breaks_its_framing_is_a_disconnect(tmp_path: Path) -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend([(await receive())["type"], (await receive())["type"]])

    async with served(tmp_path, app) as path:
        await say(path, b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\nzz\r\n")
    assert seen == ["http.request", "http.disconnect"]


async def test_the_application_hears_that_the_visitor_left(tmp_path: Path) -> None:
    heard = anyio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await body_of(receive)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        assert (await receive())["type"] == "http.disconnect"
        heard.set()

    async with served(tmp_path, app) as path:
        with anyio.fail_after(30):
            async with await anyio.connect_unix(path) as stream:
                await stream.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                await stream.receive()
            await heard.wait()


async def test_an_upload_is_read_no_faster_than_the_application_wants_it(tmp_path: Path) -> None:
    go = anyio.Event()
    total = 8 << 20

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await go.wait()
        body = await body_of(receive)
        await answer(send, str(len(body)).encode())

    async with served(tmp_path, app) as path:
        with anyio.fail_after(60):
            async with await anyio.connect_unix(path) as stream:
                await stream.send(
                    b"POST / HTTP/1.1\r\nConnection: close\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % total
                )
                sent = 0
                with anyio.move_on_after(0.3):
                    while sent < total:
                        await stream.send(b"x" * 65536)
                        sent += 65536
                assert sent < total // 2  # what the socket's own buffers hold
                go.set()
                await stream.aclose()


# ---------------------------------------------------------------- WebSockets


async def sockets(scope: Scope, receive: Receive, send: Send) -> None:
    assert (await receive())["type"] == "websocket.connect"
    if scope["path"] == "/no":
        await send({"type": "websocket.close"})
        return
    if scope["path"] == "/denied":
        headers = [(b"content-type", b"text/plain")]
        await send({"type": "websocket.http.response.start", "status": 418, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": b"tea"})
        return
    chosen = scope["subprotocols"][0] if scope["subprotocols"] else None
    await send({"type": "websocket.accept", "subprotocol": chosen, "headers": [(b"x-app", b"1")]})
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") == "bye":
            await send({"type": "websocket.close", "code": 4001, "reason": "as you say"})
            return
        await send({"type": "websocket.send", **{k: message[k] for k in ("text", "bytes") if k in message}})
    if scope["path"] == "/tell":
        TOLD.append((message["code"], message["reason"]))


TOLD: list[tuple[int, str]] = []


async def test_messages_both_ways(tmp_path: Path) -> None:
    big = os.urandom(1 << 20)
    protocols = [Subprotocol("one"), Subprotocol("two")]
    async with (
        served(tmp_path, sockets) as path,
        unix_connect(path, "ws://app/x", subprotocols=protocols) as client,
    ):
        assert client.subprotocol == "one"
        assert client.response is not None
        assert client.response.headers["x-app"] == "1"
        await client.send("hello")
        assert await client.recv() == "hello"
        await client.send(big)
        assert await client.recv() == big
        await client.send(["frag", "ments"])
        assert await client.recv() == "fragments"
        await (await client.ping())
        await client.send("bye")
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as you say")


@pytest.mark.parametrize(("where", "status"), [("/no", 403), ("/denied", 418)])
async def test_refusals(tmp_path: Path, where: str, status: int) -> None:
    async with served(tmp_path, sockets) as path:
        with pytest.raises(InvalidStatus) as refused:
            await unix_connect(path, f"ws://app{where}")
    assert refused.value.response.status_code == status
    if status == 418:
        assert refused.value.response.body == b"tea"


async def test_the_application_hears_why_it_ended(tmp_path: Path) -> None:
    TOLD.clear()
    async with served(tmp_path, sockets) as path:
        async with unix_connect(path, "ws://app/tell") as client:
            await client.close(4242, "enough")
        with anyio.fail_after(30):
            while not TOLD:  # noqa: ASYNC110  (the application tells nobody)
                await anyio.sleep(0.01)
    assert TOLD == [(4242, "enough")]


async def test_text_that_is_none_ends_the_socket(tmp_path: Path) -> None:
    async with served(tmp_path, sockets) as path, unix_connect(path, "ws://app/") as client:
        await client.send(b"\xff\xfe", text=True)
        with pytest.raises(ConnectionClosed) as closed:
            await client.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1007


# ---------------------------------------------------------------- lifespan and mounts


async def test_lifespan_brings_state_and_an_end() -> None:
    order: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for kind in ("startup", "shutdown"):
            assert (await receive())["type"] == f"lifespan.{kind}"
            scope["state"]["db"] = 1
            order.append(kind)
            await send({"type": f"lifespan.{kind}.complete"})

    async with asgi.lifespan(app) as state:
        assert state == {"db": 1}
        assert order == ["startup"]
    assert order == ["startup", "shutdown"]


async def test_an_application_without_lifespan_and_one_that_cannot_start() -> None:
    async def plain(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"

    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    async with asgi.lifespan(plain) as state:
        assert state == {}
    with pytest.raises(ConfigError, match="cannot start: no database"):
        async with asgi.lifespan(broken):
            pass


async def test_a_port_is_served_by_one_program_and_free_afterwards(tmp_path: Path) -> None:
    mounts = Mounts(tmp_path)
    async with served(tmp_path):
        with pytest.raises(ConfigError, match="served by another program"):
            async with listen(PORT, asgi.handler(web), folder=tmp_path):
                pass
        assert mounts(PORT) is not None
    assert mounts(PORT) is None
    async with served(tmp_path):
        pass


async def test_a_socket_left_behind_is_replaced(tmp_path: Path) -> None:
    async with await anyio.create_unix_listener(tmp_path / f"{PORT}.sock"):
        pass
    (tmp_path / f"{PORT}.sock").touch()
    async with served(tmp_path) as path:
        assert (await say(path, b"GET /scope HTTP/1.1\r\n" + CLOSE + b"\r\n")).startswith(b"HTTP/1.1 200")


def test_a_folder_that_others_may_write_to_is_not_trusted(tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / f"{PORT}.sock"))
        assert Mounts(tmp_path)(PORT) is not None
        tmp_path.chmod(0o777)
        assert Mounts(tmp_path)(PORT) is None
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("port", [0, 8, 65536])
async def test_ports_that_cannot_be_mounted(tmp_path: Path, port: int) -> None:
    with pytest.raises(ConfigError, match="choose one"):
        async with listen(port, asgi.handler(web), folder=tmp_path):
            pass
