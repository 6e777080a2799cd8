"""What goes on for long under one key (a control connection, a terminal) ends when the key is revoked."""

from __future__ import annotations

from collections.abc import Callable, Iterable

Close = Callable[[str], None]


class Revocations:
    """Who is to be told about which key. `close` functions must not wait."""

    def __init__(self) -> None:
        self._watched: dict[str, dict[int, Close]] = {}
        self._next = 0

    def watch(self, key_id: str, close: Close) -> Callable[[], None]:
        """Call `close` with the reason when this key is revoked. Returns the call that ends the watch."""
        number, self._next = self._next, self._next + 1
        self._watched.setdefault(key_id, {})[number] = close

        def forget() -> None:
            watchers = self._watched.get(key_id, {})
            watchers.pop(number, None)
            if not watchers:
                self._watched.pop(key_id, None)

        return forget

    def revoked(self, key_ids: Iterable[str], reason: str = "the session was ended") -> None:
        """These keys are worth nothing any more."""
        for key_id in key_ids:
            for close in list(self._watched.pop(key_id, {}).values()):
                close(reason)
