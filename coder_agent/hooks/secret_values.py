"""Secrets in the configuration: where they may stand, and how they never come out again.

``token = {file = "/run/secrets/token"}`` and ``token = {env = "MY_TOKEN"}`` are read when the settings are loaded; a
relative file is relative to the configuration file. Secrets end up as pydantic's SecretStr, which prints as stars.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from pydantic import BaseModel, SecretStr

from ..errors import ConfigError

STARS = "**********"


def is_secret(annotation: object) -> bool:
    """Is a field of this type a secret (SecretStr, SecretStr | None, list[SecretStr] …)?"""
    return annotation is SecretStr or any(is_secret(part) for part in get_args(annotation))


def resolve_secret(value: object, *, where: str, base: Path | None, environ: Mapping[str, str]) -> object:
    """The secret behind ``{file = …}`` or ``{env = …}``; other values as they are. Raises ConfigError."""
    if not isinstance(value, Mapping):
        return value
    if set(value) == {"env"} and isinstance(value["env"], str):
        variable = value["env"]
        if variable not in environ:
            raise ConfigError(f"{where}: the environment variable {variable} is not set")
        return environ[variable]
    if set(value) == {"file"} and isinstance(value["file"], str):
        path = (base or Path()) / Path(value["file"]).expanduser()
        try:
            return path.read_text("utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise ConfigError(f"{where}: cannot read the secret in {path}: {reason}") from error
    raise ConfigError(f'{where}: a secret is a string, {{file = "…"}} or {{env = "…"}}')


def printable(value: object) -> object:
    """`value` for the eyes of a user, as JSON types: secrets starred out, passwords in URLs too."""
    if isinstance(value, SecretStr):
        return STARS if value.get_secret_value() else ""
    if isinstance(value, BaseModel):
        return {name: printable(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        return {str(key): STARS if _names_secret(str(key)) else printable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [printable(item) for item in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return re.sub(r"(?<=://)([^/@\s:]*):[^/@\s]*@", rf"\1:{STARS}@", str(value))


def _names_secret(key: str) -> bool:
    """Header tables hold secrets under names that we do not choose: ``Authorization``, ``CF-Access-Client-Secret``."""
    return bool(re.search(r"auth|token|secret|password|cookie|key", key, re.IGNORECASE))
