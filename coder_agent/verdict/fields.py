"""Reading JSON that a stranger wrote: every value typed and bounded, every complaint with its place."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import TypeVar

from ..base.addresses import AddrPort
from ..errors import RemoteProtocolError

Item = TypeVar("Item")
Code = TypeVar("Code", bound=StrEnum)

MAX_ITEMS = 256
"""Longest list taken: more than the 164 candidates that a peer may have."""
MAX_TEXT = 1000
"""Longest text taken, characters."""
MAX_NUMBER = 1 << 53
"""Largest number taken: what every JSON reader holds exactly."""


class Fields:
    """A JSON object. Absent and null fields have their defaults; unknown ones are ignored, so that formats can grow."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, Mapping):
            raise RemoteProtocolError(f"{where} must be a JSON object")
        self.where = where
        self._fields = value

    def _bad(self, name: str, wanted: str) -> RemoteProtocolError:
        return RemoteProtocolError(f"{self.where}: {name} must be {wanted}")

    def get(self, name: str) -> object:
        """The raw value; None if absent."""
        return self._fields.get(name)

    def text(self, name: str) -> str:
        """A text, empty if absent."""
        value = self._fields.get(name)
        if value is None:
            return ""
        if not isinstance(value, str) or len(value) > MAX_TEXT:
            raise self._bad(name, f"a text of at most {MAX_TEXT} characters")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """A truth value."""
        value = self.maybe(name)
        return default if value is None else value

    def maybe(self, name: str) -> bool | None:
        """A truth value, or None."""
        value = self._fields.get(name)
        if value is not None and not isinstance(value, bool):
            raise self._bad(name, "true, false or null")
        return value

    def number(self, name: str) -> int:
        """A whole number, 0 if absent."""
        value = self._fields.get(name)
        if value is None:
            return 0
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MAX_NUMBER:
            raise self._bad(name, "a whole number")
        return value

    def real(self, name: str) -> float | None:
        """A finite number, or None."""
        value = self._fields.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self._bad(name, "a number")
        return float(value)

    def code(self, name: str, kind: type[Code], default: Code) -> Code:
        """One of an enumeration's values."""
        value = self._fields.get(name)
        if value is None:
            return default
        try:
            return kind(value)  # of a wrong type: a wrong value, too
        except (ValueError, TypeError):
            raise self._bad(name, "one of " + ", ".join(one.value for one in kind)) from None

    def addr(self, name: str) -> AddrPort | None:
        """An endpoint, or None."""
        value = self._fields.get(name)
        return None if value is None else self._addr(value, name)

    def addrs(self, name: str) -> tuple[AddrPort, ...]:
        """A list of endpoints."""
        return self.items(name, lambda value, where: self._addr(value, where))

    def _addr(self, value: object, name: str) -> AddrPort:
        try:
            return AddrPort.parse(value if isinstance(value, str) and len(value) <= 64 else "")
        except ValueError:
            raise self._bad(name, "an endpoint such as 192.0.2.1:41641 or [2001:db8::1]:41641") from None

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts."""
        return self.items(name, lambda value, where: Fields({"": value}, where).text(""))

    def items(self, name: str, read: Callable[[object, str], Item]) -> tuple[Item, ...]:
        """A list, each item read by `read(value, where)`."""
        value = self._fields.get(name)
        if value is None:
            return ()
        if not isinstance(value, list) or len(value) > MAX_ITEMS:
            raise self._bad(name, f"a list of at most {MAX_ITEMS} items")
        return tuple(read(item, f"{self.where}.{name}[{index}]") for index, item in enumerate(value))
