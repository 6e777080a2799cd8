"""Ports of the workspace that no TCP socket stands behind: a program on the same machine offers one by a Unix socket.

    FOLDER/8123.sock            connections to port 8123 inside the tunnel come here

FOLDER is ``ports`` in the user's state folder (CODER_AGENT_PORTS_DIR names another one). Agent and program must be the
same user: the agent follows a socket only in a folder that nobody else can write to.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

ENVIRON = "CODER_AGENT_PORTS_DIR"
MAX_PATH = 100
"""Bytes of a Unix socket's path; systems allow 104 (macOS) or 108 (Linux, unix(7)) with its final zero."""


def mounts_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the sockets are."""
    if chosen := environ.get(ENVIRON):
        return Path(chosen)
    from platformdirs import user_state_path

    return user_state_path("coder-agent") / "ports"


def socket_of(folder: Path, port: int) -> Path:
    """The socket behind a port."""
    return folder / f"{port}.sock"


class Mounts:
    """What the agent asks for each connection: is there a socket behind this port?"""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = mounts_folder() if folder is None else folder

    def __call__(self, port: int) -> str | None:
        """The socket's path, or None."""
        try:
            found = os.lstat(socket_of(self._folder, port))
        except OSError:
            return None
        return str(socket_of(self._folder, port)) if stat.S_ISSOCK(found.st_mode) and self._is_ours() else None

    def _is_ours(self) -> bool:
        try:
            folder = os.lstat(self._folder)
        except OSError:
            return False
        return stat.S_ISDIR(folder.st_mode) and folder.st_uid == os.geteuid() and not folder.st_mode & 0o022


def no_mounts(port: int) -> str | None:
    """There are none."""
    return None
