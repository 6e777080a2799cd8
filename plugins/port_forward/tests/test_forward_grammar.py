"""Every form of a port forward that Coder takes, and every mistake that it names."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from coder_agent_port_forward.grammar import (
    MAX_FORWARDS,
    Forward,
    Protocol,
    parse_forwards,
    parse_reverse,
    parse_socks,
)
from hypothesis import given
from hypothesis import strategies as st

from coder_agent.errors import ConfigError


def tcp(local: int, remote: int, address: str | None = None) -> Forward:
    return Forward(Protocol.TCP, local, remote, ip_address(address) if address else None)


GOOD: list[tuple[str, list[Forward]]] = [
    ("8080", [tcp(8080, 8080)]),
    ("8080:9000", [tcp(8080, 9000)]),
    ("10-11", [tcp(10, 10), tcp(11, 11)]),
    ("8000-8002:9000-9002", [tcp(8000, 9000), tcp(8001, 9001), tcp(8002, 9002)]),
    ("8080,9000:80", [tcp(8080, 8080), tcp(9000, 80)]),
    (" 8080 , 9000 ", [tcp(8080, 8080), tcp(9000, 9000)]),
    ("127.0.0.1:8080", [tcp(8080, 8080, "127.0.0.1")]),
    ("127.0.0.1:8080:9000", [tcp(8080, 9000, "127.0.0.1")]),
    ("0.0.0.0:8080:9000", [tcp(8080, 9000, "0.0.0.0")]),
    ("[::1]:8080", [tcp(8080, 8080, "::1")]),
    ("[::1]:8080:9000", [tcp(8080, 9000, "::1")]),
    ("[fe80::1]:10-11:20-21", [tcp(10, 20, "fe80::1"), tcp(11, 21, "fe80::1")]),
    ("1:9", [tcp(1, 9)]),
    ("65535", [tcp(65535, 65535)]),
    ("80:80,127.0.0.2:80:80", [tcp(80, 80), tcp(80, 80, "127.0.0.2")]),
]


@pytest.mark.parametrize(("text", "found"), GOOD, ids=[text.strip() for text, _ in GOOD])
def test_what_is_read(text: str, found: list[Forward]) -> None:
    assert parse_forwards([text], []) == found


def test_options_repeat_and_protocols_do_not_meet() -> None:
    found = parse_forwards(["8080", "8081"], ["8080:53"])
    assert found == [tcp(8080, 8080), tcp(8081, 8081), Forward(Protocol.UDP, 8080, 53)]


BAD = [
    ("0", "no port 0"),
    ("8080:0", "no port 0"),
    ("65536", "no port 65536"),
    ("99999999999999999999", "no port"),
    ("10-9", "ends before it begins"),
    ("8000-8001:9000-9002", "2 local ports cannot lead to 3"),
    ("8000-8001:9000", "2 local ports cannot lead to 1"),
    ("8000:9000-9001", "1 local ports cannot lead to 2"),
    ("8080:8", "belong to its agent"),
    ("1-20", "belong to its agent"),
    ("8080,8080:90", "asked for twice"),
    ("127.0.0.1:80:80,80:81", "asked for twice"),
    (f"1000-{1000 + MAX_FORWARDS}", "too many"),
    ("x", "not a port forward"),
    ("-1", "not a port forward"),
    ("80-", "not a port forward"),
    ("80:", "not a port forward"),
    ("80:90:100:110", "not a port forward"),
    ("::1:80:80", "not a port forward"),
    ("[::1:80", "not a port forward"),
    ("[::1]80", "not a port forward"),
    ("８０", "not a port forward"),
    ("localhost:80:80", "not an IP address"),
    ("1.2.3:80:80", "not an IP address"),
    ("[127.0.0.1]:80:80", "brackets are for IPv6"),
    ("[]:80:80", "not an IP address"),
]


@pytest.mark.parametrize(("text", "why"), BAD, ids=[text for text, _ in BAD])
def test_what_is_refused_and_why(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        parse_forwards([text], [])


@given(st.text(alphabet="0123456789:-[],. ax", max_size=40))
def test_no_text_breaks_the_parser(text: str) -> None:
    try:
        found = parse_forwards([text], [])
    except ConfigError:
        return
    assert all(1 <= forward.local <= 65535 and 9 <= forward.remote <= 65535 for forward in found)


def test_reverse_reads_the_workspace_first() -> None:
    assert parse_reverse(["9000:3000,5000"]) == [tcp(3000, 9000), tcp(5000, 5000)]
    assert parse_reverse(["9000:5"]) == [tcp(5, 9000)]  # of the user's own ports all are free to choose


@pytest.mark.parametrize("text", ["127.0.0.1:9000:3000", "9000,9000:1", "x"])
def test_reverse_refuses(text: str) -> None:
    with pytest.raises(ConfigError, match="--reverse"):
        parse_reverse([text])


def test_where_the_proxy_listens() -> None:
    assert parse_socks("1080") == tcp(1080, 1080)
    assert parse_socks("[::1]:1080") == tcp(1080, 1080, "::1")


@pytest.mark.parametrize("text", ["1080-1081", "1080:1081", "x", "0"])
def test_the_proxy_has_one_port(text: str) -> None:
    with pytest.raises(ConfigError, match="--socks"):
        parse_socks(text)


def test_urls_name_both_ends() -> None:
    assert tcp(80, 9000, "::1").local_url == "tcp://[::1]:80"
    assert tcp(80, 9000).local_url == "tcp://127.0.0.1:80"
    assert Forward(Protocol.UDP, 53, 5353).remote_url == "udp://127.0.0.1:5353"
