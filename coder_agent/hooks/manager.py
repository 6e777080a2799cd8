"""Find plugins, load each in its own guard, and hand back the host that asks them (host.py).

The result is a value, not a global: a test builds its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import EntryPoint, entry_points

from .host import PluginHost
from .markers import PROJECT
from .records import PluginRecord, Selection, plugin_key

__all__ = ["PluginHost", "PluginRecord", "Selection", "build_plugin_manager"]


def _keys(names: Iterable[str]) -> frozenset[str]:
    return frozenset(plugin_key(name) for name in names if name.strip())


def build_plugin_manager(
    *,
    discover: bool = True,
    disable: Iterable[str] = (),
    only: Iterable[str] | None = None,
    require: Iterable[str] = (),
    builtin: Sequence[tuple[str, object]] = (),
    extra: Sequence[tuple[str, object]] = (),
) -> PluginHost:
    """Load plugins: `builtin` always, then `extra` and (with `discover`) every entry point, as far as selected.

    `builtin` and `extra` are pairs of a name and a module, an object, or a dotted module name to import.
    Raises PluginError only for a plugin named in `require` that is missing, disabled or broken.
    """
    selection = Selection(discover, _keys(disable), None if only is None else _keys(only), _keys(require))
    host = PluginHost(selection)
    for name, plugin in builtin:
        host.add(PluginRecord(name, _target_of(plugin), builtin=True), plugin)
    for name, plugin in extra:
        host.add(PluginRecord(name, _target_of(plugin)), plugin)
    for record, entry_point in _discovered() if discover else ():
        host.add(record, entry_point)
    host.check_required()
    return host


def _target_of(plugin: object) -> str:
    return plugin if isinstance(plugin, str) else getattr(plugin, "__name__", type(plugin).__qualname__)


def _discovered() -> list[tuple[PluginRecord, EntryPoint]]:
    """Entry points of the group, by name: the order of sys.path must not matter."""
    found = []
    for entry_point in entry_points(group=PROJECT):
        distribution = entry_point.dist
        record = PluginRecord(
            entry_point.name,
            entry_point.value,
            distribution=distribution.name if distribution else "",
            version=distribution.version if distribution else "",
        )
        # Made anew: once somebody has imported the backport importlib_metadata (keyring does), the standard library's
        # function answers with that one's objects.
        found.append((record, EntryPoint(entry_point.name, entry_point.value, entry_point.group)))
    return sorted(found, key=lambda pair: (pair[0].name, pair[0].distribution))
