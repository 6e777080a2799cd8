"""What the forwards need of a workspace and of the user: small seams, so that tests can stand in for both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address

from coder_agent.node import TailnetNode

from .books import Book
from .gate import Gate


@dataclass(slots=True)
class Target:
    """Where forwards lead. `trouble(book, why, count)` tells the user of failures, `count` of them at once."""

    node: TailnetNode
    address: IPv6Address
    gate: Gate
    trouble: Callable[[Book, str, int], None]

    def failed(self, book: Book, why: str) -> None:
        """The workspace refused a connection, or did not answer."""
        if (count := book.fail(why, self.node.engine.now())) is not None:
            self.trouble(book, why, count)

    def refused(self, book: Book, why: str) -> None:
        """A limit of ours refused it."""
        if (count := book.refuse(why, self.node.engine.now())) is not None:
            self.trouble(book, why, count)
