"""Where configuration comes from: the file, the environment, flags. Raw values with their origin; nothing is validated.

Order of strength: defaults < file < environment < flags. Of the possible files the first that exists is read, alone:
``--config``, ``CODER_CONFIG_PATH``, the user's, the machine's.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..errors import ConfigError
from .records import Selection, plugin_key

ENV_CONFIG_PATH = "CODER_CONFIG_PATH"
ENV_PLUGIN_PREFIX = "CODER_PLUGIN_"
PLUGINS_TABLE = "plugins"
SELECTION_KEYS = ("disable", "only", "require")
"""Keys of ``[plugins]`` that are not a plugin's table."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from: ``where`` is ``config.toml:12``, ``CODER_URL`` or ``--url``; empty for defaults."""

    kind: Literal["default", "file", "environment", "flag"]
    where: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.where}".strip()


DEFAULT = Origin("default")


@dataclass(frozen=True, slots=True, repr=False)  # no repr: it may be a secret
class Raw:
    """A value as it was found. `text` marks those from the environment: they still have to be split or parsed."""

    value: object
    origin: Origin
    text: bool = False


@dataclass(frozen=True, slots=True, repr=False)  # no repr: it may hold secrets
class ConfigFile:
    """The file as read; `path` None when there is none."""

    path: Path | None = None
    text: str = ""
    data: Mapping[str, object] = field(default_factory=dict)

    def table(self, *names: str) -> Mapping[str, object]:
        """The table under `names`, empty if there is none. Raises ConfigError if something else is there."""
        table: object = self.data
        for depth, name in enumerate(names, 1):
            table = table.get(name, {}) if isinstance(table, Mapping) else table
            if not isinstance(table, Mapping):
                raise ConfigError(f"{self.place(names[: depth - 1], name)}: {'.'.join(names[:depth])} must be a table")
        assert isinstance(table, Mapping)
        return table

    def origin(self, section: Iterable[str], key: str) -> Origin:
        """The origin of a key."""
        return Origin("file", self.place(section, key))

    def place(self, section: Iterable[str], key: str) -> str:
        """``path:line`` of a key, or just the path when the line cannot be told (dotted and inline tables)."""
        line = _line_of(self.text, tuple(section), key)
        return f"{self.path}:{line}" if line else str(self.path)


def _line_of(text: str, section: tuple[str, ...], key: str) -> int | None:
    """The line of ``key = …`` in ``[section]``, or of ``[section.key]``: a search, since tomllib keeps no places."""
    current: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        header = re.fullmatch(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(#.*)?", line)
        if header:
            current = tuple(part.strip().strip("\"'") for part in header[1].split("."))
            if current == (*section, key):
                return number
        elif current == section and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]", line):
            return number
    return None


def default_paths() -> list[Path]:
    """Where a configuration file is looked for when none is named."""
    from platformdirs import user_config_path

    return [user_config_path("coder-agent") / "config.toml", Path("/etc/coder-agent/config.toml")]


def read_config_file(explicit: str | None, environ: Mapping[str, str]) -> ConfigFile:
    """Read the one file that applies. Raises ConfigError if it cannot be read or parsed, or a named one is missing."""
    named = explicit or environ.get(ENV_CONFIG_PATH)
    path = Path(named).expanduser() if named else next((p for p in default_paths() if _exists(p)), None)
    if path is None:
        return ConfigFile()
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        source = "--config" if explicit else ENV_CONFIG_PATH if named else "the default place"
        raise ConfigError(f"cannot read the configuration file {path}: {reason}", hint=f"named by {source}") from error
    try:
        return ConfigFile(path, text, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def environment_of(
    environ: Mapping[str, str], plugins: Iterable[str], aliases: Iterable[tuple[str, str, str]]
) -> dict[str, dict[str, Raw]]:
    """Section → key → value from ``CODER_PLUGIN_<NAME>__<KEY>`` and from the aliases (variable, section, key).

    The general form wins over an alias. Variables of plugins that are not in `plugins` are left alone: they may belong
    to one that is not installed here.
    """
    found: dict[str, dict[str, Raw]] = {}
    for variable, section, key in aliases:
        if environ.get(variable):
            found.setdefault(section, {})[key] = Raw(environ[variable], Origin("environment", variable), text=True)
    known = {plugin_key(name): name for name in plugins}
    for variable, value in sorted(environ.items()):
        name, separator, key = variable.removeprefix(ENV_PLUGIN_PREFIX).partition("__")
        if variable.startswith(ENV_PLUGIN_PREFIX) and separator and plugin_key(name) in known:
            raw = Raw(value, Origin("environment", variable), text=True)
            found.setdefault(known[plugin_key(name)], {})[key.lower()] = raw
    return found


def parse_text(value: str) -> object:
    """A list or table from the environment: JSON, ``k=v,k2=v2``, or a comma-separated list."""
    text = value.strip()
    if text[:1] in "[{" and text:
        return json.loads(text)
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if parts and all("=" in part for part in parts):
        return dict(part.split("=", 1) for part in parts)
    return parts


# ---------------------------------------------------------------- which plugins


def read_selection(
    file: ConfigFile,
    environ: Mapping[str, str],
    *,
    disable: Iterable[str] = (),
    only: Iterable[str] = (),
    no_plugins: bool = False,
) -> Selection:
    """Which plugins to use. `disable` and `require` add up over all sources; of `only` the strongest source counts."""
    table = file.table(PLUGINS_TABLE)
    disabled = {*_names(file, table, "disable"), *_split(environ.get("CODER_PLUGINS_DISABLE", "")), *disable}
    chosen = list(only)
    if not chosen and "CODER_PLUGINS_ONLY" in environ:
        chosen = _split(environ["CODER_PLUGINS_ONLY"])
        allow_all = False
    else:
        allow_all = not chosen and "only" not in table
        chosen = chosen or _names(file, table, "only")
    return Selection(
        discover=not no_plugins,
        disable=frozenset(plugin_key(name) for name in disabled),
        only=None if allow_all else frozenset(plugin_key(name) for name in chosen),
        require=frozenset() if no_plugins else frozenset(plugin_key(n) for n in _names(file, table, "require")),
    )


def _split(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _names(file: ConfigFile, table: Mapping[str, object], key: str) -> list[str]:
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ConfigError(f"{file.place([PLUGINS_TABLE], key)}: plugins.{key} must be a list of plugin names")
    return value
