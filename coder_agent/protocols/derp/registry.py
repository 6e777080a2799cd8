"""A relay's routing table: which connection receives the packets for a key.

A key may be connected more than once (a client that roamed and whose old connection is not yet known to be dead, or two
machines with the same key). All stay open; the one that *sent* last receives: the living one of a roaming pair wins at
once, and two fighting machines each get what follows their own packets.

Source: tailscale derp/derpserver/derpserver.go, dupPolicy lastWriterIsActive @de9ec7ee
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

Session = TypeVar("Session")


class _Holders(Generic[Session]):
    """Connections of one key, the last writer at the end; `watchers` want to hear when the last one goes."""

    __slots__ = ("sessions", "watchers")

    def __init__(self) -> None:
        self.sessions: list[Session] = []
        self.watchers: set[Session] = set()


class Registry(Generic[Session]):
    """Sessions by key."""

    def __init__(self) -> None:
        self._holders: dict[bytes, _Holders[Session]] = {}
        self._active: dict[bytes, Session] = {}
        self.duplicates = 0
        """Keys that are connected more than once at the moment."""

    def __len__(self) -> int:
        return len(self._active)

    def active(self, key: bytes) -> Session | None:
        """The connection that receives what is sent to `key`."""
        return self._active.get(key)

    def all(self, key: bytes) -> list[Session]:
        """Every connection of `key`."""
        holders = self._holders.get(key)
        return list(holders.sessions) if holders else []

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._active)

    def add(self, key: bytes, session: Session) -> None:
        """A new connection; it becomes the active one."""
        holders = self._holders.setdefault(key, _Holders())
        holders.sessions.append(session)
        self._active[key] = session
        if len(holders.sessions) == 2:
            self.duplicates += 1

    def touch(self, key: bytes, session: Session) -> None:
        """`session` sent something: if its key has duplicates, it is the active one now."""
        if self._active.get(key) is session:
            return
        holders = self._holders.get(key)
        if holders is not None and session in holders.sessions:
            holders.sessions.remove(session)
            holders.sessions.append(session)
            self._active[key] = session

    def watch(self, key: bytes, watcher: Session) -> None:
        """`watcher` got its first packet from `key`: it will be in what `remove` answers."""
        holders = self._holders.get(key)
        if holders is not None:
            holders.watchers.add(watcher)

    def unwatch(self, key: bytes, watcher: Session) -> None:
        """`watcher` itself is going."""
        holders = self._holders.get(key)
        if holders is not None:
            holders.watchers.discard(watcher)

    def remove(self, key: bytes, session: Session) -> set[Session] | None:
        """A connection is gone. None: another of its key stays (the most recent writer takes over). Otherwise the key
        is gone too, and the answer is who wants to know.
        """
        holders = self._holders.get(key)
        if holders is None or session not in holders.sessions:
            return None
        holders.sessions.remove(session)
        if len(holders.sessions) == 1:
            self.duplicates -= 1
        if holders.sessions:
            self._active[key] = holders.sessions[-1]
            return None
        del self._holders[key], self._active[key]
        return holders.watchers
