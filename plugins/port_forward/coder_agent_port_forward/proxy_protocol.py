"""The head of a proxy conversation: SOCKS5 and HTTP on one port. Pure: bytes in, what to answer and where to go out.

SOCKS5 without authentication, CONNECT only (RFC 1928); HTTP CONNECT (RFC 9110 §9.3.6), and requests in absolute form,
one a connection (RFC 9112 §3.2.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import urlsplit

from .protocol import Code

HEAD_LIMIT = 16_384
"""Bytes of an HTTP request head; what servers commonly take."""
_SOCKS_REPLIES = {
    None: 0,
    Code.POLICY: 2,
    Code.NAME: 4,
    Code.REFUSED: 5,
    Code.UNREACHABLE: 4,
}
"""RFC 1928 §6; everything else is 1, a general failure."""
_HTTP_REPLIES = {
    Code.POLICY: "403 Forbidden",
    Code.NAME: "502 Bad Gateway",
    Code.REFUSED: "502 Bad Gateway",
    Code.UNREACHABLE: "504 Gateway Timeout",
    Code.TOO_MANY: "503 Service Unavailable",
}
_HOP_BY_HOP = ("connection", "proxy-connection", "proxy-authorization", "keep-alive")


class BadRequest(Exception):
    """The program does not speak a protocol of ours; `answer` is what to send before closing."""

    def __init__(self, why: str, answer: bytes = b"") -> None:
        super().__init__(why)
        self.answer = answer


@dataclass(frozen=True, slots=True)
class Wish:
    """Where the program wants to go. `kind` is ``socks``, ``connect`` or ``plain``; `first` goes there first."""

    kind: str
    host: str
    port: int
    first: bytes = b""


class ProxyHead:
    """Fed until it gives a Wish; `answer` is what to send meanwhile."""

    def __init__(self) -> None:
        self._data = b""
        self._greeted = False
        self.answer = b""

    def feed(self, data: bytes) -> Wish | None:
        """More bytes; None: more must come. Raises BadRequest."""
        self.answer = b""
        self._data += data
        if self._data[:1] == b"\x05":
            return self._socks()
        if self._data[:1] == b"\x04":
            raise BadRequest("SOCKS4 carries no names; use SOCKS5 (socks5h://)", b"\0\x5b" + bytes(6))
        return self._http()

    def _socks(self) -> Wish | None:
        if not self._greeted:
            if len(self._data) < 2 or len(self._data) < 2 + self._data[1]:
                return None
            methods = self._data[2 : 2 + self._data[1]]
            if 0 not in methods:
                raise BadRequest("this proxy wants no password, and the program offers nothing else", b"\x05\xff")
            self._data = self._data[2 + len(methods) :]
            self._greeted = True
            self.answer = b"\x05\0"
            if self._data[:1] not in (b"", b"\x05"):
                raise BadRequest("no SOCKS5 request")
        data = self._data
        if len(data) < 5:
            return None
        kind = data[3]
        size = {1: 4, 4: 16, 3: 1 + data[4]}.get(kind)
        if size is None:
            raise BadRequest(f"unknown kind of address: {kind}", _socks_reply(8))
        if len(data) < 4 + size + 2:
            return None
        if data[1] != 1:
            raise BadRequest("SOCKS5 CONNECT only: no BIND, no UDP (use --udp)", _socks_reply(7))
        raw = data[4 : 4 + size]
        port = int.from_bytes(data[4 + size : 6 + size], "big")
        host = str(IPv4Address(raw)) if kind == 1 else str(IPv6Address(raw)) if kind == 4 else _text(raw[1:])
        if not host or not port:
            raise BadRequest("no host or no port", _socks_reply(1))
        return Wish("socks", host, port, data[6 + size :])

    def _http(self) -> Wish | None:
        head, end, rest = self._data.partition(b"\r\n\r\n")
        line = head.split(b"\r\n", 1)[0]
        if (
            not self._data[:1].isalpha()
            or len(line) > HEAD_LIMIT
            or ((end or b"\r\n" in head) and line.count(b" ") != 2)
        ):
            raise BadRequest(
                "neither SOCKS5 nor HTTP", _http_reply("400 Bad Request", "this is a SOCKS5 and HTTP proxy")
            )
        if not end:
            if len(head) > HEAD_LIMIT:
                raise BadRequest("endless head", _http_reply("431 Request Header Fields Too Large", "too long"))
            return None
        method, target, version = (_text(part) for part in line.split(b" "))
        if method == "CONNECT":
            host, port = _authority(target, None)
            return Wish("connect", host, port, rest)
        parts = _url(target)
        host, port = _authority(parts[0], 80)
        fields = [field for field in head.split(b"\r\n")[1:] if _name(field) not in _HOP_BY_HOP]
        first = [f"{method} {parts[1]} {version}".encode("latin-1"), *fields, b"Connection: close"]
        return Wish("plain", host, port, b"\r\n".join(first) + b"\r\n\r\n" + rest)


def answer_to(wish: Wish, code: Code | None, sentence: str = "") -> bytes:
    """What the program is told: `code` None is success."""
    if wish.kind == "socks":
        return _socks_reply(_SOCKS_REPLIES.get(code, 1))
    if code is not None:
        return _http_reply(_HTTP_REPLIES.get(code, "502 Bad Gateway"), sentence)
    return b"HTTP/1.1 200 Connection established\r\n\r\n" if wish.kind == "connect" else b""


def _socks_reply(code: int) -> bytes:
    return bytes([5, code, 0, 1]) + bytes(6)


def _http_reply(status: str, sentence: str) -> bytes:
    body = sentence.encode() + b"\n"
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body


def _text(raw: bytes) -> str:
    try:
        text = raw.decode("ascii")
    except UnicodeDecodeError:
        raise BadRequest("names are ASCII", _http_reply("400 Bad Request", "names are ASCII")) from None
    if not text.isprintable():
        raise BadRequest("control characters in a name", _http_reply("400 Bad Request", "no control characters"))
    return text


def _name(field: bytes) -> str:
    return field.partition(b":")[0].strip().lower().decode("latin-1")


def _url(target: str) -> tuple[str, str]:
    try:
        parts = urlsplit(target)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme != "http" or not parts.netloc:
        sentence = "this is a proxy: ask for http://host/path, or use CONNECT"
        raise BadRequest("no absolute http URL", _http_reply("400 Bad Request", sentence))
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return parts.netloc.rpartition("@")[2], path


def _authority(text: str, default: int | None) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = text, str(default or "")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not host or not port.isdigit() or not 1 <= int(port[:6]) <= 65_535 or len(host) > 253:
        raise BadRequest("no host:port", _http_reply("400 Bad Request", f"{text[:100]} is not host:port"))
    return host, int(port[:6])
