"""What `coder port-forward` says to the agent's forward service, TCP port 8 inside the tunnel.

One request a connection: a line of JSON, answered by a line of JSON; then both sides are bytes of the user's.

    {"op": "connect", "host": "db.internal", "port": 5432}      → {"ok": true}, then the connection to that host
    {"op": "listen", "port": 9000}                              → {"ok": true}; the connection stays, and for each
                                                                  local connection the agent sends {"id": "…"}
    {"op": "accept", "id": "…"}                                 → {"ok": true}, then that local connection
    {"op": "refuse", "id": "…"}                                 → {"ok": true}: the user's port refused it

A refusal is {"error": "a sentence", "code": CODE}. Stock agents do not listen on port 8, which Coder reserves; only
these two extras need it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from coder_agent.errors import RemoteProtocolError

LINE_LIMIT = 4096
"""Bytes of one line; a host name has 253 at most."""


class Code(StrEnum):
    """Why a request was refused."""

    POLICY = "policy"
    NAME = "name"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    BUSY = "busy"
    TOO_MANY = "too-many"
    MALFORMED = "malformed"


class Op(StrEnum):
    """What is asked for."""

    CONNECT = "connect"
    LISTEN = "listen"
    ACCEPT = "accept"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Request:
    """One request. Which fields have a meaning depends on `op`."""

    op: Op
    host: str = ""
    port: int = 0
    id: str = ""


class Refusal(Exception):
    """The agent says no. `str()` is its sentence."""

    def __init__(self, code: Code, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


def encode(document: dict[str, object]) -> bytes:
    """One line."""
    return json.dumps(document).encode() + b"\n"


def encode_request(request: Request) -> bytes:
    """A request as a line."""
    fields: dict[str, object] = {"op": request.op.value}
    if request.host:
        fields["host"] = request.host
    if request.port:
        fields["port"] = request.port
    if request.id:
        fields["id"] = request.id
    return encode(fields)


def decode_request(line: bytes) -> Request:
    """Read a request. Raises Refusal (MALFORMED)."""
    try:
        document = _object(line)
        request = Request(
            Op(str(document.get("op"))), document.get("host", ""), document.get("port", 0), document.get("id", "")
        )
        host, port, number = request.host, request.port, request.id
        needs_port = request.op in (Op.CONNECT, Op.LISTEN)
        if not (isinstance(host, str) and type(port) is int and isinstance(number, str)):
            raise ValueError("a field has another type")
        if needs_port and not 1 <= port <= 65_535:
            raise ValueError("no such port")
        if (request.op is Op.CONNECT) and not (0 < len(host) <= 253 and host.isprintable()):
            raise ValueError("no such host")
    except ValueError as error:
        raise Refusal(Code.MALFORMED, f"this request makes no sense: {error}") from None
    return request


def encode_refusal(refusal: Refusal) -> bytes:
    """The answer no."""
    return encode({"error": str(refusal), "code": refusal.code.value})


def decode_reply(line: bytes) -> dict[str, Any]:
    """Read an answer. Raises Refusal, RemoteProtocolError."""
    try:
        document = _object(line)
    except ValueError as error:
        raise RemoteProtocolError(f"the agent's forward service answered nonsense: {error}") from error
    if "error" in document:
        known = [code for code in Code if code == document.get("code")]
        raise Refusal(known[0] if known else Code.REFUSED, _printable(str(document["error"])))
    return document


def _object(line: bytes) -> dict[str, Any]:
    document = json.loads(line)
    if not isinstance(document, dict):
        raise ValueError("not an object")
    return document


def _printable(text: str) -> str:
    """What strangers say is shown on a terminal: no control characters, no novels."""
    return "".join(char if char.isprintable() else "?" for char in text[:300])
