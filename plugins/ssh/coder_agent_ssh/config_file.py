"""Replacing an ssh_config without losing a byte of it, whatever happens in between."""

from __future__ import annotations

import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from coder_agent.errors import ConfigError

BACKUP_SUFFIX = ".coder-backup"
MAX_BYTES = 16 << 20
"""A larger file is no ssh_config."""


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A file as it was when we looked. `path` is where it really is, behind all symbolic links."""

    path: Path
    content: bytes
    mode: int
    exists: bool

    @classmethod
    def read(cls, named: Path) -> ConfigFile:
        """Raises ConfigError if there is something that cannot be read."""
        path = Path(os.path.realpath(named.expanduser()))
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
                    raise ConfigError(f"{path} is no file of ssh's", hint="choose another with --ssh-config-file")
                return cls(path, file.read(), stat.S_IMODE(status.st_mode), True)
        except FileNotFoundError:
            return cls(path, b"", 0o600, False)
        except OSError as exc:
            raise ConfigError(
                f"cannot read {path}: {exc.strerror}", hint="choose another with --ssh-config-file"
            ) from exc

    @property
    def backup(self) -> Path:
        """Where the file as it was is kept."""
        return self.path.with_name(self.path.name + BACKUP_SUFFIX)

    def replace(self, content: bytes) -> None:
        """Write the new file beside the old one and rename it; the old one's copy stays as `backup`.

        Raises ConfigError: cannot be written, or somebody changed it meanwhile.
        """
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.exists:
                _write(self.backup, self.content, 0o600, self.path)
            if ConfigFile.read(self.path).content != self.content:
                raise ConfigError(f"{self.path} was changed meanwhile", hint="nothing was written; try again")
            _write(self.path, content, self.mode, self.path if self.exists else None)
        except OSError as exc:
            raise ConfigError(
                f"cannot write {exc.filename or self.path}: {exc.strerror}", hint="nothing was changed"
            ) from exc


def _write(path: Path, content: bytes, mode: int, like: Path | None) -> None:
    """All or nothing. `like`: a file whose owner it shall have (root may edit another user's). Raises OSError."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
            if like is not None and os.getuid() == 0:
                status = like.stat()
                os.fchown(file.fileno(), status.st_uid, status.st_gid)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
