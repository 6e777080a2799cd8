"""Requests and answers on their way: framing, streaming, upgrades, hygiene, and everything that can go wrong."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.abc
import pytest
import trustme
from anyio.streams.tls import TLSStream

pytestmark = pytest.mark.anyio

Talk = Callable[[anyio.abc.ByteStream], Awaitable[None]]
BASE = "/@alice/dev/apps/web"
ME = f"Cookie: coder_session_token={'alice':0<10}-{'alice':x<22}\r\n"
GONE = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)


@asynccontextmanager
async def app(talk: Talk, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A program on a port that does what `talk` says with each connection."""

    async def served(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            try:
                await talk(stream)
            except GONE:
                pass

    async def accepted(stream: anyio.abc.ByteStream) -> None:
        if context is None:
            return await served(stream)
        try:
            await served(await TLSStream.wrap(stream, ssl_context=context, standard_compatible=False))
        except (ssl.SSLError, *GONE):
            await stream.aclose()  # plain HTTP; OpenSSL has answered with an alert

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        tasks.start_soon(listener.serve, accepted)
        yield port
        tasks.cancel_scope.cancel()


async def read_head(stream: anyio.abc.ByteReceiveStream) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        data += await stream.receive()
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def answering(answer: bytes) -> Talk:
    async def talk(stream: anyio.abc.ByteStream) -> None:
        while True:
            await read_head(stream)
            await stream.send(answer)

    return talk


async def read_until(stream: anyio.abc.ByteReceiveStream, wanted: bytes) -> bytes:
    data = b""
    with anyio.fail_after(30):
        while wanted not in data:
            data += await stream.receive()
    return data


def request(target: str = "/", lines: str = "", method: str = "GET", body: bytes = b"") -> bytes:
    return f"{method} {BASE}{target} HTTP/1.1\r\nHost: coder.test\r\n{ME}{lines}\r\n".encode() + body


async def test_one_connection_serves_apps_and_dashboard_in_turn(place) -> None:  # type: ignore[no-untyped-def]
    async with app(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\napp")) as port:
        place.server.add_app("web", port)
        async with await anyio.connect_tcp("127.0.0.1", place.port) as stream:
            for _ in range(2):
                await stream.send(request() + request())
                assert (await read_until(stream, b"app")).startswith(b"HTTP/1.1 200 OK\r\n")
                await stream.send(b"GET / HTTP/1.1\r\nHost: coder.test\r\n\r\n")
                assert b"dashboard" in await read_until(stream, b"dashboard")
        assert len(place.server.tailnet.dialled) == 1, "one connection to the app for all of it"


@pytest.mark.parametrize(
    ("answer", "expected", "stays"),
    [
        (b"Content-Length: 5\r\n\r\nhello", b"\r\n\r\nhello", True),
        (b"Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3;x=y\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n",
         b"\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n", True),
        (b"Content-Length: 0\r\n\r\n", b"\r\n\r\n", True),
    ],
    ids=["length", "chunks-and-trailers", "empty"],
)  # fmt: skip
async def test_bodies_arrive_as_they_were_sent(place, answer, expected, stays) -> None:  # type: ignore[no-untyped-def]
    async with app(answering(b"HTTP/1.1 200 Fine\r\n" + answer)) as port:
        place.server.add_app("web", port)
        async with await anyio.connect_tcp("127.0.0.1", place.port) as stream:
            for _ in range(2):
                await stream.send(request())
                assert (await read_until(stream, expected)).endswith(expected)


async def test_an_answer_until_the_end_of_the_connection(place) -> None:  # type: ignore[no-untyped-def]
    async def talk(stream: anyio.abc.ByteStream) -> None:
        await read_head(stream)
        await stream.send(b"HTTP/1.0 200 OK\r\n\r\nall ")
        await stream.send(b"of it")

    async with app(talk) as port:
        place.server.add_app("web", port)
        reply = await place.raw(request())
        assert reply.endswith(b"\r\n\r\nall of it")
        assert b"Connection: close\r\n" in reply


async def test_an_old_client_gets_no_chunks(place) -> None:  # type: ignore[no-untyped-def]
    async with app(
        answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    ) as port:
        place.server.add_app("web", port)
        reply = await place.raw(request().replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert reply.endswith(b"\r\n\r\nabcde")
        assert b"chunked" not in reply.lower()


async def test_events_arrive_one_by_one(place) -> None:  # type: ignore[no-untyped-def]
    more = anyio.Event()

    async def talk(stream: anyio.abc.ByteStream) -> None:
        await read_head(stream)
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        await more.wait()
        await stream.send(b"data: 2\n\n")

    async with app(talk) as port:
        place.server.add_app("web", port)
        async with await anyio.connect_tcp("127.0.0.1", place.port) as stream:
            await stream.send(request())
            await read_until(stream, b"data: 1\n\n")
            more.set()
            await read_until(stream, b"data: 2\n\n")


async def test_uploads_wait_for_a_slow_app_and_arrive_whole(place) -> None:  # type: ignore[no-untyped-def]
    size, go = 24 << 20, asyncio.Event()
    whole: list[int] = []
    """What each connection took."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await go.wait()
        whole.append(0)
        mine = len(whole) - 1
        while whole[mine] < size and (some := await reader.read(65536)):
            whole[mine] += len(some)
        writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    # not anyio's listener: its streams take what arrives before they are first waited for, however much it is
    async with await asyncio.start_server(talk, "127.0.0.1", 0) as slow:
        place.server.add_app("web", slow.sockets[0].getsockname()[1])
        async with await anyio.connect_tcp("127.0.0.1", place.port) as stream:
            await stream.send(request("/up", f"Content-Length: {size}\r\n", "POST"))
            sent, block = 0, bytes(1 << 20)
            with anyio.move_on_after(0.5) as stuck:
                while sent < size:
                    await stream.send(block)
                    sent += len(block)
            assert stuck.cancelled_caught, "everything was buffered somewhere"
            go.set()
        data = request("/up", f"Connection: close\r\nContent-Length: {size}\r\n", "POST")
        reply = await place.raw(data + bytes(size), timeout=60)
        assert reply.startswith(b"HTTP/1.1 201 ")
        assert max(whole) == size


async def test_a_chunked_upload_with_trailers_and_half_close(place) -> None:  # type: ignore[no-untyped-def]
    got = b""

    async def talk(stream: anyio.abc.ByteStream) -> None:
        nonlocal got
        head, got = await read_head(stream)
        assert b"Transfer-Encoding: chunked" in head
        while not got.endswith(b"\r\n\r\n"):
            got += await stream.receive()
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with app(talk) as port:
        place.server.add_app("web", port)
        body = b"5;ext=1\r\nhello\r\n0\r\nX-Trailer: t\r\n\r\n"
        reply = await place.raw(request("/", "Transfer-Encoding: chunked\r\n", "PUT", body), eof=True)
        assert reply.endswith(b"ok")
        assert got == b"5\r\nhello\r\n0\r\nX-Trailer: t\r\n\r\n"


async def test_interim_answers_pass(place) -> None:  # type: ignore[no-untyped-def]
    async def talk(stream: anyio.abc.ByteStream) -> None:
        head, rest = await read_head(stream)
        assert b"Expect: 100-continue" in head
        await stream.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        while len(rest) < 4:
            rest += await stream.receive()
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n" + rest)

    async with app(talk) as port:
        place.server.add_app("web", port)
        async with await anyio.connect_tcp("127.0.0.1", place.port) as stream:
            await stream.send(request("/", "Expect: 100-continue\r\nContent-Length: 4\r\n", "POST"))
            await read_until(stream, b"HTTP/1.1 100 Continue\r\n\r\n")
            await stream.send(b"body")
            assert b"\r\n\r\nbody" in await read_until(stream, b"body")


async def test_a_websocket_is_bytes_with_two_ends(place) -> None:  # type: ignore[no-untyped-def]
    async def talk(stream: anyio.abc.ByteStream) -> None:
        head, rest = await read_head(stream)
        assert b"Sec-WebSocket-KEY: as-it-was" in head
        assert b"Connection: Upgrade" in head
        await stream.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nfirst" + rest
        )
        heard = b""
        try:
            while True:
                heard += await stream.receive()
        except anyio.EndOfStream:
            await stream.send(b"heard:" + heard)

    async with app(talk) as port:
        place.server.add_app("web", port)
        lines = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-KEY: as-it-was\r\n"
        async with await anyio.connect_tcp("127.0.0.1", place.port) as stream:
            await stream.send(request("/", lines))
            await read_until(stream, b"first")
            await stream.send(b"\x00\xff")
            await stream.send_eof()
            assert await read_until(stream, b"\xff") == b"heard:\x00\xff"
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()


async def test_an_upgrade_to_nowhere_is_an_ordinary_answer(place) -> None:  # type: ignore[no-untyped-def]
    async def talk(stream: anyio.abc.ByteStream) -> None:
        head, _ = await read_head(stream)
        assert (b"h2c" in head) is False
        await stream.send(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno")

    async with app(talk) as port:
        place.server.add_app("web", port)
        for token in ("websocket", "h2c"):
            lines = f"Connection: Upgrade, HTTP2-Settings, close\r\nHTTP2-Settings: AAA\r\nUpgrade: {token}\r\n"
            assert (await place.raw(request("/", lines))).startswith(b"HTTP/1.1 426 ")


async def test_a_protocol_change_nobody_asked_for_is_refused(place) -> None:  # type: ignore[no-untyped-def]
    async with app(answering(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")) as port:
        place.server.add_app("web", port)
        assert (await place.get(f"{BASE}/", user="alice")).status == 502


# ---------------------------------------------------------------- hygiene


async def test_what_an_app_gets_to_see(place) -> None:  # type: ignore[no-untyped-def]
    seen = b""

    async def talk(stream: anyio.abc.ByteStream) -> None:
        nonlocal seen
        seen, _ = await read_head(stream)
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with app(talk) as port:
        place.server.add_app("web", port)
        token = f"{'alice':0<10}-{'alice':x<22}"
        lines = (
            "Cookie: a=1; coder_signed_app_token=x; b=2; coder_subdomain_app_session_token_00ff=y; oauth_state=z\r\n"
            f"Coder-Session-Token: {token}\r\nAuthorization: Bearer {token}\r\nX-Forwarded-For: 6.6.6.6\r\n"
            "X-Forwarded-Host: evil\r\nX-Forwarded-Prefix: /evil\r\nForwarded: for=6.6.6.6\r\nX-Real-Ip: 6.6.6.6\r\n"
            "Connection: close, X-Private\r\nX-Private: 1\r\nTE: trailers, gzip\r\nKeep-Alive: 5\r\nX-Own: kept\r\n"
            "Proxy-Authorization: x\r\n"
        )
        target = f"/p%2Fq?coder_session_token={token}&mine=1&coder_signed_app_token_23db1dde=x"
        await place.raw(request(target, lines))
        assert seen.startswith(b"GET /p%2Fq?mine=1 HTTP/1.1\r\n")
        assert b"\r\nCookie: a=1; b=2\r\n" in seen
        assert b"\r\nX-Own: kept\r\n" in seen
        assert b"\r\nTE: trailers\r\n" in seen
        assert b"\r\nX-Forwarded-For: 192.0.2.7\r\n" in seen
        for word in (
            b"coder_",
            b"alicex",
            b"6.6.6.6",
            b"evil",
            b"X-Private",
            b"Keep-Alive",
            b"Proxy-A",
            b"gzip",
            b"oauth",
        ):
            assert word not in seen
        await place.raw(request("/", "Authorization: Bearer of-the-app\r\nConnection: close\r\n"))
        assert b"Authorization: Bearer of-the-app" in seen


async def test_what_a_browser_gets_to_see(place) -> None:  # type: ignore[no-untyped-def]
    answer = (
        "HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: {where}\r\n"
        "Set-Cookie: coder_session_token=evil; Path=/\r\n"
        "Set-Cookie: own=1; Path=/; Domain=coder.test; HttpOnly\r\nSet-Cookie: __Host-x=1; Path=/; Secure\r\n"
        "Set-Cookie: bare=1\r\nService-Worker-Allowed: /\r\nClear-Site-Data: \"*\"\r\nKeep-Alive: timeout=5\r\n"
        "Access-Control-Allow-Origin: *\r\nX-Own: kept\r\n\r\n"
    )  # fmt: skip
    for where, expected in (
        ("/lab?x=/", f"{BASE}/lab?x=/"),
        ("http://localhost:PORT/lab", f"{BASE}/lab"),
        ("http://coder.test/lab", f"{BASE}/lab"),
        (f"{BASE}/lab", f"{BASE}/lab"),
        ("lab", "lab"),
        ("//other.example/x", "//other.example/x"),
        ("https://other.example/", "https://other.example/"),
    ):
        place.server.place = type(place.server)().place
        place.route._gate._memory.clear()

        async def talk(stream: anyio.abc.ByteStream, where: str = where) -> None:
            port = stream.extra(anyio.abc.SocketAttribute.local_port)
            await read_head(stream)
            await stream.send(answer.format(where=where.replace("PORT", str(port))).encode())

        async with app(talk) as port:
            place.server.add_app("web", port)
            reply = await place.get(f"{BASE}/", user="alice")
        assert reply["location"] == expected
    cookies = [cookie for cookie in reply.all("set-cookie") if not cookie.startswith("coder_signed")]
    assert cookies == [
        f"own=1; Path={BASE}/; HttpOnly", f"x=1; Path={BASE}/; Secure", f"bare=1; Path={BASE}/",
    ]  # fmt: skip
    for name in ("service-worker-allowed", "clear-site-data", "keep-alive", "access-control-allow-origin"):
        assert reply[name] == ""
    assert reply["x-own"] == "kept"


async def test_requests_that_escaped_by_an_absolute_path_are_led_back(place) -> None:  # type: ignore[no-untyped-def]
    for page in (f"{BASE}/", "/@alice/dev/ports/8080/sub/page?x"):
        base = "/".join(page.split("/")[:5]) + "/"
        reply = await place.get("/static/a%2Fb.js?v=1", headers=f"Referer: http://coder.test{page}\r\n")
        assert (reply.status, reply["location"]) == (307, f"{base}static/a%2Fb.js?v=1")
        assert (await place.get("/api/v2/users/me", headers=f"Referer: http://coder.test{page}\r\n")).status == 307
    for page in (
        "http://coder.test/login?next=/@alice/dev/apps/web/",
        f"http://evil.example{BASE}/",
        f"https://coder.test{BASE}/",
    ):
        reply = await place.get("/static/x.js", headers=f"Referer: {page}\r\n")
        assert reply.body == b"dashboard" or reply.status == 404


# ---------------------------------------------------------------- what can go wrong


async def test_nothing_listens(place, free_tcp_port) -> None:  # type: ignore[no-untyped-def]
    place.server.add_app("web", free_tcp_port)
    page = await place.get(f"{BASE}/", user="alice", headers="Accept: text/html\r\n")
    assert page.status == 502
    assert b"not running" in page.body
    assert page["referrer-policy"] == "no-referrer"
    document = await place.get(f"{BASE}/", user="alice")
    assert document["content-type"] == "application/json"


async def test_the_workspace_is_offline(place) -> None:  # type: ignore[no-untyped-def]
    from dataclasses import replace

    place.server.add_app("web", 8080)
    place.server.place = replace(place.server.place, status="disconnected")
    reply = await place.get(f"{BASE}/", user="alice", headers="Accept: text/html\r\n")
    assert reply.status == 503
    assert b"offline since 2026-01-02 03:04 UTC" in reply.body
    assert place.server.tailnet.dialled == []


async def test_the_workspace_does_not_answer(place) -> None:  # type: ignore[no-untyped-def]
    place.server.add_app("web", 8080)
    place.server.tailnet.gone[place.server.place.agent_id] = "no answer to the handshake"
    reply = await place.get(f"{BASE}/", user="alice")
    assert reply.status == 502
    assert b"no answer to the handshake" in reply.body


@pytest.mark.parametrize(
    "talk",
    ["resets", "says nothing and closes", "talks nonsense", "sends a malformed head", "sends an endless head"],
)
async def test_an_app_that_gives_no_answer(place, talk) -> None:  # type: ignore[no-untyped-def]
    said = {
        "resets": b"", "says nothing and closes": b"", "talks nonsense": b"SSH-2.0-x\r\n\r\n",
        "sends a malformed head": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "sends an endless head": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000,
    }  # fmt: skip

    async def answer(stream: anyio.abc.ByteStream) -> None:
        if talk != "resets":
            await read_head(stream)
        await stream.send(said[talk])

    async with app(answer) as port:
        place.server.add_app("web", port)
        reply = await place.get(f"{BASE}/", user="alice", headers="Accept: text/html\r\n")
        assert reply.status == 502
        assert b"broke off" in reply.body


async def test_an_app_that_never_answers(server, opened) -> None:  # type: ignore[no-untyped-def]
    async def talk(stream: anyio.abc.ByteStream) -> None:
        await read_head(stream)
        await anyio.sleep_forever()

    async with app(talk) as port, opened(answer_timeout=0.2) as place:
        server.add_app("web", port)
        assert (await place.get(f"{BASE}/", user="alice")).status == 504


@pytest.mark.parametrize(
    "answer", [b"Content-Length: 9\r\n\r\nhalf", b"Transfer-Encoding: chunked\r\n\r\n9\r\nhalf"], ids=["l", "c"]
)
async def test_an_answer_that_breaks_off_is_not_taken_for_a_whole_one(place, answer) -> None:  # type: ignore[no-untyped-def]
    async def talk(stream: anyio.abc.ByteStream) -> None:
        await read_head(stream)
        await stream.send(b"HTTP/1.1 200 OK\r\n" + answer)

    async with app(talk) as port:
        place.server.add_app("web", port)
        async with await anyio.connect_tcp("127.0.0.1", place.port) as stream:
            await stream.send(request())
            received = b""
            with anyio.fail_after(30), pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
                received = await read_until(stream, b"\r\n0\r\n\r\n")
            assert received == b""


async def test_tls_where_there_is_none_and_the_other_way_round(place) -> None:  # type: ignore[no-untyped-def]
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("somebody.else").configure_cert(context)
    fine = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntls")
    html = "Accept: text/html\r\nSec-Fetch-Mode: cors\r\n"
    async with app(fine, context) as port:
        assert (await place.get(f"/@alice/dev/ports/{port}s/", user="alice")).body == b"tls"
        reply = await place.get(f"/@alice/dev/ports/{port}/x", user="alice", headers=html)
        assert reply.status == 502
        assert f'href="/@alice/dev/ports/{port}s/x"'.encode() in reply.body

    async def plain(stream: anyio.abc.ByteStream) -> None:
        await stream.receive()
        await stream.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    async with app(plain) as port:
        reply = await place.get(f"/@alice/dev/ports/{port}s/x", user="alice", headers=html)
        assert reply.status == 502
        assert f'href="/@alice/dev/ports/{port}/x"'.encode() in reply.body


async def test_a_connection_that_the_app_closed_meanwhile_is_replaced(place) -> None:  # type: ignore[no-untyped-def]
    closed = anyio.Event()

    async def talk(stream: anyio.abc.ByteStream) -> None:
        await read_head(stream)
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        closed.set()

    async with app(talk) as port:
        place.server.add_app("web", port)
        for _ in range(3):
            assert (await place.get(f"{BASE}/", user="alice")).body == b"ok"
            await closed.wait()
        assert len(place.server.tailnet.dialled) == 3


async def test_a_visitor_who_leaves_takes_the_request_along(place) -> None:  # type: ignore[no-untyped-def]
    asked, left = anyio.Event(), anyio.Event()

    async def talk(stream: anyio.abc.ByteStream) -> None:
        await read_head(stream)
        asked.set()
        try:
            await stream.receive()
        except GONE:
            left.set()

    async with app(talk) as port:
        place.server.add_app("web", port)
        stream = await anyio.connect_tcp("127.0.0.1", place.port)
        await stream.send(request())
        await asked.wait()
        import socket
        import struct

        raw = stream.extra(anyio.abc.SocketAttribute.raw_socket)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()
        with anyio.fail_after(30):
            await left.wait()


@pytest.mark.parametrize(
    "data",
    [
        request("/", "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "POST", b"0\r\n\r\nGET /x"),
        request("/", "Content-Length: 4\r\nContent-Length: 5\r\n", "POST", b"abcde"),
        request("/", "X: a\r\n b\r\n"),
        request("/", "Transfer-Encoding : chunked\r\n", "POST", b"0\r\n\r\n"),
        request("/", "X: " + "y" * 70_000 + "\r\n"),
        request("/", "Host: evil\r\n"),
    ],
    ids=["te-cl", "two-lengths", "obs-fold", "space", "oversized", "two-hosts"],
)
async def test_a_smuggled_request_reaches_no_app(place, data) -> None:  # type: ignore[no-untyped-def]
    seen: list[bytes] = []

    async def talk(stream: anyio.abc.ByteStream) -> None:
        seen.append((await read_head(stream))[0])

    async with app(talk) as port:
        place.server.add_app("web", port)
        reply = await place.raw(data)
        assert reply.split(b" ")[1] in (b"400", b"431")
        assert b"Connection: close" in reply
        assert seen == []


async def test_a_head_that_does_not_end(place, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("coder_agent_apps_webproxy.browser.HEAD_SECONDS", 0.2)
    async with app(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")) as port:
        place.server.add_app("web", port)
        async with await anyio.connect_tcp("127.0.0.1", place.port) as stream:
            await stream.send(request())
            await read_until(stream, b"ok")
            await stream.send(b"GET / HTTP/1.1\r\nX: ")
            with anyio.fail_after(30), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await stream.receive()
