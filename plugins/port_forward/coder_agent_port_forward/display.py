"""What the user sees: a live table on a terminal, plain lines elsewhere, or JSON events, one a line.

Lines are Coder's own where it has one (coder cli/portforward.go), so scripts that wait for "Ready!" keep working.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from coder_agent.cli.output import note

from .books import Book, amount

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

COLUMNS = ("LOCAL", "WORKSPACE", "OPEN", "TOTAL", "SENT", "RECEIVED", "FAILED", "")


class Display(Protocol):
    """Told what happens."""

    def listening(self, book: Book) -> None:
        """A forward is set up."""
        ...

    def say(self, event: str, sentence: str) -> None:
        """Something worth a line: ready, lost, restored, stopping, …"""
        ...

    def trouble(self, book: Book, why: str, count: int) -> None:
        """Connections failed or were refused."""
        ...

    def tick(self, books: Sequence[Book], path: str) -> None:
        """A second went by."""
        ...

    def close(self) -> None:
        """The end."""
        ...


def describe(book: Book) -> str:
    """The line that Coder prints for a forward, and ours for what it does not have."""
    forward = book.forward
    if book.kind == "proxy":
        return f"Forwarding SOCKS5 and HTTP proxy on '{forward.local_host}:{forward.local}' through the workspace"
    if book.kind == "reverse":
        return f"Forwarding '{forward.remote_url}' in the workspace to '{forward.local_url}' on this machine"
    return f"Forwarding '{forward.local_url}' locally to '{forward.remote_url}' in the workspace"


def failure(book: Book, why: str, count: int) -> str:
    """A line about connections that failed."""
    forward = book.forward
    where = forward.remote_url if book.kind == "forward" else forward.local_url
    what = "connection" if count == 1 else f"{count} connections"
    return f"{where}: {what} failed: {why}"


class Lines:
    """Plain lines on stderr."""

    def listening(self, book: Book) -> None:
        note(describe(book))

    def say(self, event: str, sentence: str) -> None:
        note(sentence)

    def trouble(self, book: Book, why: str, count: int) -> None:
        note(failure(book, why, count))

    def tick(self, books: Sequence[Book], path: str) -> None:
        """Nothing: a log is not a screen."""

    def close(self) -> None:
        """Nothing is open."""


class JsonLines:
    """One JSON object a line on stdout. `stats` lines come while something changes."""

    def __init__(self) -> None:
        self._last: list[dict[str, object]] = []

    def listening(self, book: Book) -> None:
        self._print("listening", **book.document())

    def say(self, event: str, sentence: str) -> None:
        self._print(event, message=sentence)

    def trouble(self, book: Book, why: str, count: int) -> None:
        self._print("failed", local=book.forward.local_url, remote=book.forward.remote_url, reason=why, count=count)

    def tick(self, books: Sequence[Book], path: str) -> None:
        documents = [book.document() for book in books]
        if documents != self._last:
            self._last = documents
            self._print("stats", path=path, forwards=documents)

    def close(self) -> None:
        """Nothing is open."""

    def _print(self, event: str, **facts: object) -> None:
        print(json.dumps({"event": event, **facts}, ensure_ascii=False), flush=True)


class Screen(Lines):
    """A table at the bottom of the terminal, lines above it."""

    def __init__(self) -> None:
        self._live: Live | None = None

    def say(self, event: str, sentence: str) -> None:
        self._print(sentence)

    def trouble(self, book: Book, why: str, count: int) -> None:
        self._print(failure(book, why, count))

    def tick(self, books: Sequence[Book], path: str) -> None:
        from rich.console import Console
        from rich.live import Live

        if self._live is None:
            self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(table(books, path), refresh=True)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _print(self, sentence: str) -> None:
        if self._live is None:
            note(sentence)
        else:
            self._live.console.print(sentence, markup=False, highlight=False)


def table(books: Sequence[Book], path: str) -> Table:
    """The table, with the path under it."""
    from rich.table import Table
    from rich.text import Text

    found = Table(box=None, header_style="bold", pad_edge=False, caption=path, caption_justify="left")
    for column in COLUMNS:
        found.add_column(column, justify="right" if column in COLUMNS[2:7] else "left", overflow="fold")
    for book in books:
        found.add_row(*map(Text, row(book)))
    return found


def row(book: Book) -> list[str]:
    """One forward as cells."""
    forward = book.forward
    where = {"proxy": "any host", "reverse": f"{forward.remote_url} (reverse)"}.get(book.kind, forward.remote_url)
    trouble = book.failed + book.refused + book.dropped
    return [
        forward.local_url if book.kind != "proxy" else f"socks5://{forward.local_host}:{forward.local}",
        where,
        str(book.active),
        str(book.opened),
        f"{amount(book.sent)} ({amount(book.send_rate)}/s)",
        f"{amount(book.received)} ({amount(book.receive_rate)}/s)",
        str(trouble),
        book.last_error if trouble else "",
    ]


def choose(as_json: bool) -> Display:
    """The display for this run."""
    if as_json:
        return JsonLines()
    return Screen() if sys.stderr.isatty() else Lines()
