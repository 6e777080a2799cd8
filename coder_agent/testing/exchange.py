"""Bulk data both ways between two foreign programs, with checksums: curl and an HTTP server.

files = FileExchange(tmp_path, 64 << 20)
with files.serve("127.0.0.1") as port:
    files.both_ways(f"127.0.0.1:{port}")
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from .netns import Host
from .processes import run_program

TIMEOUT = 60.0
"""Seconds for one transfer."""


class FileExchange:
    """A directory with a file of `size` random bytes, to be fetched and put back."""

    def __init__(self, directory: Path, size: int) -> None:
        self.directory = directory
        self.size = size
        directory.mkdir(exist_ok=True)
        (directory / "down").write_bytes(os.urandom(size))
        self._sum = _sha256(directory / "down")

    def serve(self, address: str = "127.0.0.1", port: int = 0, host: Host | None = None) -> AbstractContextManager[int]:
        """Serve the directory at `address` (of a namespace, if given); yields the port."""
        return serve_directory(self.directory, address, port, host)

    def both_ways(self, address: str, host: Host | None = None) -> tuple[float, float]:
        """The file down from, and up to, the server that `address` (``host:port``) leads to.

        Returns Mbit/s for both, which are also printed. Raises AssertionError if a transfer fails or changes a bit.
        """
        source, url = str(self.directory / "down"), f"http://{address}"
        down = self._transfer("got", host, "-o", str(self.directory / "got"), f"{url}/down")
        up = self._transfer("put", host, "-T", source, f"{url}/put")
        print(f"{self.size >> 20} MiB from {address}: down {down:.0f} Mbit/s, up {up:.0f} Mbit/s")
        return down, up

    def assert_same(self, name: str) -> None:
        """Fail unless a file of the directory is what ``down`` is."""
        arrived = self.directory / name
        assert _sha256(arrived) == self._sum, f"{arrived.stat().st_size} of {self.size} bytes, or changed ones"

    def _transfer(self, name: str, host: Host | None, *options: str) -> float:
        where = [] if host is None else ["ip", "netns", "exec", host.name]
        command = [*where, "curl", "-sS", "--fail", "-w", "%{time_total}\n", *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT)
        assert done.returncode == 0, f"curl: exit {done.returncode}: {done.stderr}"
        self.assert_same(name)
        (self.directory / name).unlink()
        return self.size * 8e-6 / max(float(done.stdout.splitlines()[-1]), 1e-6)


@contextmanager
def serve_directory(
    directory: Path, address: str = "127.0.0.1", port: int = 0, host: Host | None = None
) -> Iterator[int]:
    """A directory by HTTP, from a process of its own; yields the port."""
    module = f"{__package__}.files_http"
    with run_program(sys.executable, "-m", module, address, str(port), str(directory), host=host) as server:
        yield int(server.wait_for(r"serving on port (\d+)")[1])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
