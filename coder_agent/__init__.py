"""Coder's networking in Python.

    async with coder_agent.connect("dev") as workspace:
        stream = await workspace.open_tcp(8080)

Rooms: `base` values · `protocols` wire formats and state machines · `magicsock` path choice · `coordination` who may
see whom · `hooks` the doorway for plugins · `runtime` tasks and sockets · `node`, `agent`, `client` composition roots ·
`cli` commands · `testing` tools for plugin authors. ARCHITECTURE.md tells the life of a packet.

`__all__` below is what is kept stable (docs/python.md), beside `coder_agent.errors`, `coder_agent.asgi`,
`coder_agent.blocking` and, for plugins, `coder_agent.hooks`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import asgi as asgi
    from . import blocking as blocking
    from . import errors as errors
    from .api import connect as connect
    from .client import Workspace as Workspace
    from .errors import CoderAgentError as CoderAgentError
    from .forwarding import Forward as Forward
    from .forwarding_udp import UdpForward as UdpForward
    from .hooks.commands import RunningCommand as RunningCommand
    from .hooks.events import ControlChanged as ControlChanged
    from .hooks.events import PathChanged as PathChanged
    from .hooks.events import PathExplained as PathExplained
    from .hooks.events import PeerChanged as PeerChanged
    from .hooks.events import RelayChanged as RelayChanged
    from .hooks.markers import hookimpl as hookimpl
    from .mounting import listen as listen
    from .observing import Events as Events
    from .remote_commands import Completed as Completed

__version__ = "0.1.0"

_LAZY = {
    # getting there
    "connect": ".api",
    "Workspace": ".client",
    "blocking": "",
    # what a workspace hands out
    "Forward": ".forwarding",
    "UdpForward": ".forwarding_udp",
    "RunningCommand": ".hooks.commands",
    "Completed": ".remote_commands",
    "Events": ".observing",
    # what it tells
    "PathChanged": ".hooks.events",
    "PathExplained": ".hooks.events",
    "PeerChanged": ".hooks.events",
    "RelayChanged": ".hooks.events",
    "ControlChanged": ".hooks.events",
    # in the workspace
    "listen": ".mounting",
    "asgi": "",
    # errors, plugins
    "errors": "",
    "CoderAgentError": ".errors",
    "hookimpl": ".hooks.markers",
}
"""Public names and the module each is in; "" = a module itself."""

__all__ = ["__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    """Public names are imported when used: `coder --help` needs none of them."""
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if not module:
        return importlib.import_module(f".{name}", __name__)
    return getattr(importlib.import_module(module, __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
