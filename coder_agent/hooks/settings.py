"""The effective configuration: every section validated by its owner's model, every value with its origin.

    settings = load_settings(host, file=read_config_file(None, os.environ), environ=os.environ)
    udp = settings.section("transport_udp", UdpSettings)

The core owns ``[client]``, ``[agent]`` and ``[network]`` (core_settings.py); each plugin owns ``[plugins.NAME]``. An
unknown key is refused, with its place and the nearest valid key: a misspelt setting must not be silently ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from ..errors import ConfigError, PluginContractError
from .core_settings import CORE_SECTIONS, AgentSettings, ClientSettings, NetworkSettings
from .egress import OPEN, Egress
from .records import plugin_key
from .secret_values import is_secret, printable, resolve_secret
from .sources import (
    DEFAULT,
    PLUGINS_TABLE,
    SELECTION_KEYS,
    ConfigFile,
    Origin,
    Raw,
    environment_of,
    parse_text,
)

if TYPE_CHECKING:
    from .host import PluginHost

__all__ = [
    "AgentSettings",
    "ClientSettings",
    "ConfigFile",
    "NetworkSettings",
    "Settings",
    "SettingRow",
    "load_settings",
]

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One line of `coder config show`: the value is safe to print."""

    section: str
    key: str
    value: object
    origin: Origin


@dataclass(frozen=True, slots=True, repr=False)  # no repr: raw values may be secrets
class Settings:
    """The effective configuration. Immutable; `with_flags` makes a stronger copy."""

    _models: Mapping[str, type[BaseModel]] = field(default_factory=lambda: dict(CORE_SECTIONS))
    _raw: Mapping[str, Mapping[str, Raw]] = field(default_factory=dict)
    _base: Path | None = None
    _environ: Mapping[str, str] = field(default_factory=dict)
    _loaded: dict[str, BaseModel] = field(default_factory=dict)
    _host: PluginHost | None = None
    _egress: list[Egress] = field(default_factory=list)

    def section(self, name: str, model: type[Model]) -> Model:
        """The section `name` (a plugin's name, or client, agent, network) as its owner's model.

        A section that nobody declared has its defaults: a plugin without `coder_settings` needs no special case.
        Raises ConfigError for a wrong value, PluginContractError if the section belongs to another model.
        """
        owner = self._models.get(name)
        if owner is None:
            return model()
        if not issubclass(owner, model):
            message = f"the section {name!r} is a {owner.__name__}, not a {model.__name__}"
            raise PluginContractError(name, message)
        loaded = self._loaded.get(name)
        if loaded is None:
            loaded = self._loaded[name] = self._validate(name, owner)
            if isinstance(loaded, NetworkSettings):
                loaded.bind_egress(lambda: self.egress)
        assert isinstance(loaded, model)
        return loaded

    @property
    def client(self) -> ClientSettings:
        """``[client]``."""
        return self.section("client", ClientSettings)

    @property
    def agent(self) -> AgentSettings:
        """``[agent]``."""
        return self.section("agent", AgentSettings)

    @property
    def network(self) -> NetworkSettings:
        """``[network]``."""
        return self.section("network", NetworkSettings)

    @property
    def egress(self) -> Egress:
        """What these settings let the program talk to; the same object every time. Raises PluginError, ConfigError."""
        if not self._egress:
            policy = self._host.egress_policy(self) if self._host is not None else None
            self._egress.append(OPEN if policy is None or self._host is None else Egress(policy, self._host.emit))
        return self._egress[0]

    def with_flags(self, section: str, values: Mapping[str, object]) -> Settings:
        """A copy in which the flags given (those that are not None) win. ``http_address`` is ``--http-address``."""
        flags = {
            key: Raw(value, Origin("flag", f"--{key.replace('_', '-')}"))
            for key, value in values.items()
            if value is not None
        }
        raw = {**self._raw, section: {**self._raw.get(section, {}), **flags}}
        copy = Settings(self._models, raw, self._base, self._environ, _host=self._host)
        copy.check()
        return copy

    def check(self) -> None:
        """Validate every section that says anything. Raises ConfigError."""
        for name in self._raw:
            if name in self._models:
                self.section(name, self._models[name])

    def rows(self) -> list[SettingRow]:
        """Everything, for `coder config show`: core sections first, then plugins by name."""
        rows = []
        for name in [*CORE_SECTIONS, *sorted(set(self._models) - set(CORE_SECTIONS))]:
            section = self.section(name, self._models[name])
            for key in type(section).model_fields:
                raw = self._raw.get(name, {}).get(key)
                rows.append(
                    SettingRow(_title(name), key, printable(getattr(section, key)), raw.origin if raw else DEFAULT)
                )
        return rows

    # ------------------------------------------------------------ one section

    def _validate(self, name: str, model: type[BaseModel]) -> BaseModel:
        values = {}
        for key, raw in self._raw.get(name, {}).items():
            _check_key(model, (_title(name),), key, raw)
            values[key] = self._value(model, name, key, raw)
        try:
            return model.model_validate(values)
        except ValidationError as error:
            raise self._explain(name, error) from error

    def _value(self, model: type[BaseModel], section: str, key: str, raw: Raw) -> object:
        annotation = model.model_fields[key].annotation
        if is_secret(annotation):
            where = f"{raw.origin}: {_title(section)}.{key}"
            return resolve_secret(raw.value, where=where, base=self._base, environ=self._environ)
        if raw.text and isinstance(raw.value, str) and _is_compound(annotation):
            try:
                return parse_text(raw.value)
            except ValueError as error:
                raise ConfigError(f"{raw.origin}: {_title(section)}.{key} is not valid JSON") from error
        return raw.value

    def _explain(self, section: str, error: ValidationError) -> ConfigError:
        """The first complaint; the value itself is not repeated, it may be a secret."""
        first = error.errors(include_input=False, include_url=False)[0]
        path = [str(part) for part in first["loc"]]
        raw = self._raw.get(section, {}).get(path[0]) if path else None
        key = ".".join([_title(section), *path])
        message = str(first["msg"]).removeprefix("Value error, ")
        return ConfigError(f"{raw.origin if raw else 'configuration'}: {key}: {message[:1].lower()}{message[1:]}")


