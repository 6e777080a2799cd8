"""Heads and chunked bodies, read strictly: the list of what requests are smuggled with."""

from __future__ import annotations

import pytest
from coder_agent_apps_webproxy.chunked import BadChunk, ChunkedBody
from coder_agent_apps_webproxy.http1 import BadHead, Body, parse_request, parse_response
from hypothesis import given
from hypothesis import strategies as st

GET = b"GET / HTTP/1.1\r\nHost: a\r\n"

REFUSED = {
    "cl-te": GET + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    "te-cl": GET + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
    "two-lengths": GET + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
    "same-length-twice": GET + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n",
    "length-list": GET + b"Content-Length: 5, 5\r\n\r\n",
    "length-plus": GET + b"Content-Length: +5\r\n\r\n",
    "length-negative": GET + b"Content-Length: -5\r\n\r\n",
    "length-hex": GET + b"Content-Length: 0x5\r\n\r\n",
    "length-empty": GET + b"Content-Length:\r\n\r\n",
    "length-huge": GET + b"Content-Length: 9999999999999999999\r\n\r\n",
    "te-twice": GET + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n",
    "te-list": GET + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    "te-x": GET + b"Transfer-Encoding: xchunked\r\n\r\n",
    "te-tab": GET + b"Transfer-Encoding: chunked\x0b\r\n\r\n",
    "te-quoted": GET + b'Transfer-Encoding: "chunked"\r\n\r\n',
    "te-in-1.0": b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    "space-before-colon": GET + b"Content-Length : 5\r\n\r\n",
    "tab-before-colon": GET + b"Transfer-Encoding\t: chunked\r\n\r\n",
    "obs-fold": GET + b"X: a\r\n b\r\n\r\n",
    "fold-first": b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    "bare-lf": b"GET / HTTP/1.1\nHost: a\n\r\n\r\n",
    "bare-lf-in-value": GET + b"X: a\nTransfer-Encoding: chunked\r\n\r\n",
    "bare-cr": GET + b"X: a\rb\r\n\r\n",
    "nul": GET + b"X: a\x00b\r\n\r\n",
    "no-colon": GET + b"Nonsense\r\n\r\n",
    "empty-name": GET + b": x\r\n\r\n",
    "name-with-space": GET + b"Con tent: x\r\n\r\n",
    "no-host": b"GET / HTTP/1.1\r\n\r\n",
    "two-hosts": GET + b"Host: b\r\n\r\n",
    "host-with-path": b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "host-with-user": b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
    "host-list": b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
    "absolute-other-host": b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "absolute-empty-host": b"GET http://b/ HTTP/1.1\r\nHost:\r\n\r\n",
    "absolute-odd-host-in-1.0": b"GET http://b^c/ HTTP/1.0\r\n\r\n",
    "absolute-user": b"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "fragment": b"GET /x#y HTTP/1.1\r\nHost: a\r\n\r\n",
    "connect": b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "two-spaces": b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
    "space-in-target": b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    "leading-line": b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "http2": b"PRI * HTTP/2.0\r\n\r\n",
    "http-1.2": b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
    "lowercase-http": b"GET / http/1.1\r\nHost: a\r\n\r\n",
    "eight-bit-target": b"GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n",
    "too-many": GET + b"X: y\r\n" * 200 + b"\r\n",
    "too-long": GET + b"X: " + b"y" * 70_000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_what_two_programs_could_read_differently_is_refused(data: bytes) -> None:
    with pytest.raises(BadHead) as caught:
        parse_request(data)
    assert caught.value.status in (400, 405, 431, 501)


def test_targets_and_names_stay_as_they_were_sent() -> None:
    head = parse_request(
        b"GET /a%2Fb/../c//d;e?q=%00&r=[1] HTTP/1.1\r\nhOsT: A.example:80\r\nSec-WebSocket-KEY: x\r\n\r\nrest"
    )
    assert head.target == b"/a%2Fb/../c//d;e?q=%00&r=[1]"
    assert head.headers[1] == (b"Sec-WebSocket-KEY", b"x")
    assert (head.host, head.body) == ("a.example:80", Body.NONE)
    assert parse_request(b"GET http://a/x HTTP/1.1\r\nHost: A\r\n\r\n").target == b"/x"
    assert parse_request(b"GET http://a HTTP/1.1\r\nHost: a\r\n\r\n").target == b"/"


def test_how_the_end_of_an_answer_is_found() -> None:
    def body(lines: bytes, method: bytes = b"GET", status: int = 200) -> Body:
        return parse_response(b"HTTP/1.1 %d X\r\n%b\r\n" % (status, lines), method).body

    assert body(b"") is Body.UNTIL_CLOSE
    assert body(b"Content-Length: 0\r\n") is Body.NONE
    assert body(b"Content-Length: 3\r\n") is Body.LENGTH
    assert body(b"Transfer-Encoding: Chunked\r\n") is Body.CHUNKED
    assert body(b"Content-Length: 3\r\n", b"HEAD") is Body.NONE
    assert body(b"Content-Length: 3\r\n", status=304) is Body.NONE
    assert body(b"Transfer-Encoding: chunked\r\n", status=204) is Body.NONE
    for lines in (
        b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 1\r\nContent-Length: 2\r\n",
    ):
        with pytest.raises(BadHead):
            body(lines)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_head_or_refused(data: bytes) -> None:
    for parse in (parse_request, lambda value: parse_response(value, b"GET")):
        try:
            parse(data + b"\r\n\r\n")
        except BadHead:
            pass


# ---------------------------------------------------------------- chunks


def wire(pieces: list[bytes], trailers: bytes = b"", extension: bytes = b"") -> bytes:
    return b"".join(b"%x%b\r\n%b\r\n" % (len(p), extension, p) for p in pieces) + b"0\r\n" + trailers + b"\r\n"


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.integers(1, 9))
def test_chunks_pass_whole_however_they_arrive(pieces: list[bytes], step: int) -> None:
    data = wire(pieces, b"X-Sum: 1\r\n", b";a=b") + b"next request"
    for decode, expected in ((False, wire(pieces, b"X-Sum: 1\r\n")), (True, b"".join(pieces))):
        body, out, at = ChunkedBody(decode=decode), b"", 0
        while not body.done:
            out += body.feed(data[at : at + step])
            at += step
        assert out == expected
        assert body.rest + data[at:] == b"next request"


@pytest.mark.parametrize(
    "data",
    [b"x\r\n", b"-1\r\n", b"0x5\r\n", b"5 5\r\n", b"5\n", b"5\r\nabcdeX\r\n", b"5\r\nabcde\n", b"\r\n",
     b"1" * 16 + b"\r\n",
     b"5;" + b"x" * 2000, b"5;\x00\r\n", b"0\r\nContent-Length: 5\r\n\r\n", b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
     b"0\r\nX : y\r\n\r\n", b"0\r\nX: y\n\r\n\r\n", b"0\r\nX: " + b"y" * 20_000],
    ids=range(16),
)  # fmt: skip
def test_chunks_that_break_the_rules(data: bytes) -> None:
    body = ChunkedBody()
    with pytest.raises(BadChunk):
        body.feed(data)
