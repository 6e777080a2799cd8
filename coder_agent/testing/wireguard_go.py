"""wireguard-go, started and ready: the protocol's own implementation, on a network interface of a namespace."""

from __future__ import annotations

from pathlib import Path

from .deployment import until
from .netns import Host


def start_wireguard_go(host: Host, device: str, folder: Path) -> None:
    """Start it on `host` with an interface called `device`, ready for `wg set`. The name must be ours alone: control
    sockets lie in /run/wireguard, which namespaces share. Raises AssertionError with what it said."""
    said = folder / f"{device}.log"
    with said.open("wb") as log:
        process = host.spawn("wireguard-go", "-f", device, stdout=log, stderr=log, env={"LOG_LEVEL": "verbose"})

    def ready() -> bool:
        assert process.poll() is None, f"wireguard-go ended: {said.read_text()}"
        return host.try_run("wg", "show", device).returncode == 0

    until("wireguard-go is ready", ready)
