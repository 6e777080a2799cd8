"""`--network-info-dir`: a file per ssh process from which editors show how good the connection is.

Source: coder cli/ssh.go (collectNetworkStats, sshNetworkStats): ``<pid of ssh>.json``, mode 0600.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import anyio

from coder_agent.base.paths import PathKind
from coder_agent.cli.output import note
from coder_agent.client import Workspace
from coder_agent.errors import CoderAgentError


@dataclass(frozen=True, slots=True)
class NetworkInfo:
    """The document. Latencies in milliseconds, rates in bytes per second."""

    p2p: bool
    latency: float
    preferred_derp: str
    derp_latency: Mapping[str, float]
    upload_bytes_sec: int
    download_bytes_sec: int
    using_coder_connect: bool = False


@dataclass(slots=True)
class Traffic:
    """Bytes that went through, counted by whoever copies them."""

    up: int = 0
    down: int = 0


class NetworkInfoFile:
    """Keeps the file up to date while a session lives."""

    def __init__(self, folder: Path, interval: float, traffic: Traffic) -> None:
        self._path = folder / f"{os.getppid()}.json"
        self._interval = interval
        self._traffic = traffic
        self._last = Traffic(), anyio.current_time()

    async def run(self, workspace: Workspace) -> None:
        """Write at once and then every interval, until cancelled; the file goes when we do. A folder that cannot be
        written is said once: the session matters more."""
        try:
            while True:
                info = await self._measure(workspace)
                if info is not None:
                    write(self._path, info)
                await anyio.sleep(self._interval)
        except OSError as exc:
            note(f"warning: no network information in {self._path.parent}: {exc.strerror}")
        finally:
            self._path.unlink(missing_ok=True)

    async def _measure(self, workspace: Workspace) -> NetworkInfo | None:
        try:
            pong = await workspace.ping(timeout=self._interval)
        except CoderAgentError:  # no answer now: the last figures stay
            return None
        (before, since), now = self._last, anyio.current_time()
        self._last = Traffic(self._traffic.up, self._traffic.down), now
        span = max(now - since, 1e-3)
        node = workspace.node.self_node()
        return NetworkInfo(
            p2p=workspace.path().kind is PathKind.DIRECT,
            latency=round(pong.latency * 1e3, 3),
            preferred_derp=workspace.region_name(node.preferred_derp),
            derp_latency=latencies(node.derp_latency, workspace),
            upload_bytes_sec=round((self._traffic.up - before.up) / span),
            download_bytes_sec=round((self._traffic.down - before.down) / span),
        )


def latencies(measured: Mapping[str, float], workspace: Workspace) -> dict[str, float]:
    """By region's name, the better family of each (``<region>-v4``, ``<region>-v6``, in seconds)."""
    found: dict[str, float] = {}
    for key, seconds in measured.items():
        region = key.partition("-")[0]
        if region.isdigit():
            name = workspace.region_name(int(region))
            found[name] = min(round(seconds * 1e3, 3), found.get(name, float("inf")))
    return found


def write(path: Path, info: NetworkInfo) -> None:
    """Replace the file, so that a reader never sees half of it. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(info), file)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
