"""Heads that repeat themselves are read and written once: nothing of one request must ever show in another's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import anyio
import anyio.abc
import pytest
from coder_agent_apps_webproxy.http1 import MAX_REMEMBERED, Body, parse_request, parse_response

from coder_agent.hooks.web import SharingLevel

pytestmark = pytest.mark.anyio


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    """An app whose every answer has the same head; its body, padded, is the head of the request."""

    async def served(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            data = b""
            try:
                while True:
                    while b"\r\n\r\n" not in data:
                        data += await stream.receive()
                    head, _, data = data.partition(b"\r\n\r\n")
                    body = b"" if head.startswith(b"HEAD ") else head.ljust(1000)
                    await stream.send(
                        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nSet-Cookie: a=1; Path=/\r\n\r\n" + body
                    )
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, served)
        yield listener.extra(anyio.abc.SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


async def test_visitors_in_turn_get_each_their_own(place, echo) -> None:  # type: ignore[no-untyped-def]
    place.server.add_app("web", echo, SharingLevel.AUTHENTICATED)
    for _ in range(3):
        mine = await place.get("/@alice/dev/apps/web/x", user="alice")
        theirs = await place.get("/@alice/dev/apps/web/x", user="bob", headers="Sec-Fetch-Mode: cors\r\n")
        assert "Content-Security-Policy".lower() not in dict(mine.headers)
        assert theirs["content-security-policy"].startswith("sandbox")
        assert (await place.get("/@alice/dev/apps/web/x")).status in (303, 401)


async def test_the_same_lines_to_two_apps(place, echo) -> None:  # type: ignore[no-untyped-def]
    place.server.add_app("one", echo)
    place.server.add_app("two", echo)
    for _ in range(3):
        for name in ("one", "two"):
            reply = await place.get(f"/@alice/dev/apps/{name}/x?y", user="alice")
            assert f"X-Forwarded-Prefix: /@alice/dev/apps/{name} ".encode() in reply.body
            assert reply.body.startswith(b"GET /x?y HTTP/1.1\r\n")
            assert reply["set-cookie"] == f"a=1; Path=/@alice/dev/apps/{name}/"


async def test_methods_versions_and_lines_that_differ(place, echo) -> None:  # type: ignore[no-untyped-def]
    place.server.add_app("web", echo)
    cookie = f"Cookie: coder_session_token={'alice':0<10}-{'alice':x<22}; mine=2"
    async with await anyio.connect_tcp("127.0.0.1", place.port) as stream:

        async def ask(method: str, version: str, more: str) -> tuple[bytes, bytes]:
            lines = f"{method} /@alice/dev/apps/web/ HTTP/{version}\r\nHost: coder.test\r\n{cookie}\r\n{more}\r\n"
            await stream.send(lines.encode())
            data = b""
            while b"\r\n\r\n" not in data or (method == "GET" and len(data.partition(b"\r\n\r\n")[2]) < 1000):
                data += await stream.receive()
            head, _, body = data.partition(b"\r\n\r\n")
            return head, body

        for turn in range(2):
            head, body = await ask("GET", "1.1", f"X-Turn: {turn}\r\n")
            assert b"\r\nX-Turn: %d\r\n" % turn in body
            assert b"\r\nCookie: mine=2\r\n" in body
            assert b"\r\nConnection:" not in head
            head, body = await ask("HEAD", "1.1", f"X-Turn: {turn}\r\n")
            assert (b"Content-Length: 1000" in head, body) == (True, b"")
            head, body = await ask("GET", "1.0", "Connection: keep-alive\r\n")
            assert head.endswith(b"\r\nConnection: keep-alive") or b"\r\nConnection: keep-alive\r\n" in head
            assert b"X-Turn" not in body


async def test_a_right_that_ends_ends_for_repeated_requests_too(place, echo, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    place.server.add_app("web", echo, SharingLevel.AUTHENTICATED)
    moved = 0.0
    monkeypatch.setattr(place.route._gate, "_clock", lambda: moved)
    wanted = {"user": "bob", "headers": "Sec-Fetch-Mode: cors\r\n"}
    for _ in range(2):
        assert (await place.get("/@alice/dev/apps/web/x", **wanted)).status == 200
    place.server.place = replace(place.server.place, apps=())
    moved = 11.0
    assert (await place.get("/@alice/dev/apps/web/x", **wanted)).status == 404


def test_what_is_remembered_is_frozen_and_small() -> None:
    head = b"GET /%d HTTP/1.%d\r\nHost: a\r\nX: y\r\n\r\n"
    one, two, old = (parse_request(head % pair) for pair in ((1, 1), (2, 1), (1, 0)))
    assert one.fields is two.fields
    assert old.fields is not one.fields
    assert (one.target, two.target) == (b"/1", b"/2")
    with pytest.raises(AttributeError):
        one.fields.body = Body.CHUNKED  # type: ignore[misc]
    large = b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * MAX_REMEMBERED + b"\r\n\r\n"
    assert parse_request(large).fields is not parse_request(large).fields
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"
    assert parse_response(answer + b"abc", b"GET") is parse_response(answer + b"xyz", b"GET")
    assert parse_response(answer, b"HEAD").body is Body.NONE
