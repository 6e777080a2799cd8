"""The login session on disk, where stock Coder keeps it: files `url` and `session` in one directory.

Layout: each file is the bare value in UTF-8, without a line end. The directory is 0700, the files 0600.
Source: coder cli/config/file.go.

With ``--use-keyring`` the token is in the system's keyring instead of the file `session`, and a file `session.keyring`,
which holds a line for people and nothing secret, says so: later commands find it without being told.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError
from .output import note

ENV_CONFIG_DIR = "CODER_CONFIG_DIR"
MARKER = "session.keyring"
MARKER_TEXT = "The session token of this directory is in the system's keyring."


@dataclass(frozen=True, slots=True)
class SessionFiles:
    """The two files under `directory`. `use_keyring`: what the user said; None = as at the last login."""

    directory: Path
    use_keyring: bool | None = None

    @classmethod
    def locate(cls, flag: str | None, environ: Mapping[str, str], *, use_keyring: bool | None = None) -> SessionFiles:
        """``--global-config``, else ``CODER_CONFIG_DIR``, else ``~/.config/coderv2``."""
        named = flag or environ.get(ENV_CONFIG_DIR)
        if named:
            return cls(Path(named).expanduser(), use_keyring)
        from platformdirs import user_config_path

        return cls(user_config_path("coderv2"), use_keyring)

    @property
    def url(self) -> str:
        """The server last logged in to; empty = never."""
        return self._read("url")

    @property
    def token(self) -> str:
        """The session token; empty = not logged in. Raises ConfigError if the keyring that has it cannot be read."""
        if self.use_keyring is False or not self._in_keyring:
            return self._read("session")
        from .keyring_entry import load

        return load(self.directory)

    def save(self, url: str, token: str) -> None:
        """Remember a login. Without a keyring that works, in the file, and the user is told.

        Raises ConfigError if the directory cannot be written.
        """
        self._write("url", url)
        if self._kept_in_keyring(token):
            self._write(MARKER, MARKER_TEXT)
            self._unlink("session")
            return
        self._write("session", token)
        self._leave_keyring()

    def forget(self) -> None:
        """Log out: the token goes, the URL stays."""
        self._unlink("session")
        self._leave_keyring()

    @property
    def _in_keyring(self) -> bool:
        return (self.directory / MARKER).exists()

    def _kept_in_keyring(self, token: str) -> bool:
        if not (self._in_keyring if self.use_keyring is None else self.use_keyring):
            return False
        from .keyring_entry import NoKeyring, store

        try:
            store(self.directory, token)
        except NoKeyring as why:
            note(f"No keyring: {why}. The session is kept in the file {self.directory / 'session'} instead.")
            return False
        return True

    def _leave_keyring(self) -> None:
        """Take the token out of the keyring if it is there; a keyring that is gone is no reason to stay logged in."""
        if not self._in_keyring:
            return
        from .keyring_entry import NoKeyring, remove

        try:
            remove(self.directory)
        except (NoKeyring, ConfigError) as why:
            note(f"The old session could not be taken out of the keyring: {why}")
        self._unlink(MARKER)

    def _unlink(self, name: str) -> None:
        try:
            (self.directory / name).unlink(missing_ok=True)
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
