"""Passwords: argon2id, off the event loop, equally slow whether or not the account exists."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio
from pwdlib import PasswordHash

T = TypeVar("T")

MIN_LENGTH = 8
MAX_LENGTH = 256
"""Long enough for any passphrase; a bound, because hashing costs time in proportion."""


class Passwords:
    """Hashes and checks passwords, at most two at a time: each takes 64 MiB and a core."""

    def __init__(self, hasher: PasswordHash | None = None) -> None:
        self._hasher = hasher or PasswordHash.recommended()
        self._limiter: anyio.CapacityLimiter | None = None
        self._nobody: str | None = None

    async def hash(self, password: str) -> str:
        """The text to store."""
        return await self._run(self._hasher.hash, password)

    async def verify(self, password: str, stored: str | None) -> bool:
        """Is `password` the one behind `stored`? None = no such account: takes as long and answers False."""
        if len(password) > MAX_LENGTH:
            return False
        if stored is None:
            if self._nobody is None:
                self._nobody = await self.hash("nobody's password")
            await self._run(self._hasher.verify, password, self._nobody)
            return False
        return await self._run(self._hasher.verify, password, stored)

    async def _run(self, function: Callable[[str, str], T] | Callable[[str], T], *texts: str) -> T:
        if self._limiter is None:  # made inside a running loop
            self._limiter = anyio.CapacityLimiter(2)
        return await anyio.to_thread.run_sync(lambda: function(*texts), limiter=self._limiter)


def password_fault(password: str) -> str | None:
    """What is wrong with a new password, in a sentence; None when nothing is."""
    if len(password) < MIN_LENGTH:
        return f"A password has at least {MIN_LENGTH} characters."
    if len(password) > MAX_LENGTH:
        return f"A password has at most {MAX_LENGTH} characters."
    if len(set(password)) < 4:
        return "A password needs more than three different characters."
    return None
