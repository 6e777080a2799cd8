"""Which app does a URL mean: paths, labels, hosts."""

from __future__ import annotations

import string

import pytest
from coder_agent_apps_webproxy.addresses import (
    BadAddress,
    Method,
    Wildcard,
    looks_like_path,
    parse_label,
    parse_path,
    parse_port,
    split_host,
)
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/@alice/dev/apps/web/", ("alice", "dev", "", "web", 0, b"/")),
        (b"/%40alice/dev.main/apps/web/a%2Fb?x=%2e%2e", ("alice", "dev", "main", "web", 0, b"/a%2Fb?x=%2e%2e")),
        (b"/@alice/dev/apps/web", ("alice", "dev", "", "web", 0, b"")),
        (b"/@alice/dev/apps/web?q=1", ("alice", "dev", "", "web", 0, b"?q=1")),
        (b"/@alice/dev/ports/8080/../../../api/v2", ("alice", "dev", "", "", 8080, b"/../../../api/v2")),
        (b"/@A-1/d-2.e-3/ports/65535s//x", ("A-1", "d-2", "e-3", "", 65535, b"//x")),
        (b"/@alice/dev/ports/9/", ("alice", "dev", "", "", 9, b"/")),
    ],
    ids=["plain", "encoded-at", "no-slash", "query-without-slash", "dots-are-kept", "dashes", "first-port"],
)
def test_paths_of_apps(target: bytes, expected: tuple[str, str, str, str, int, bytes]) -> None:
    address, rest = parse_path(target)
    assert (address.owner, address.workspace, address.agent, address.slug, address.port, rest) == expected
    assert address.tls == (b"65535s" in target)
    assert address.base.endswith("/")


@pytest.mark.parametrize(
    "target",
    [
        b"/@me/dev/apps/web/", b"/@alice/dev/ports/8/", b"/@alice/dev/ports/0/", b"/@alice/dev/ports/65536/",
        b"/@alice/dev/ports/80x/", b"/@alice/dev/ports/123456/", b"/@alice/../ports/80/", b"/@alice/dev/apps/we%2fb/",
        b"/@alice/dev%2fx/apps/web/", b"/@alice/dev.a.b/apps/web/", b"/@-alice/dev/apps/web/", b"/@al--ice/dev/apps/x/",
        b"/@alice/dev/apps//", b"/@alice/dev/apps/", b"//@alice/dev/apps/web/", b"/@alice//apps/web/",
    ],
    ids=lambda target: target.decode().replace("/", ":"),
)  # fmt: skip
def test_what_is_no_path_of_an_app(target: bytes) -> None:
    with pytest.raises(BadAddress):
        parse_path(target)


def test_a_path_is_claimed_when_it_looks_like_one_even_if_it_is_wrong() -> None:
    assert looks_like_path(b"/@alice/dev/ports/8/")
    assert looks_like_path(b"/@me/x/apps/")
    assert not looks_like_path(b"/@alice/dev/terminal")
    assert not looks_like_path(b"/api/v2/@alice/dev/apps/x")


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("8080--main--dev--alice", ("alice", "dev", "main", "", 8080, False)),
        ("8443s--main--dev--alice", ("alice", "dev", "main", "", 8443, True)),
        ("CODE--dev--Alice", ("alice", "dev", "", "code", 0, False)),
        ("my-app--main--my-dev--alice-b", ("alice-b", "my-dev", "main", "my-app", 0, False)),
        ("anything--at-all---8080--main--dev--alice", ("alice", "dev", "main", "", 8080, False)),
        ("a---b---code--dev--alice", ("alice", "dev", "", "code", 0, False)),
        ("9--main--dev--alice", ("alice", "dev", "main", "", 9, False)),
    ],
    ids=["port", "https", "no-agent", "dashes", "prefix", "two-prefixes", "first-port"],
)
def test_labels_of_hosts(label: str, expected: tuple[str, str, str, str, int, bool]) -> None:
    found = parse_label(label)
    assert (found.owner, found.workspace, found.agent, found.slug, found.port, found.tls) == expected
    assert found.method is Method.SUBDOMAIN


