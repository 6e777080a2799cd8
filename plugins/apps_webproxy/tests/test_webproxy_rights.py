"""Every sharing level × every kind of visitor × every access method; and what each of them gets to see."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import product
from urllib.parse import parse_qs, urlsplit

import anyio
import anyio.abc
import pytest

from coder_agent.hooks.web import SCOPE_APPS, CorsBehavior, SharingLevel

pytestmark = pytest.mark.anyio

LEVELS = list(SharingLevel)
VISITORS = ["owner", "member", "deployment-owner", "key-for-apps", "bad-token", "nobody"]
METHODS = ["path-app", "port-on-path", "subdomain-app", "subdomain-port"]
NEVER = "no"
WHO = {"owner": "alice", "member": "bob", "deployment-owner": "root", "key-for-apps": "narrow", "bad-token": "forged"}


def may(level: SharingLevel, visitor: str) -> bool:
    if level is SharingLevel.PUBLIC:
        return True
    if visitor in ("bad-token", "nobody"):
        return False
    return level is not SharingLevel.OWNER or visitor in ("owner", "deployment-owner")


async def serve_echo(stream: anyio.abc.SocketStream) -> None:
    """An app that shows the request's head, and keeps the connection."""
    async with stream:
        data = b""
        with_end = (anyio.EndOfStream, anyio.BrokenResourceError)
        try:
            while True:
                while b"\r\n\r\n" not in data:
                    data += await stream.receive()
                head, _, data = data.partition(b"\r\n\r\n")
                await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(head), head))
        except with_end:
            pass


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, serve_echo)
        yield listener.extra(anyio.abc.SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


def where(method: str, port: int) -> tuple[str, str]:
    """(target, host)"""
    return {
        "path-app": ("/@alice/dev.main/apps/web/x", "coder.test"),
        "port-on-path": (f"/@alice/dev.main/ports/{port}/x", "coder.test"),
        "subdomain-app": ("/x", "web--main--dev--alice.apps.test"),
        "subdomain-port": ("/x", f"{port}--main--dev--alice.apps.test"),
    }[method]


@pytest.mark.parametrize(
    ("level", "visitor", "method"), list(product(LEVELS, VISITORS, METHODS)), ids=lambda value: str(value)
)
async def test_who_may_open_what(place, echo, level, visitor, method) -> None:  # type: ignore[no-untyped-def]
    place.server.add_app("web", echo, level)
    place.server.share(echo, level)
    place.server.sign_in("narrow", {"member"}, SCOPE_APPS)
    target, host = where(method, echo)
    for accept in ("application/json", "text/html"):
        reply = await place.get(target, user=WHO.get(visitor, ""), host=host, headers=f"Accept: {accept}\r\n")
        if may(level, visitor):
            sandboxed = method == "port-on-path" or (method == "path-app" and visitor != "owner")
            if sandboxed and accept == "text/html" and level is not SharingLevel.PUBLIC:
                assert reply.status == 303
                assert reply["location"].startswith(target.removesuffix("x") + "~")
                reply = await place.get(reply["location"], user=WHO[visitor], headers="Accept: text/html\r\n")
            assert reply.status == 200
            assert reply.body.startswith(b"GET /x HTTP/1.1\r\n")
            assert ("sandbox" in reply["content-security-policy"]) is sandboxed
            assert b"coder_" not in reply.body
        elif visitor in ("nobody", "bad-token"):
            assert reply.status == (303 if accept == "text/html" else 401)
            assert reply["location"] == "" or "/login?" in reply["location"] or "auth-redirect" in reply["location"]
        else:
            assert reply.status == 404
            assert "cache-control" in dict(reply.headers)


async def test_what_is_forbidden_looks_like_what_does_not_exist(place, echo) -> None:  # type: ignore[no-untyped-def]
    place.server.add_app("web", echo)
    for user in ("bob", ""):
        replies = [
            await place.get(f"/@alice/dev/apps/{slug}/", user=user, headers="Accept: text/html\r\n")
            for slug in ("web", "xyz")
        ]
        assert replies[0].status == replies[1].status
        assert replies[0].body == replies[1].body
        assert [name for name, _ in replies[0].headers] == [name for name, _ in replies[1].headers]


async def test_trust_counts_for_the_owner_alone(place, echo) -> None:  # type: ignore[no-untyped-def]
    place.server.share(echo, SharingLevel.AUTHENTICATED, trusted=True)
    target = f"/@alice/dev/ports/{echo}/"
    assert "sandbox" not in (await place.get(target, user="alice"))["content-security-policy"]
    assert "sandbox" in (await place.get(target, user="bob"))["content-security-policy"]
    assert "sandbox" in (await place.get(target, user="root"))["content-security-policy"]


async def test_a_sealed_path_works_without_cookies_for_its_app_alone(place, echo) -> None:  # type: ignore[no-untyped-def]
    page = f"/@alice/dev/ports/{echo}/page"
    sealed = (await place.get(page, user="alice", headers="Accept: text/html\r\n"))["location"]
    asset = sealed.removesuffix("page") + "static/x.js"
    reply = await place.get(asset, headers="Origin: null\r\nReferer: null\r\n")
    assert reply.status == 200
    assert reply["access-control-allow-origin"] == "null"
    assert b"~" not in reply.body.replace(b"X-Forwarded-Prefix: " + asset[: -len("/static/x.js")].encode(), b"")
    assert f"Origin: http://localhost:{echo}".encode() in reply.body
    key = sealed.split("~")[1].split("/")[0]
    for other in (
        f"/@alice/dev/ports/{echo + 1 if echo < 65535 else 9999}/~{key}/",
        f"/@alice/dev.main/ports/{echo}/~{key}/",
    ):
        assert (await place.get(other)).status == 401
    assert (await place.get(asset.replace(key, key[:-4] + "AAAA"))).status == 401


async def test_a_sealed_path_given_away_asks_the_new_visitor_who_he_is(place, echo) -> None:  # type: ignore[no-untyped-def]
    page = f"/@alice/dev/ports/{echo}/page"
    navigation = "Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n"
    sealed = (await place.get(page, user="alice", headers=navigation))["location"]
    assert (await place.get(sealed, user="alice", headers=navigation)).status == 200
    for stranger in ("bob", ""):
        reply = await place.get(sealed, user=stranger, headers=navigation)
        assert (reply.status, reply["location"]) == (303, page)


async def test_who_trusts_an_app_sees_it_out_of_its_sandbox_at_once(place, echo) -> None:  # type: ignore[no-untyped-def]
    page = f"/@alice/dev/ports/{echo}/page"
    navigation = "Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n"
    first = await place.get(page, user="alice", headers=navigation)
    assert "~" in first["location"]
    assert not any(name == "set-cookie" for name, _ in first.headers), "no token that would outlast the sandbox"
    place.server.share(echo, SharingLevel.OWNER, trusted=True)
    reply = await place.get(first["location"], user="alice", headers=navigation)
    assert (reply.status, reply["location"]) == (303, page), "a page that is loaded again leaves its sealed path, too"
    assert "sandbox" not in (await place.get(page, user="alice", headers=navigation))["content-security-policy"]


async def test_the_server_keeps_the_cookies_of_a_sandboxed_page(place) -> None:  # type: ignore[no-untyped-def]
    async def app(stream: anyio.abc.SocketStream) -> None:
        asked = b""
        while b"\r\n\r\n" not in asked:
            asked += await stream.receive()
        cookie = next((line for line in asked.split(b"\r\n") if line.startswith(b"Cookie: ")), b"none")
        await stream.send(
            b"HTTP/1.1 200 OK\r\nSet-Cookie: seen=1; Path=/\r\nSet-Cookie: deep=2; HttpOnly\r\n"
            b"Content-Type: text/html\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(cookie), cookie)
        )
        await stream.aclose()

    async with anyio.create_task_group() as tasks:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        tasks.start_soon(listener.serve, app)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        navigation = "Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n"
        way = f"/@alice/dev/ports/{port}/a/b"
        sealed = (await place.get(way, user="alice", headers=navigation))["location"]
        first = await place.get(sealed, user="alice", headers=navigation + "Cookie: stale=0\r\n")
        assert b"none" in first.body.rpartition(b"</script>")[2], "the browser's own are not this page's"
        assert b'[["seen", "1"]]' in first.body, "the page's scripts may read it"
        assert not any(name == "set-cookie" for name, _ in first.headers)
        second = await place.get(sealed, headers="Origin: null\r\n")
        assert second.body == b"Cookie: deep=2; seen=1"
        assert second["coder-app-cookies"] == '[["seen", "1"]]'
        tasks.cancel_scope.cancel()
    await listener.aclose()


async def test_signed_tokens_save_the_look_up_and_fit_one_request_of_one_session(place, echo) -> None:  # type: ignore[no-untyped-def]
    place.server.add_app("web", echo)
    place.server.add_app("other", echo)
    first = await place.get("/@alice/dev/apps/web/", user="alice")
    cookie = first["set-cookie"].partition(";")[0]
    assert "Path=/@alice/dev/apps/web/;" in first["set-cookie"]
    assert "HttpOnly" in first["set-cookie"]
    gate = place.route._gate
    session = f"coder_session_token={'alice':0<10}-{'alice':x<22}"

    async def asked(target: str, cookies: str) -> tuple[int, int]:
        gate._memory.clear()
        before = place.server.asked
        reply = await place.get(target, headers=f"Cookie: {cookies}\r\n")
        return reply.status, place.server.asked - before

    assert await asked("/@alice/dev/apps/web/x", f"{session}; {cookie}") == (200, 0)
    assert await asked("/@alice/dev/apps/web/x", cookie) == (401, 1), "without the session it is worth nothing"
    assert await asked("/@alice/dev/apps/other/", f"{session}; {cookie}") == (200, 1)
    assert await asked("/@alice/dev/apps/web/x", f"{session}; {cookie[:-5]}AAAAA") == (200, 1)


async def test_the_way_to_an_app_host_through_the_sign_in(place, echo) -> None:  # type: ignore[no-untyped-def]
    place.server.add_app("web", echo)
    host, page = "web--main--dev--alice.apps.test", "Accept: text/html\r\n"
    stranger = await place.get("/a?b=c", host=host, headers=page)
    there = urlsplit(stranger["location"])
    assert (there.netloc, there.path) == ("coder.test", "/api/v2/applications/auth-redirect")
    assert parse_qs(there.query)["redirect_uri"] == [f"http://{host}/a?b=c"]
    state = stranger["set-cookie"].partition(";")[0]
    assert "Domain" not in stranger["set-cookie"]
    target = f"{there.path}?{there.query}"
    asked = await place.get(target, headers=page)
    assert asked["location"].startswith("/login?next=%2Fapi%2Fv2%2Fapplications%2Fauth-redirect")
    back = urlsplit((await place.get(target, user="alice", headers=page))["location"])
    assert back.netloc == host
    assert "alice" not in back.query
    smuggled = f"{back.path}?{back.query}"
    assert (await place.get(smuggled, host=host)).status == 400, "another browser: it has no state"
    assert (
        await place.get(smuggled, host="xyz--main--dev--alice.apps.test", headers=f"Cookie: {state}\r\n")
    ).status == 400
    home = await place.get(smuggled, host=host, headers=f"Cookie: {state}\r\n")
    assert (home.status, home["location"]) == (303, "/a?b=c")
    session = home.all("set-cookie")[0]
    assert "Domain=apps.test" in session
    assert "HttpOnly" in session
    again = await place.get(smuggled, host=host, headers=f"Cookie: {state}\r\n")
    assert again.status == 400, "a key can be used once"
    reply = await place.get("/a?b=c", host=host, headers=f"Cookie: {session.partition(';')[0]}; own=1\r\n")
    assert reply.status == 200
    assert b"Cookie: own=1\r\n" in reply.body
    assert b"coder_" not in reply.body


@pytest.mark.parametrize(
    "wanted",
    ["https://evil.example/", "//evil.example/", "http://evil.example/?web--main--dev--alice.apps.test",
     "http://web--main--dev--alice.apps.test@evil.example/", "http://web--main--dev--alice.apps.test.evil.example/",
     "http://coder.test/", "javascript:alert(1)//web--main--dev--alice.apps.test", "http://nonsense.apps.test/",
     "https://web--main--dev--alice.apps.test/", "http://web--main--dev--alice.apps.test:99/",
     "http://evil.example\\@web--main--dev--alice.apps.test/", "http://web--main--dev--alice.apps.test\r\nX: y", ""],
    ids=range(13),
)  # fmt: skip
async def test_the_sign_in_sends_nobody_elsewhere(place, wanted) -> None:  # type: ignore[no-untyped-def]
    from urllib.parse import quote

    target = f"/api/v2/applications/auth-redirect?redirect_uri={quote(wanted)}&state={'s' * 20}"
    reply = await place.get(target, user="alice")
    assert reply.status == 400
    assert reply["location"] == ""


async def test_after_the_sign_in_a_path_with_two_slashes_stays_here(place, echo) -> None:  # type: ignore[no-untyped-def]
    place.server.add_app("web", echo)
    host = "web--main--dev--alice.apps.test"
    stranger = await place.get("//evil.example/x", host=host, headers="Accept: text/html\r\n")
    state = stranger["set-cookie"].partition(";")[0]
    there = urlsplit(stranger["location"])
    back = (await place.get(f"{there.path}?{there.query}", user="alice"))["location"]
    home = await place.get(back.removeprefix(f"http://{host}"), host=host, headers=f"Cookie: {state}\r\n")
    assert (home.status, home["location"]) == (303, "/evil.example/x")


async def test_hosts_that_name_nothing(place) -> None:  # type: ignore[no-untyped-def]
    for host in ("nonsense.apps.test", "8--main--dev--alice.apps.test", "a.b--c--d.apps.test"):
        assert (await place.get("/", host=host, user="alice")).status == 400
    logout = await place.get("/", host="coder-logout.apps.test")
    assert (logout.status, logout["location"]) == (303, "http://coder.test")
    for host in ("apps.test", "coder.test", "other.example"):
        assert (await place.get("/", host=host)).body == b"dashboard"


@pytest.mark.parametrize("kind", ["websocket", "post"])
async def test_foreign_pages_cannot_use_the_visitors_cookies(place, echo, kind) -> None:  # type: ignore[no-untyped-def]
    place.server.add_app("web", echo)
    place.server.add_app("open", echo, cors_behavior=CorsBehavior.PASSTHRU)
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n" if kind == "websocket" else "Content-Length: 0\r\n"
    method = "GET" if kind == "websocket" else "POST"
    cookie = f"Cookie: coder_session_token={'alice':0<10}-{'alice':x<22}\r\n"

    async def status(host: str, target: str, origin: str) -> int:
        head = f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{cookie}{upgrade}Origin: {origin}\r\n\r\n"
        async with await anyio.connect_tcp("127.0.0.1", place.port) as stream:
            await stream.send(head.encode())
            return int((await stream.receive()).split(b" ")[1])

    own, path = "web--main--dev--alice.apps.test", "/@alice/dev/apps/web/"
    assert await status(own, "/", f"http://{own}") == 200
    assert await status(own, "/", "http://other--main--dev--alice.apps.test") == 200
    assert await status(own, "/", "http://web--main--dev--bob.apps.test") == 403
    assert await status(own, "/", "https://evil.example") == 403
    assert await status("coder.test", path, "http://coder.test") == 200
    assert await status("coder.test", path, "null") == 403
    assert await status("coder.test", path, "http://web--main--dev--alice.apps.test") == 403
    assert await status("open--main--dev--alice.apps.test", "/", "https://evil.example") == 200


async def test_cors_is_for_apps_of_the_same_owner(place, echo) -> None:  # type: ignore[no-untyped-def]
    place.server.add_app("web", echo, SharingLevel.PUBLIC)
    host = "web--main--dev--alice.apps.test"
    for origin, allowed in (
        ("http://x--dev--alice.apps.test", True),
        ("http://x--dev--bob.apps.test", False),
        ("https://evil.example", False),
        ("null", False),
    ):
        reply = await place.get("/", host=host, headers=f"Origin: {origin}\r\n")
        assert (reply["access-control-allow-origin"] == origin) is allowed
        question = (
            f"OPTIONS / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nOrigin: {origin}\r\n"
            "Access-Control-Request-Method: PUT\r\nAccess-Control-Request-Headers: x-a\r\n\r\n"
        )
        answer = await place.raw(question.encode())
        assert answer.startswith(b"HTTP/1.1 204 ")
        assert (b"Access-Control-Allow-Headers: x-a" in answer) is allowed
