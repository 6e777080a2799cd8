"""What makes pages work that run in a sandbox or forbid scripts that are not theirs: cookie jars and policies."""

from __future__ import annotations

import json

import pytest
from coder_agent_apps_webproxy.html import Preamble
from coder_agent_apps_webproxy.jars import MAX_BYTES, MAX_COOKIES, MAX_JARS, TOLD, Jar, Jars
from coder_agent_apps_webproxy.policies import allow_scripts

NOW = 1_800_000_000.0
PAST = "Thu, 01 Jan 1970 00:00:00 GMT"


def kept(*cookies: str, target: bytes = b"/", jar: Jar | None = None) -> Jar:
    jar = jar or Jar()
    jar.keep([(b"Set-Cookie", cookie.encode()) for cookie in cookies], target, NOW)
    return jar


def test_cookies_leave_the_answer_and_scripts_are_told_those_they_may_read() -> None:
    headers = [(b"Set-Cookie", b"a=1"), (b"X", b"y"), (b"set-cookie", b"b=2; HttpOnly; Path=/")]
    jar = Jar()
    rest = jar.keep(headers, b"/", NOW)
    assert [name for name, _ in rest] == [b"X", TOLD]
    assert json.loads(rest[1][1]) == [["a", "1"]]
    assert jar.header(b"/x?q", NOW) == b"a=1; b=2"
    assert jar.keep([(b"X", b"y")], b"/", NOW) == [(b"X", b"y")]


@pytest.mark.parametrize(
    ("cookie", "asked", "sent"),
    [
        ("a=1; Path=/lab", b"/lab/x", True),
        ("a=1; Path=/lab", b"/lab", True),
        ("a=1; Path=/lab", b"/labour", False),
        ("a=1; Path=/lab/", b"/lab", False),
        ("a=1", b"/sign/other", True),
        ("a=1", b"/elsewhere", False),
        ("a=1; Max-Age=60; Path=/", b"/", True),
        ("a=1; Max-Age=0; Path=/", b"/", False),
        (f"a=1; Expires={PAST}; Path=/", b"/", False),
        (f"a=1; Expires={PAST}; Max-Age=9; Path=/", b"/", True),
        ("a=1; Expires=never; Path=/", b"/", True),
        ("coder_session_token=x; Path=/", b"/", False),
        ("nothing; Path=/", b"/", False),
    ],
    ids=range(13),
)
def test_when_a_cookie_is_sent(cookie: str, asked: bytes, sent: bool) -> None:
    assert bool(kept(cookie, target=b"/sign/in").header(asked, NOW)) is sent


def test_cookies_end_are_replaced_and_the_longest_path_comes_first() -> None:
    jar = kept("a=1; Path=/; Max-Age=10", "a=2; Path=/", "a=3; Path=/deep")
    assert jar.header(b"/deep", NOW) == b"a=3; a=2"
    kept("a=2; Path=/; Max-Age=10", jar=jar)
    assert jar.header(b"/", NOW + 11) == b""
    kept("a=; Path=/deep; Max-Age=-1", jar=jar)
    assert jar.header(b"/deep", NOW) == b"a=2"


def test_jars_are_bounded() -> None:
    many = kept(*(f"c{number}=1; Path=/" for number in range(3 * MAX_COOKIES)))
    assert many.header(b"/", NOW).count(b"=") == MAX_COOKIES
    large = kept(*(f"c{number}={'x' * 3000}; Path=/" for number in range(20)), "huge=" + "x" * 5000)
    assert len(large.header(b"/", NOW)) <= MAX_BYTES + 100
    jars = Jars()
    first = jars.of("first")
    kept("a=1", jar=first)
    assert jars.of("first") is first
    for number in range(MAX_JARS):
        jars.of(number)
    assert jars.of("first") is not first


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("frame-ancestors 'self'", "frame-ancestors 'self'"),
        ("script-src 'self' 'unsafe-inline'; img-src *", "script-src 'self' 'unsafe-inline'; img-src *"),
        ("script-src 'self'; img-src *", "img-src *; script-src 'self' H"),
        ("default-src 'none'", "default-src 'none'; script-src H"),
        ("script-src 'unsafe-inline' 'nonce-x'", "script-src 'unsafe-inline' 'nonce-x' H"),
        ("script-src 'none'; script-src-elem a.example", "script-src 'none'; script-src-elem a.example H"),
        ("default-src *, script-src 'self'", "default-src *; script-src * H, script-src 'self' H"),
        ("", ""),
    ],
    ids=range(8),
)
def test_an_apps_policy_admits_our_script(policy: str, expected: str) -> None:
    ((_, changed),) = allow_scripts([(b"Content-Security-Policy", policy.encode())], [b"H"])
    assert changed.decode() == expected


def test_in_a_sandbox_workers_are_started_by_way_of_our_own() -> None:
    policy = [(b"content-security-policy", b"script-src 'self'")]
    ((_, changed),) = allow_scripts(policy, [b"H"], workers=True)
    assert changed == b"script-src 'self' H; worker-src 'self' blob:"


def test_what_a_page_is_told_cannot_end_its_script() -> None:
    preamble = Preamble("/@a/b/ports/80/", sandboxed=True, cookies=[("c", "</script><script>alert(1)")])
    _, script = preamble.texts()
    assert b"</script" not in script
    assert preamble.elements().count(b"</script>") == 2
    assert all(source.startswith(b"'sha256-") for source in preamble.sources())
