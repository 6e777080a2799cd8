"""HTTP/1.1 heads, read strictly: what two parsers might read differently is refused, for that is how requests are
smuggled.

Source: RFC 9112 (§2.2 bare CR and LF, §3.2 target forms and Host, §5.1 space before the colon, §5.2 obs-fold, §6.3
message body length). Where the RFC lets a recipient repair or choose, this refuses.

Clients repeat themselves: of one request after the other only the first line differs. What the other lines mean depends
on nothing but them, so it is remembered for a while; so are answers' heads. What was read is never changed: it is
shared by requests of different people.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache

MAX_HEAD = 64 << 10
"""Bytes of a head; the server's own limit, too."""
MAX_HEADERS = 128
MAX_LENGTH_DIGITS = 18
"""Of a Content-Length: an exabyte, and no overflow in any language."""

MAX_REMEMBERED = 2048
"""Bytes of a block of header lines, or of an answer's head, that is worth remembering…"""
REMEMBERED = 512
"""…and how many are: a megabyte of each at most."""

Headers = list[tuple[bytes, bytes]]

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/1\.([01])\r\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?\r\n")
_FIELDS = re.compile(rb"(?:" + _TOKEN + rb":[\t\x20-\x7e\x80-\xff]*\r\n)*")
_ABSOLUTE = re.compile(rb"https?://([^/?#@]+)(/[^#]*|\?[^#]*|)", re.IGNORECASE)
_AUTHORITY = re.compile(rb"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


class BadHead(ValueError):
    """A head that is not passed on. `status` is what its sender gets to hear (for a response: the app is at fault)."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Body(Enum):
    """How the end of a body is found."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    UNTIL_CLOSE = "until close"


@dataclass(frozen=True, slots=True, eq=False)
class Fields:
    """The header lines of a head, without its first line. Header names keep their case; `named` has lower-case names
    and, of repeated ones, the first value; `options` is what Connection lists; `host` the only Host header, None =
    there is none (HTTP/1.0)."""

    headers: Headers
    named: dict[bytes, bytes]
    options: frozenset[bytes]
    body: Body
    length: int
    host: bytes | None = None


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request. `target` is in origin form and otherwise as it was sent; `host` is in lower case."""

    method: bytes
    target: bytes
    minor: int
    fields: Fields
    headers: Headers
    named: dict[bytes, bytes]
    host: str
    body: Body
    length: int
    size: int
    """Bytes of the head itself."""

    @property
    def keep_alive(self) -> bool:
        """May another request follow on the connection?"""
        options = self.fields.options
        return b"close" not in options and (self.minor == 1 or b"keep-alive" in options)

    @property
    def upgrade(self) -> bytes:
        """The protocol that the client wants to go on with, in lower case; empty = none."""
        if self.minor == 0 or self.body is not Body.NONE or b"upgrade" not in self.fields.options:
            return b""
        return self.named.get(b"upgrade", b"").lower()


@dataclass(frozen=True, slots=True, eq=False)
class ResponseHead:
    """An answer. `body` already takes the request's method into account; `keep_alive`: the connection may be used
    again."""

    status: int
    reason: bytes
    minor: int
    headers: Headers
    named: dict[bytes, bytes]
    body: Body
    length: int
    size: int
    keep_alive: bool
    passed: list[tuple[tuple[object, ...], bytes]] = field(default_factory=list, init=False, repr=False)
    """The head that was made of it last, and for what, if there was one (answers.py)."""


def quick_target(head: bytes) -> bytes:
    """The request target, whatever it looks like; empty if there is none."""
    line = head[: head.find(b"\r")] if b"\r" in head else head
    parts = line.split(b" ", 2)
    return parts[1] if len(parts) > 1 else b""


def quick_header(head: bytes, name: bytes) -> bytes:
    """The first header of this (lower-case) name, unchecked; empty if there is none. For claims, not for decisions."""
    at = head.lower().find(b"\r\n" + name + b":")
    if at < 0:
        return b""
    start = at + len(name) + 3
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else None].strip(b" \t")


def parse_request(data: bytes) -> RequestHead:
    """Read the head at the beginning of `data`. Raises BadHead."""
    end = _head_end(data)
    line = _REQUEST_LINE.match(data)
    if line is None:
        raise BadHead("The request line is malformed.")
    method, target, minor = line[1], line[2], int(line[3])
    block = data[line.end() : end]
    fields = _request_fields(block, minor) if len(block) <= MAX_REMEMBERED else _read_request_fields(block, minor)
    target, authority = _origin_form(method, target)
    host = fields.host if fields.host is not None else authority or b""
    if fields.host is None and host and not _AUTHORITY.fullmatch(host):
        raise BadHead("The request target names no host.")
    if authority is not None and authority.lower() != host.lower():
        raise BadHead("The request target names another host than the Host header.")
    return RequestHead(
        method, target, minor, fields, fields.headers, fields.named, host.decode("ascii").lower(), fields.body,
        fields.length, end,
    )  # fmt: skip


def _read_request_fields(block: bytes, minor: int) -> Fields:
    headers, named = _fields(block)
    body, length = _framing(headers, minor)
    return Fields(headers, named, tokens(headers, b"connection"), body, length, _host(headers, minor))


_request_fields = lru_cache(REMEMBERED)(_read_request_fields)


def parse_response(data: bytes, method: bytes) -> ResponseHead:
    """Read the head at the beginning of `data`, the answer to a request with `method`. Raises BadHead."""
    end = _head_end(data)
    head = data[:end]
    return _response(head, method) if end <= MAX_REMEMBERED else _read_response(head, method)


def _read_response(head: bytes, method: bytes) -> ResponseHead:
    line = _STATUS_LINE.match(head)
    if line is None:
        raise BadHead("The app's answer is not HTTP/1.1.", 502)
    minor, status = int(line[1]), int(line[2])
    try:
        headers, named = _fields(head[line.end() :])
        body, length = _framing(headers, minor)
    except BadHead as exc:
        raise BadHead(f"The app's answer is malformed: {exc}", 502) from exc
    if body is Body.NONE and b"content-length" not in named:
        body = Body.UNTIL_CLOSE
    if method == b"HEAD" or status < 200 or status in (204, 304):
        body, length = Body.NONE, 0
    options = tokens(headers, b"connection")
    alive = b"close" not in options and (minor == 1 or b"keep-alive" in options) and body is not Body.UNTIL_CLOSE
    return ResponseHead(status, line[3] or b"", minor, headers, named, body, length, len(head), alive)


_response = lru_cache(REMEMBERED)(_read_response)


def tokens(headers: Headers, name: bytes) -> frozenset[bytes]:
    """The lower-case members of a list header such as Connection, over all its lines."""
    found = (
        part.strip(b" \t").lower()
        for key, value in headers
        if len(key) == len(name) and key.lower() == name
        for part in value.split(b",")
    )
    return frozenset(part for part in found if part)


def write_head(first_line: bytes, headers: Headers) -> bytes:
    """A head on the wire."""
    lines = [first_line]
    lines += [b"%b: %b" % field for field in headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


# ---------------------------------------------------------------- inside


def _head_end(data: bytes) -> int:
    end = data.find(b"\r\n\r\n", 0, MAX_HEAD + 4)
    if end < 0:
        raise BadHead("The head of the request is too long.", 431)
    return end + 4


def _fields(block: bytes) -> tuple[Headers, dict[bytes, bytes]]:
    """`block`: the header lines and the empty line behind them."""
    end = len(block) - 2
    if not _FIELDS.fullmatch(block, 0, end):
        raise BadHead("a header line is malformed.")
    headers: Headers = []
    named: dict[bytes, bytes] = {}
    if end > 0:
        for line in block[: end - 2].split(b"\r\n"):
            name, _, value = line.partition(b":")
            value = value.strip(b" \t")
            headers.append((name, value))
            named.setdefault(name.lower(), value)
    if len(headers) > MAX_HEADERS:
        raise BadHead("There are too many headers.", 431)
    return headers, named


def _origin_form(method: bytes, target: bytes) -> tuple[bytes, bytes | None]:
    if method == b"CONNECT":
        raise BadHead("CONNECT leads nowhere here.", 405)
    if b"#" in target:
        raise BadHead("The request target has a fragment.")
    if target.startswith(b"/"):
        return target, None
    found = _ABSOLUTE.fullmatch(target)
    if found is None:
        raise BadHead("The request target is neither a path nor a URL.")
    path = found[2]
    return path if path.startswith(b"/") else b"/" + path, found[1]


def _host(headers: Headers, minor: int) -> bytes | None:
    hosts = [value for name, value in headers if len(name) == 4 and name.lower() == b"host"]
    if len(hosts) > 1 or (not hosts and minor == 1):
        raise BadHead("A request has exactly one Host header.")
    if hosts and hosts[0] and not _AUTHORITY.fullmatch(hosts[0]):
        raise BadHead("The Host header is not a host.")
    return hosts[0] if hosts else None


def _framing(headers: Headers, minor: int) -> tuple[Body, int]:
    lengths = [value for name, value in headers if len(name) == 14 and name.lower() == b"content-length"]
    codings = [value for name, value in headers if len(name) == 17 and name.lower() == b"transfer-encoding"]
    if codings:
        if lengths:
            raise BadHead("both Content-Length and Transfer-Encoding are there.")
        if minor == 0 or len(codings) > 1 or codings[0].lower() != b"chunked":
            raise BadHead("the transfer coding is not just “chunked”.", 501 if minor else 400)
        return Body.CHUNKED, 0
    if not lengths:
        return Body.NONE, 0
    if len(lengths) > 1 or not lengths[0].isdigit() or len(lengths[0]) > MAX_LENGTH_DIGITS:
        raise BadHead("the Content-Length is not one number.")
    length = int(lengths[0])
    return (Body.LENGTH, length) if length else (Body.NONE, 0)
