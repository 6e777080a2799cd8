"""The reconnecting PTY's wire form, without I/O.

Layout: client → agent: u16 little-endian length ‖ JSON init, then JSON objects without delimiters
(``{"data":"ls\\r"}``, ``{"height":24,"width":80}``). Agent → client: the terminal's bytes until the end of the stream.
Source: coder codersdk/workspacesdk/agentconn.go (ReconnectingPTY), agent/reconnectingpty/server.go.

Marks are ours: a client that asks for them (``"Marks":true``, which stock agents ignore) is told in the first bytes
whether the shell is new, and in the last ones how it ended. They are OSC sequences, which terminals ignore:
``ESC ] 7766 ; new BEL``, ``ESC ] 7766 ; kept ; BYTES BEL`` (so many of old output follow), and
``ESC ] 7766 ; end ; HOW ; STATUS BEL``.
"""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from coder_agent.errors import RemoteProtocolError

LENGTH = struct.Struct("<H")
MAX_INIT = 0xFFFF
"""Bytes of an init: what its length can say."""
MAX_MESSAGE = 1 << 20
"""Bytes of one message upward: a large paste, with every character escaped."""
MAX_DEPTH = 4
"""How deep a message may be nested: it is a flat object, and unknown fields are small."""
MAX_CELLS = 0xFFFF
"""Rows or columns: `struct winsize` has 16 bits."""


@dataclass(frozen=True, slots=True)
class Size:
    """A terminal's size in cells. Zero in either place means "not said"."""

    height: int = 0
    width: int = 0

    def __bool__(self) -> bool:
        return self.height > 0 and self.width > 0


@dataclass(frozen=True, slots=True)
class Init:
    """What a client opens with. An empty `command` is the login shell; else a line for the shell."""

    id: UUID
    size: Size = Size()
    command: str = ""
    container: str = ""
    container_user: str = ""
    backend_type: str = ""
    marks: bool = False

    def encode(self) -> bytes:
        """As a Go client writes it. Raises ValueError if it is longer than its length can say."""
        document: dict[str, object] = {
            "ID": str(self.id),
            "Height": self.size.height,
            "Width": self.size.width,
            "Command": self.command,
            "Container": self.container,
            "ContainerUser": self.container_user,
            "BackendType": self.backend_type,
        }
        if self.marks:
            document["Marks"] = True
        body = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
        if len(body) > MAX_INIT:
            raise ValueError(f"the command is too long: {len(body)} bytes of at most {MAX_INIT}")
        return LENGTH.pack(len(body)) + body

    @classmethod
    def parse(cls, body: bytes) -> Init:
        """From the JSON behind the length. Raises RemoteProtocolError."""
        fields = _fields(body, "the opening message")
        try:
            identity = UUID(_text(fields, "id"))
        except ValueError:
            raise RemoteProtocolError("the opening message has no valid ID") from None
        if not identity.int:
            raise RemoteProtocolError("the opening message has no ID")
        return cls(
            identity,
            Size(_cells(fields, "height"), _cells(fields, "width")),
            _text(fields, "command"),
            _text(fields, "container"),
            _text(fields, "containeruser"),
            _text(fields, "backendtype"),
            fields.get("marks") is True,
        )


@dataclass(frozen=True, slots=True)
class Input:
    """One message upward: keystrokes, a new size, or both."""

    data: str = ""
    size: Size = Size()

    def encode(self) -> bytes:
        """As a Go client writes it: what is empty is left out."""
        document: dict[str, object] = {"data": self.data} if self.data else {}
        if self.size:
            document |= {"height": self.size.height, "width": self.size.width}
        return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")

    @classmethod
    def parse(cls, body: bytes) -> Input:
        """From one JSON object. Raises RemoteProtocolError."""
        fields = _fields(body, "a message")
        return cls(_text(fields, "data"), Size(_cells(fields, "height"), _cells(fields, "width")))


