"""What is known about plugins: which are wanted, and what became of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import PluginError

Status = Literal["ok", "disabled", "broken"]


@dataclass(slots=True)
class PluginRecord:
    """What is known about one plugin. `error` is set when it is broken; `builtin` ones belong to the core."""

    name: str
    target: str
    distribution: str = ""
    version: str = ""
    status: Status = "ok"
    error: PluginError | None = None
    hooks: tuple[str, ...] = ()
    builtin: bool = False

    @property
    def origin(self) -> str:
        """Distribution and version, for messages."""
        return f"{self.distribution} {self.version}".strip() or self.target


@dataclass(frozen=True, slots=True)
class Selection:
    """Which plugins to use. `only` None = all; `disable` wins over `only`; `require`d ones must work."""

    discover: bool = True
    disable: frozenset[str] = frozenset()
    only: frozenset[str] | None = None
    require: frozenset[str] = frozenset()

    def allows(self, name: str) -> bool:
        """May the plugin `name` be loaded?"""
        name = plugin_key(name)
        return name not in self.disable and (self.only is None or name in self.only)


def plugin_key(name: str) -> str:
    """The form in which plugin names are compared: ``transport-udp`` and ``transport_udp`` are the same."""
    return name.strip().replace("-", "_").lower()