def _title(section: str) -> str:
    return section if section in CORE_SECTIONS else f"{PLUGINS_TABLE}.{section}"


def _is_compound(annotation: object) -> bool:
    """Does the field hold a list, set, tuple, dict or model (possibly optional)?"""
    origin = get_origin(annotation) or annotation
    if isinstance(origin, type):
        return issubclass(origin, (list, tuple, set, frozenset, dict, BaseModel))
    return any(_is_compound(part) for part in get_args(annotation))


def _check_key(model: type[BaseModel], path: tuple[str, ...], key: str, raw: Raw) -> None:
    """Refuse an unknown key, here or in a model further down."""
    if key not in model.model_fields:
        near = get_close_matches(key, model.model_fields, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(model.model_fields))}"
        raise ConfigError(f"{raw.origin}: {'.'.join(path)} has no key {key!r}", hint=hint)
    inner = model.model_fields[key].annotation
    if isinstance(inner, type) and issubclass(inner, BaseModel) and isinstance(raw.value, Mapping):
        for name, value in raw.value.items():
            _check_key(inner, (*path, key), str(name), Raw(value, raw.origin))


# ---------------------------------------------------------------- loading


def load_settings(
    host: PluginHost,
    *,
    file: ConfigFile | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Mapping[str, object]] | None = None,
) -> Settings:
    """Gather what the plugins of `host` declare, read every source, validate. Raises ConfigError, PluginError."""
    file, environ = file or ConfigFile(), environ or {}
    models = dict(CORE_SECTIONS)
    for spec in host.settings_specs():
        model = _import_model(spec.plugin, spec.target)
        models[spec.plugin] = model
    raw = _from_file(host, file, models)
    plugins = [name for name in models if name not in CORE_SECTIONS]
    for section, values in environment_of(environ, plugins, _aliases(models)).items():
        raw.setdefault(section, {}).update(values)
    settings = Settings(models, raw, file.path.parent if file.path else None, environ, _host=host)
    for section, given in (flags or {}).items():
        settings = settings.with_flags(section, given)
    settings.check()
    return settings


def _import_model(plugin: str, target: str) -> type[BaseModel]:
    module, _, name = target.partition(":")
    try:
        model = getattr(import_module(module), name)
    except Exception as error:
        message = f"plugin {plugin!r}: its settings {target} cannot be imported: {type(error).__name__}: {error}"
        raise PluginContractError(plugin, message, hint="disable or reinstall the plugin") from error
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise PluginContractError(plugin, f"plugin {plugin!r}: {target} is not a pydantic model")
    return model


def _aliases(models: Mapping[str, type[BaseModel]]) -> list[tuple[str, str, str]]:
    """Environment variables that fields name for themselves, as (variable, section, key); two fields may share one."""
    found = []
    for section, model in models.items():
        for key, info in model.model_fields.items():
            extra = info.json_schema_extra
            names = extra.get("env", ()) if isinstance(extra, dict) else ()
            for variable in [names] if isinstance(names, str) else names if isinstance(names, (list, tuple)) else ():
                found.append((str(variable), section, key))
    return found


def _from_file(host: PluginHost, file: ConfigFile, models: Mapping[str, type[BaseModel]]) -> dict[str, dict[str, Raw]]:
    raw: dict[str, dict[str, Raw]] = {}
    for name in file.data:
        if name == PLUGINS_TABLE:
            continue
        if name not in CORE_SECTIONS:
            raise _unknown_section(file, (), name, [*CORE_SECTIONS, PLUGINS_TABLE])
        raw[name] = _section(file, (name,))
    by_key = {plugin_key(name): name for name in models if name not in CORE_SECTIONS}
    for name, value in file.table(PLUGINS_TABLE).items():
        if name in SELECTION_KEYS and not isinstance(value, Mapping):
            continue
        section = by_key.get(plugin_key(name))
        if section is not None:
            raw[section] = _section(file, (PLUGINS_TABLE, name))
        elif not _may_be_ignored(host, name):
            candidates = [*by_key.values(), *SELECTION_KEYS]
            raise _unknown_section(file, (PLUGINS_TABLE,), name, candidates)
    return raw


def _section(file: ConfigFile, path: Sequence[str]) -> dict[str, Raw]:
    return {str(key): Raw(value, file.origin(path, key)) for key, value in file.table(*path).items()}


def _may_be_ignored(host: PluginHost, name: str) -> bool:
    """Sections of plugins that are not loaded cannot be checked: disabled, broken, or --no-plugins."""
    record = host.record(name)
    return not host.selection.allows(name) or (record.status != "ok" if record else not host.selection.discover)


def _unknown_section(file: ConfigFile, path: tuple[str, ...], name: str, known: Sequence[str]) -> ConfigError:
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    title = ".".join([*path, name])
    what = f"no plugin with settings is called {name!r}" if path else f"{name!r} is not a section"
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    return ConfigError(f"{file.place(path, name)}: [{title}]: {what}", hint=hint)
