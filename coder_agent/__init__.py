"""Coder's networking in Python.

    async with coder_agent.connect("dev") as workspace:
        stream = await workspace.open_tcp(8080)

Rooms: `base` values · `protocols` wire formats and state machines · `magicsock` path choice · `coordination` who may
see whom · `hooks` the doorway for plugins · `runtime` tasks and sockets · `node`, `agent`, `client` composition roots ·
`cli` commands · `testing` tools for plugin authors. ARCHITECTURE.md tells the life of a packet.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import connect as connect
    from .client import Workspace as Workspace
    from .hooks.markers import hookimpl as hookimpl
    from .mounting import listen as listen

__version__ = "0.1.0"

_LAZY = {
    "connect": ".api",
    "Workspace": ".client",
    "hookimpl": ".hooks.markers",
    "listen": ".mounting",
    "blocking": ".blocking",
}


def __getattr__(name: str) -> Any:
    """Public names are imported when used: `coder --help` needs none of them."""
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    loaded = importlib.import_module(module, __name__)
    return loaded if name == "blocking" else getattr(loaded, name)
