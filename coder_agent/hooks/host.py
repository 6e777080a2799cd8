"""The plugins of one program run, and how they are asked.

A plugin that cannot be imported, breaks the contract, or raises when a hook is called is recorded as broken, by name,
distribution and error; the others go on. Only a plugin that the configuration requires stops the program.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, cast

import pluggy

from ..errors import CoderAgentError, PluginContractError, PluginError, PluginLoadError
from . import hookspecs
from .contract import HOOKS, check_contract
from .interfaces import CommandSpec, SettingsSpec
from .markers import PROJECT
from .records import PluginRecord, Selection, plugin_key

if TYPE_CHECKING:
    from ..base.egress import EgressPolicy
    from ..base.paths import PathPolicy
    from .commands import CommandRunner
    from .diagnostics import Diagnostic, DiagnosticsContext
    from .events import Event
    from .health import HealthCheck, HealthContext
    from .interfaces import (
        AgentService,
        Authenticator,
        CandidateSource,
        DerpMapSource,
        RelayBackend,
        ServerContext,
        TransportFactory,
    )
    from .settings import Settings
    from .web_apps import AppProxy

log = logging.getLogger(__name__)

_Implementation = tuple[str, Callable[..., object], Sequence[str]]
"""(plugin, function, names of the arguments it takes)"""


def _load(plugin: object) -> object:
    if isinstance(plugin, EntryPoint):
        return plugin.load()
    return import_module(plugin) if isinstance(plugin, str) else plugin


def _one_line(error: BaseException) -> str:
    first = str(error).strip().partition("\n")[0][:300]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _failure(hook: str, plugin: str, error: Exception) -> PluginContractError:
    failure = PluginContractError(plugin, f"plugin {plugin!r} failed in {hook}: {_one_line(error)}")
    failure.__cause__ = error
    return failure


def _clash(hook: str, plugin: str, key: Sequence[str], other: str) -> PluginContractError:
    what = " ".join(part for part in key if part)
    return PluginContractError(
        plugin,
        f"plugin {plugin!r}: {hook} offers {what!r}, which plugin {other!r} offers already",
        hint="disable one of the two",
    )


# ---------------------------------------------------------------- what makes two answers the same thing


def _by_name(item: object) -> tuple[str, ...]:
    return (str(item.name),)  # type: ignore[attr-defined]  # every collected interface has one; else: AttributeError


def _command(item: object) -> tuple[str, ...]:
    if not isinstance(item, CommandSpec):
        raise AttributeError(f"expected a CommandSpec, not {type(item).__name__}")
    return (item.program, item.group, item.name)


def _section(item: object) -> tuple[str, ...]:
    if not isinstance(item, SettingsSpec):
        raise AttributeError(f"expected a SettingsSpec, not {type(item).__name__}")
    return (item.plugin,)


def _anonymous(item: object) -> tuple[str, ...]:
    return ()  # routes have no name of their own: no two of them are the same thing


_IDENTITY: Mapping[str, Callable[[object], tuple[str, ...]]] = {
    "coder_commands": _command,
    "coder_settings": _section,
    "coder_server_routes": _anonymous,
}


@dataclass(slots=True)
class PluginHost:
    """The plugins of one program run. Hooks are asked through the typed methods at the end."""

    selection: Selection = field(default_factory=Selection)
    records: list[PluginRecord] = field(default_factory=list)
    _pm: pluggy.PluginManager = field(default_factory=lambda: pluggy.PluginManager(PROJECT))
    _muted: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._pm.add_hookspecs(hookspecs)

    # ------------------------------------------------------------ loading

    def add(self, record: PluginRecord, plugin: object) -> None:
        """Load, check and register one plugin; whatever goes wrong ends in its record."""
        other = self.record(record.name)
        self.records.append(record)
        if not record.builtin and not self.selection.allows(record.name):
            record.status = "disabled"
            return
        try:
            if other is not None and other.status != "disabled":
                raise PluginContractError(
                    record.name,
                    f"plugin {record.name!r} of {record.origin} has the name of a plugin of {other.origin}",
                    hint="uninstall one of the two",
                )
            loaded = self._guarded_load(record, plugin)
            record.hooks = check_contract(record.name, loaded)
            self._register(record, loaded)
        except PluginError as error:
            self._fail(record, error)

    def _guarded_load(self, record: PluginRecord, plugin: object) -> object:
        try:
            return _load(plugin)
        except (Exception, SystemExit) as error:  # a module may do anything at all while it is imported
            message = f"plugin {record.name!r} ({record.origin}) cannot be imported: {_one_line(error)}"
            raise PluginLoadError(record.name, message, hint=f"reinstall or disable it: {record.origin}") from error

    def _register(self, record: PluginRecord, loaded: object) -> None:
        try:
            self._pm.register(loaded, name=record.name)
        except ValueError as error:  # pluggy: this very module is registered already, under another name
            twin = self._pm.get_name(loaded) or "?"
            message = f"plugin {record.name!r} ({record.origin}) is the same module as plugin {twin!r}"
            raise PluginContractError(record.name, message, hint="remove one of the two entry points") from error
        except pluggy.PluginValidationError as error:
            message = f"plugin {record.name!r}: {_one_line(error)}"
            raise PluginContractError(record.name, message) from error

    def _fail(self, record: PluginRecord, error: PluginError) -> None:
        record.status, record.error = "broken", record.error or error
        log.debug("plugin %s is broken", record.name, exc_info=error)
        if plugin_key(record.name) in self.selection.require:
            raise error

    def check_required(self) -> None:
        """Raise for a required plugin that is not there or switched off (a broken one has raised already)."""
        for name in sorted(self.selection.require):
            record = self.record(name)
            if record is None:
                raise PluginLoadError(
                    name,
                    f"the configuration requires plugin {name!r}, which is not installed",
                    hint="install it, or take it out of [plugins] require",
                )
            if record.status == "disabled":
                message = f"the configuration requires plugin {name!r}, which is disabled"
                raise PluginLoadError(name, message, hint="`coder plugins list` shows what is")

    # ------------------------------------------------------------ looking

    def record(self, name: str) -> PluginRecord | None:
        """The record of the plugin `name`; of several claimants, the one in use."""
        claimants = [record for record in self.records if plugin_key(record.name) == plugin_key(name)]
        return next((record for record in claimants if record.status == "ok"), claimants[0] if claimants else None)

    @property
    def broken(self) -> list[PluginRecord]:
        """The plugins that a user should hear about."""
        return [record for record in self.records if record.status == "broken"]

    # ------------------------------------------------------------ asking

    def collect(self, hook: str, **arguments: object) -> list[object]:
        """Ask every plugin; their answers in one list, sorted by name, the core's before others.

        A plugin that raises, answers with something else than a list, or offers what another already offers under the
        same name is recorded as broken; that costs only the answer at fault.
        """
        identify = _IDENTITY.get(hook, _by_name)
        offered: dict[tuple[str, ...], str] = {}
        collected: list[tuple[tuple[str, ...], int, object]] = []
        for plugin, answer in self._answers(hook, arguments):
            for item in self._items(hook, plugin, answer):
                try:
                    key = identify(item)
                except AttributeError as error:
                    self._report(plugin, _failure(hook, plugin, error))
                    continue
                if key and key in offered:
                    self._report(plugin, _clash(hook, plugin, key, offered[key]))
                else:
                    offered[key] = plugin
                    collected.append((key, len(collected), item))
        return [item for _, _, item in sorted(collected, key=lambda entry: entry[:2])]

    def first(self, hook: str, **arguments: object) -> object | None:
        """Ask one plugin after the other until one does not answer None."""
        for _, answer in self._answers(hook, arguments):
            if answer is not None:
                return answer
        return None

    def emit(self, event: Event) -> None:
        """Tell the observers. One that raises is recorded as broken and not told any more."""
        for plugin, function, takes in self._implementations("coder_event"):
            if plugin in self._muted:
                continue
            try:
                function(*([event] if takes else []))
            except Exception as error:
                self._muted.add(plugin)
                log.warning("plugin %s failed on an event and hears no more: %s", plugin, _one_line(error))
                self._report(plugin, _failure("coder_event", plugin, error))

    def _implementations(self, hook: str) -> list[_Implementation]:
        """(plugin, function, argument names): the core's first, then by plugin name; `trylast` ones at the end."""
        builtin = {record.name for record in self.records if record.builtin}
        found = getattr(self._pm.hook, hook).get_hookimpls()
        found.sort(key=lambda impl: (impl.trylast, impl.plugin_name not in builtin, impl.plugin_name))
        return [(impl.plugin_name, impl.function, impl.argnames) for impl in found]

    def _answers(self, hook: str, arguments: Mapping[str, object]) -> Iterable[tuple[str, object]]:
        for plugin, function, takes in self._implementations(hook):
            try:
                answer = function(*[arguments[name] for name in takes])
            except CoderAgentError as error:
                if not isinstance(error, PluginError):
                    raise  # the plugin speaks to the user: a wrong setting, say
                self._report(plugin, error)
            except Exception as error:
                self._report(plugin, _failure(hook, plugin, error))
            else:
                yield plugin, answer

    def _items(self, hook: str, plugin: str, answer: object) -> Sequence[object]:
        if answer is None:
            return ()
        if isinstance(answer, (list, tuple)):
            return answer
        message = f"plugin {plugin!r}: {hook} returned {type(answer).__name__}, not a list"
        self._report(plugin, PluginContractError(plugin, message, hint=HOOKS[hook].signature))
        return ()

    def _report(self, plugin: str, error: PluginError) -> None:
        record = self.record(plugin)
        if record is not None:
            self._fail(record, error)

    # ------------------------------------------------------------ the hooks, typed

    def settings_specs(self) -> list[SettingsSpec]:
        """`coder_settings`."""
        return cast("list[SettingsSpec]", self.collect("coder_settings"))

    def commands(self) -> list[CommandSpec]:
        """`coder_commands`."""
        return cast("list[CommandSpec]", self.collect("coder_commands"))

    def transports(self, settings: Settings) -> list[TransportFactory]:
        """`coder_transports`."""
        return cast("list[TransportFactory]", self.collect("coder_transports", settings=settings))

    def candidate_sources(self, settings: Settings) -> list[CandidateSource]:
        """`coder_candidate_sources`."""
        return cast("list[CandidateSource]", self.collect("coder_candidate_sources", settings=settings))

    def path_policy(self, settings: Settings) -> PathPolicy | None:
        """`coder_path_policy`; None = the core's own."""
        return cast("PathPolicy | None", self.first("coder_path_policy", settings=settings))

    def egress_policy(self, settings: Settings) -> EgressPolicy | None:
        """`coder_egress_policy`; None = no policy. Raises PluginError: a wall that broke must not become a door."""
        policy = self.first("coder_egress_policy", settings=settings)
        for record in self.broken:
            if record.error is not None and ("coder_egress_policy" in record.hooks):
                raise record.error
        return cast("EgressPolicy | None", policy)

    def derp_map_sources(self, settings: Settings) -> list[DerpMapSource]:
        """`coder_derp_map_sources`."""
        return cast("list[DerpMapSource]", self.collect("coder_derp_map_sources", settings=settings))

    def relay_backends(self, settings: Settings) -> list[RelayBackend]:
        """`coder_relay_backends`."""
        return cast("list[RelayBackend]", self.collect("coder_relay_backends", settings=settings))

    def agent_services(self, settings: Settings) -> list[AgentService]:
        """`coder_agent_services`."""
        return cast("list[AgentService]", self.collect("coder_agent_services", settings=settings))

    def command_runner(self, settings: Settings) -> CommandRunner | None:
        """`coder_command_runner`; None = nobody does."""
        return cast("CommandRunner | None", self.first("coder_command_runner", settings=settings))

    def server_routes(self, context: ServerContext) -> list[object]:
        """`coder_server_routes`."""
        return self.collect("coder_server_routes", context=context)

    def app_proxies(self, settings: Settings) -> list[AppProxy]:
        """`coder_app_proxies`."""
        return cast("list[AppProxy]", self.collect("coder_app_proxies", settings=settings))

    def health_checks(self, context: HealthContext) -> list[HealthCheck]:
        """`coder_health_checks`."""
        return cast("list[HealthCheck]", self.collect("coder_health_checks", context=context))

    def diagnostics(self, context: DiagnosticsContext) -> list[Diagnostic]:
        """`coder_diagnostics`."""
        return cast("list[Diagnostic]", self.collect("coder_diagnostics", context=context))

    def authenticators(self, settings: Settings) -> list[Authenticator]:
        """`coder_authenticators`."""
        return cast("list[Authenticator]", self.collect("coder_authenticators", settings=settings))

    def coordinator_store(self, settings: Settings) -> object | None:
        """`coder_coordinator_store`; None = in memory."""
        return self.first("coder_coordinator_store", settings=settings)
