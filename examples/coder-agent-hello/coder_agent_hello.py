"""A whole plugin in one file: ``coder hello NAME``, and a line on stderr whenever the way to a workspace changes.

docs/plugins.md builds it up step by step.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence

from coder_agent.hooks import CommandSpec, Event, PathChanged, hookimpl

changes: Counter[str] = Counter()
"""How often the path changed to each kind, since the program started."""


@hookimpl
def coder_commands() -> Sequence[CommandSpec]:
    """Add `coder hello`."""
    return [CommandSpec("hello", "Greet somebody.", "coder_agent_hello:hello")]


@hookimpl
def coder_event(event: Event) -> None:
    """Count path changes, and say how a peer is reached now."""
    if isinstance(event, PathChanged):
        changes[event.kind.value] += 1
        print(f"hello: {event.peer.short} is now reached {event.kind.value}: {event.path}", file=sys.stderr)


def hello(name: str = "workspace") -> None:
    """Greet somebody."""
    print(f"Hello, {name}!")