@pytest.mark.parametrize(
    "label",
    ["", "code", "code--alice", "a--b--c--d--e", "8--main--dev--alice", "65536--m--d--a", "-x--dev--alice",
     "x---", "code--dev--alice-", "co_de--dev--alice", "code----alice", "x" * 52 + "--dev--alice"],
    ids=range(12),
)  # fmt: skip
def test_labels_that_name_nothing(label: str) -> None:
    with pytest.raises(BadAddress):
        parse_label(label)


names = st.from_regex(r"[a-z0-9]{1,6}(-[a-z0-9]{1,4})?", fullmatch=True)
slugs = names.filter(lambda name: not name.rstrip("s").isdigit())


@given(slugs, names, names, names)
def test_a_label_says_what_it_was_made_of(slug: str, agent: str, workspace: str, owner: str) -> None:
    address, _ = parse_path(f"/@{owner}/{workspace}.{agent}/apps/{slug}/".encode()) if owner != "me" else (None, b"")
    if address is not None:
        back = parse_label(address.label())
        assert (back.slug, back.agent, back.workspace, back.owner) == (slug, agent, workspace, owner)
        wildcard = Wildcard.parse("*.apps.example.com")
        assert wildcard is not None
        host = wildcard.host_of(address, None)
        assert wildcard.label_of(split_host(host)[0]) == address.label()


@given(st.text(string.ascii_letters + string.digits + "-._~@%/", max_size=80))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    for parse in (parse_label, lambda value: parse_path(value.encode()), split_host, parse_port):
        try:
            parse(text)
        except BadAddress:
            pass


def test_a_label_longer_than_a_label_may_be_is_refused_when_it_is_made() -> None:
    address, _ = parse_path(b"/@" + b"a" * 30 + b"/" + b"b" * 30 + b"/apps/web/")
    with pytest.raises(BadAddress, match="63"):
        address.label()
    exact, _ = parse_path(b"/@" + b"a" * 28 + b"/" + b"b" * 28 + b"/apps/web/")
    assert len(exact.label()) == 63
    glued = Wildcard.parse("*-apps.example.com")
    assert glued is not None
    with pytest.raises(BadAddress, match="too long"):
        glued.host_of(exact, None)


@pytest.mark.parametrize(
    ("pattern", "host", "label"),
    [
        ("*.apps.example.com", "x--y--z.apps.example.com", "x--y--z"),
        ("*.apps.example.com", "X--Y--Z.APPS.example.com.:8443", "x--y--z"),
        ("*-apps.example.com", "x--y--z-apps.example.com", "x--y--z"),
        ("*.apps.example.com", "a.x--y--z.apps.example.com", ""),
        ("*.apps.example.com", "apps.example.com", None),
        ("*.apps.example.com", ".apps.example.com", None),
        ("*.apps.example.com", "coder.example.com", None),
        ("*.apps.example.com", "x--y--z.apps.example.com.evil.org", None),
        ("*.apps.example.com", "x--y--z.xapps.example.com", None),
    ],
    ids=range(9),
)
def test_hosts_below_the_wildcard(pattern: str, host: str, label: str | None) -> None:
    wildcard = Wildcard.parse(pattern)
    assert wildcard is not None
    assert wildcard.label_of(split_host(host)[0]) == label


@pytest.mark.parametrize(
    "pattern", ["apps.example.com", "a.*.example.com", "*", "*.*.example.com", "*.a/b"], ids=range(5)
)
def test_patterns_that_are_none(pattern: str) -> None:
    with pytest.raises(BadAddress):
        Wildcard.parse(pattern)


@pytest.mark.parametrize(
    "value", ["a b", "a/b", "a@b", "a:b", "a:123456", "a\x00", "ä.example", "a:80:80"], ids=range(8)
)
def test_host_headers_that_are_no_hosts(value: str) -> None:
    with pytest.raises(BadAddress):
        split_host(value)
