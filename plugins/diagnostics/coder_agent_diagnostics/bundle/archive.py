"""The bundle as a file: written whole or not at all, for its maker alone to read."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from coder_agent.errors import ConfigError

from .collect import Collected


def write_archive(path: Path, files: Sequence[Collected]) -> int:
    """Write `files` to a zip at `path`, which appears when it is complete. Returns its size in bytes.

    Raises ConfigError (no such folder, disk full, not allowed); then there is no file.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                for one in files:
                    archive.writestr(one.name, one.text)
            file.flush()
            os.fsync(file.fileno())
        size = unfinished.stat().st_size
        unfinished.replace(path)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink()
        reason = error.strerror or str(error)
        raise ConfigError(f"cannot write {path}: {reason}", hint="choose another place with --output-file") from error
    return size
