"""What a user types to the command instead of to the shell: ``~.`` at the beginning of a line, as in ssh. No I/O."""

from __future__ import annotations

from enum import StrEnum

_LINE_ENDS = b"\r\n\x03\x04"
"""What a line is begun after: Enter, and ^C and ^D, after which a prompt comes, too."""

HELP = (
    "~.  leave; the shell stays for a while\r\n~p  show what carries the connection\r\n~?  this list\r\n"
    "~~  a tilde\r\nonly at the beginning of a line\r\n"
)


class Order(StrEnum):
    """What the user wants of us."""

    LEAVE = "."
    PATH = "p"
    HELP = "?"


_ORDERS = {ord(order): order for order in Order}


class Escapes:
    """Separates orders from keystrokes. `character` None: there are no orders."""

    def __init__(self, character: str | None = "~") -> None:
        self._escape = None if character is None else ord(character)
        self._at_start = True
        self._pending = False

    def feed(self, data: bytes) -> list[bytes | Order]:
        """What is for the shell, and orders, in the order in which they were typed."""
        if self._escape is None:
            return [data]
        found: list[bytes | Order] = []
        keys = bytearray()
        for byte in data:
            order = self._key(byte, keys)
            if order is not None:
                if keys:
                    found.append(bytes(keys))
                    keys.clear()
                found.append(order)
        if keys:
            found.append(bytes(keys))
        return found

    def _key(self, byte: int, keys: bytearray) -> Order | None:
        assert self._escape is not None
        if self._pending:
            self._pending = False
            if (order := _ORDERS.get(byte)) is not None:
                return order
            keys.append(self._escape)
            if byte == self._escape:
                self._at_start = False
                return None
        elif self._at_start and byte == self._escape:
            self._pending = True
            return None
        keys.append(byte)
        self._at_start = byte in _LINE_ENDS
        return None
