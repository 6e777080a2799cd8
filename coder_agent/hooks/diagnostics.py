"""What a support bundle is made of: the seam of `coder_diagnostics`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from .settings import Settings


class DiagnosticsContext(Protocol):
    """What `coder support bundle` hands to `coder_diagnostics`."""

    @property
    def settings(self) -> Settings:
        """The effective configuration."""
        ...

    @property
    def access_url(self) -> str:
        """The coder server, without a trailing slash."""
        ...

    async def get(self, path: str) -> Any:
        """A document of the server's API (``/api/v2/…``), as the user who makes the bundle. Raises CoderAgentError."""
        ...


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One file of a support bundle.

    `name` is its place in the bundle, such as ``network/netcheck.json``; `about` says in a few words what it holds.
    `collect` looks, now, and returns a text, or a value for JSON. It is given up after 30 s; what it raises stands in
    the file's place. Secrets that can be recognised are starred out of what it returns; do not rely on it alone.
    """

    name: str
    about: str
    collect: Callable[[], Awaitable[object]]
