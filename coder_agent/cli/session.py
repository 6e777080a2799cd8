"""The login session on disk, where stock Coder keeps it: files `url` and `session` in one directory.

Layout: each file is the bare value in UTF-8, without a line end. The directory is 0700, the files 0600.
Source: coder cli/config/file.go.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError

ENV_CONFIG_DIR = "CODER_CONFIG_DIR"


@dataclass(frozen=True, slots=True)
class SessionFiles:
    """The two files under `directory`."""

    directory: Path

    @classmethod
    def locate(cls, flag: str | None, environ: Mapping[str, str]) -> SessionFiles:
        """``--global-config``, else ``CODER_CONFIG_DIR``, else ``~/.config/coderv2``."""
        named = flag or environ.get(ENV_CONFIG_DIR)
        if named:
            return cls(Path(named).expanduser())
        from platformdirs import user_config_path

        return cls(user_config_path("coderv2"))

    @property
    def url(self) -> str:
        """The server last logged in to; empty = never."""
        return self._read("url")

    @property
    def token(self) -> str:
        """The session token; empty = not logged in."""
        return self._read("session")

    def save(self, url: str, token: str) -> None:
        """Remember a login. Raises ConfigError if the directory cannot be written."""
        self._write("url", url)
        self._write("session", token)

    def forget(self) -> None:
        """Log out: the token goes, the URL stays."""
        try:
            (self.directory / "session").unlink(missing_ok=True)
        except OSError as error:
            raise self._unusable("change", error) from error

    def _read(self, name: str) -> str:
        try:
            return (self.directory / name).read_text("utf-8").strip()
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as error:
            raise self._unusable("read", error) from error

    def _write(self, name: str, value: str) -> None:
        """Write beside it and rename: a crash leaves the old file or the new one. Never readable by others."""
        temporary = self.directory / f".{name}.{os.getpid()}"
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary.unlink(missing_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(value)
            temporary.replace(self.directory / name)
        except OSError as error:
            raise self._unusable("write to", error) from error

    def _unusable(self, verb: str, error: Exception) -> ConfigError:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        hint = f"choose another directory with --global-config or {ENV_CONFIG_DIR}"
        return ConfigError(f"cannot {verb} {self.directory}: {reason}", hint=hint)
