"""What programs say to the proxy first: SOCKS5, HTTP CONNECT, absolute requests, and everything else."""

from __future__ import annotations

import pytest
from coder_agent_port_forward.protocol import Code
from coder_agent_port_forward.proxy_protocol import BadRequest, ProxyHead, Wish, answer_to
from hypothesis import given
from hypothesis import strategies as st

HELLO = b"\x05\x02\x00\x02"
NAME = b"\x05\x01\x00\x03\x0bexample.com\x01\xbb"
CONNECT = b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n"
GET = (
    b"GET http://u:p@example.com:81/a?b=c HTTP/1.1\r\nHost: example.com:81\r\nProxy-Connection: keep-alive\r\n\r\nbody"
)


@pytest.mark.parametrize(
    ("data", "wish", "answered"),
    [
        (HELLO + NAME + b"rest", Wish("socks", "example.com", 443, b"rest"), b"\x05\0"),
        (HELLO + b"\x05\x01\0\x01\x0a\0\0\x01\0\x50", Wish("socks", "10.0.0.1", 80), b"\x05\0"),
        (HELLO + b"\x05\x01\0\x04" + bytes(15) + b"\x01\0\x50", Wish("socks", "::1", 80), b"\x05\0"),
        (CONNECT + b"rest", Wish("connect", "example.com", 443, b"rest"), b""),
        (b"CONNECT [::1]:80 HTTP/1.1\r\n\r\n", Wish("connect", "::1", 80), b""),
        (
            b"GET http://a/ HTTP/1.0\r\n\r\n",
            Wish("plain", "a", 80, b"GET / HTTP/1.0\r\nConnection: close\r\n\r\n"),
            b"",
        ),
        (
            b"GET http://[::1] HTTP/1.1\r\n\r\n",
            Wish("plain", "::1", 80, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n"),
            b"",
        ),
        (
            GET,
            Wish(
                "plain",
                "example.com",
                81,
                b"GET /a?b=c HTTP/1.1\r\nHost: example.com:81\r\nConnection: close\r\n\r\nbody",
            ),
            b"",
        ),
    ],
    ids=["socks-name", "socks-v4", "socks-v6", "connect", "connect-v6", "get", "get-v6", "get-more"],
)
def test_a_wish_is_understood_whole_or_byte_by_byte(data: bytes, wish: Wish, answered: bytes) -> None:
    whole = ProxyHead()
    assert whole.feed(data) == wish
    assert whole.answer == answered
    head, said = ProxyHead(), b""
    needed = len(data) - len(wish.first if wish.kind != "plain" else b"body" if b"body" in data else b"")
    for at in range(needed):
        found = head.feed(data[at : at + 1])
        said += head.answer
        assert (found is not None) == (at == needed - 1)
    assert said == answered


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"\x04\x01\0\x50\x01\x01\x01\x01\0", b"\0\x5b"),
        (b"\x05\x01\x02", b"\x05\xff"),
        (HELLO + b"\x05\x02\0\x01" + bytes(6), b"\x05\x07"),
        (HELLO + b"\x05\x03\0\x01" + bytes(6), b"\x05\x07"),
        (HELLO + b"\x05\x01\0\x09" + bytes(6), b"\x05\x08"),
        (HELLO + b"\x05\x01\0\x01" + bytes(6), b"\x05\x01"),
        (HELLO + b"\x05\x01\0\x03\x01\x07\0\x50", b"HTTP/1.1 400"),
        (b"\x16\x03\x01\x02\0\x01", b"HTTP/1.1 400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 400"),
        (b"GET https://x/ HTTP/1.1\r\n\r\n", b"HTTP/1.1 400"),
        (b"CONNECT example.com HTTP/1.1\r\n\r\n", b"HTTP/1.1 400"),
        (b"CONNECT :80 HTTP/1.1\r\n\r\n", b"HTTP/1.1 400"),
        (b"CONNECT a:0 HTTP/1.1\r\n\r\n", b"HTTP/1.1 400"),
        (b"CONNECT a:99999999999 HTTP/1.1\r\n\r\n", b"HTTP/1.1 400"),
        (b"GET http://x/ HTTP/1.1\r\nA: " + b"a" * 20_000, b"HTTP/1.1 431"),
        (b"G" * 20_000, b"HTTP/1.1 400"),
    ],
)
def test_everything_else_is_answered_in_its_own_language(data: bytes, answer: bytes) -> None:
    head = ProxyHead()
    with pytest.raises(BadRequest) as caught:
        head.feed(data)
    assert caught.value.answer.startswith(answer)


@given(st.binary(max_size=300))
def test_no_bytes_break_it(data: bytes) -> None:
    head = ProxyHead()
    try:
        head.feed(data)
    except BadRequest:
        pass


@pytest.mark.parametrize(
    ("kind", "code", "start"),
    [
        ("socks", None, b"\x05\0\0\x01"),
        ("socks", Code.POLICY, b"\x05\x02"),
        ("socks", Code.REFUSED, b"\x05\x05"),
        ("socks", Code.BUSY, b"\x05\x01"),
        ("connect", None, b"HTTP/1.1 200 "),
        ("connect", Code.POLICY, b"HTTP/1.1 403 "),
        ("plain", None, b""),
        ("plain", Code.NAME, b"HTTP/1.1 502 "),
    ],
)
def test_answers(kind: str, code: Code | None, start: bytes) -> None:
    assert answer_to(Wish(kind, "a", 1), code, "why").startswith(start)