def _fields(body: bytes, what: str) -> dict[str, Any]:
    """A JSON object with its keys in lower case: Go does not care how they are written, and peers use both."""
    try:
        document = json.loads(body.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        raise RemoteProtocolError(f"{what} is not JSON") from None
    if not isinstance(document, dict):
        raise RemoteProtocolError(f"{what} is not a JSON object")
    return {key.lower(): value for key, value in document.items()}


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RemoteProtocolError(f"{name} is not a string")
    # half of a surrogate pair is no text; Go makes U+FFFD of it, too
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _cells(fields: dict[str, Any], name: str) -> int:
    value = fields.get(name)
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_CELLS:
        raise RemoteProtocolError(f"{name} is not a number from 0 to {MAX_CELLS}")
    return value


class UpwardReader:
    """The agent's side of a connection: first the init, then messages. Feed it bytes as they come, and take
    every message before you feed it more."""

    _OUTSIDE = re.compile(rb'["{}\[\]]')
    _INSIDE = re.compile(rb'["\\]')
    _SPACE = b" \t\r\n"

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.init: Init | None = None
        self._at = self._depth = 0
        self._quoted = False

    def feed(self, data: bytes) -> None:
        """Bytes came; `init` is set as soon as it is whole. Raises RemoteProtocolError."""
        self._buffer += data
        if self.init is None:
            self._take_init()

    def next(self) -> Input | None:
        """The next whole message, None if there is none yet. Raises RemoteProtocolError."""
        if self.init is None:
            return None
        end = self._end_of_object()
        if end is None:
            if len(self._buffer) > MAX_MESSAGE:
                raise RemoteProtocolError(f"a message is longer than {MAX_MESSAGE} bytes")
            return None
        body = bytes(self._buffer[:end])
        del self._buffer[:end]
        self._at = 0
        return Input.parse(body)

    def end(self) -> None:
        """The stream ended. Raises RemoteProtocolError if that was in the middle of something."""
        if self.init is None:
            raise RemoteProtocolError("the connection ended before the opening message was complete")
        if self._buffer.strip():
            raise RemoteProtocolError("the connection ended in the middle of a message")

    def _take_init(self) -> None:
        if len(self._buffer) < LENGTH.size:
            return
        end = LENGTH.size + LENGTH.unpack_from(self._buffer)[0]
        if len(self._buffer) >= end:
            self.init = Init.parse(bytes(self._buffer[LENGTH.size : end]))
            del self._buffer[:end]

    def _end_of_object(self) -> int | None:
        """Where the first object in the buffer ends. Every byte is looked at once, however it arrives."""
        buffer = self._buffer
        if not self._depth:
            del buffer[: len(buffer) - len(buffer.lstrip(self._SPACE))]
            if buffer and buffer[0] != ord("{"):
                raise RemoteProtocolError("a message does not begin with a brace")
        while (found := (self._INSIDE if self._quoted else self._OUTSIDE).search(buffer, self._at)) is not None:
            self._at = found.end()
            match found[0]:
                case b"\\":
                    if self._at == len(buffer):  # what is escaped has not come yet
                        self._at -= 1
                        return None
                    self._at += 1
                case b'"':
                    self._quoted = not self._quoted
                case b"{" | b"[":
                    self._depth += 1
                    if self._depth > MAX_DEPTH:
                        raise RemoteProtocolError(f"a message is nested deeper than {MAX_DEPTH}")
                case _:
                    self._depth -= 1
                    if not self._depth:
                        return self._at
        self._at = len(buffer)
        return None


# ---------------------------------------------------------------- marks


class Ending(StrEnum):
    """How a shell ended."""

    EXITED = "exited"
    IDLE = "idle"
    """Nobody looked at it for as long as the agent waits."""


_OSC = b"\x1b]7766;"
"""A number that no terminal we know uses."""
_BEL = b"\x07"
_START_MARK = re.compile(re.escape(_OSC) + rb"(?:new|kept;(\d{1,7}))" + _BEL)
_LONGEST_START = len(_OSC) + len("kept;1234567") + len(_BEL)
_END_MARK = re.compile(re.escape(_OSC) + rb"end;(exited|idle);(\d{1,3})" + _BEL + rb"\Z")
_LONGEST = len(_OSC) + len("end;exited;255") + len(_BEL)


@dataclass(frozen=True, slots=True)
class Start:
    """The first word of an agent. `replayed` bytes of old output follow; None = the shell is new."""

    replayed: int | None = None

    def mark(self) -> bytes:
        """For clients that asked for marks."""
        return _OSC + (b"new" if self.replayed is None else f"kept;{self.replayed}".encode()) + _BEL


@dataclass(frozen=True, slots=True)
class End:
    """The last word of an agent. `status`: the exit code, 128 + number if a signal ended the shell."""

    how: Ending
    status: int = 0

    def mark(self) -> bytes:
        """For clients that asked for marks."""
        return _OSC + f"end;{self.how};{self.status}".encode() + _BEL

    def text(self) -> bytes:
        """For everybody else: a line in the terminal."""
        words = "ended: nobody was looking" if self.how is Ending.IDLE else f"exited with status {self.status}"
        return f"\r\n[{words}]\r\n".encode()


class MarkReader:
    """The client's side: separates marks from what is to be seen.

    An end mark counts only as the very last bytes, so that no program can fake it, and a start mark only as the first.
    """

    def __init__(self) -> None:
        self._held = b""
        self.start: Start | None = None
        """What the agent said first; None: nothing (yet, or it is a stock agent)."""
        self._started = False

    def feed(self, data: bytes) -> bytes:
        """What is to be shown now; the possible beginning of a mark is held back."""
        data = self._held + data
        if not self._started:
            if (found := _START_MARK.match(data)) is not None:
                self.start = Start(None if found[1] is None else int(found[1]))
                data = data[found.end() :]
            elif len(data) < _LONGEST_START and (data.startswith(_OSC) or _OSC.startswith(data)):
                self._held = data
                return b""
            self._started = True
        keep = self._possible_mark(data)
        self._held = data[len(data) - keep :]
        return data[: len(data) - keep]

    def end(self) -> tuple[bytes, End | None]:
        """The stream ended: what was held back and was no mark, and the agent's last word, if it said one."""
        found = _END_MARK.match(self._held)
        if found is None:
            return self._held, None
        return b"", End(Ending(found[1].decode()), int(found[2]))

    def _possible_mark(self, data: bytes) -> int:
        """How many bytes at the end may be (the beginning of) an end mark."""
        at = data.rfind(b"\x1b", max(0, len(data) - _LONGEST))
        if at < 0:
            return 0
        tail = data[at:]
        head = _OSC + b"end;"
        plausible = head.startswith(tail) or (tail.startswith(head) and _BEL not in tail[:-1])
        return len(tail) if plausible else 0
