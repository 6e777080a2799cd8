"""A router that opens ports when asked: miniupnpd, with NAT-PMP, PCP and UPnP-IGD, on a router of the laboratory."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from .deployment import until
from .netns_places import Router

_UUID = "00000000-0000-0000-0000-000000000001"


def find_miniupnpd() -> str | None:
    """The program; None if it is not installed here."""
    return shutil.which("miniupnpd")


def serve_port_mapping(router: Router, folder: Path) -> None:
    """Run miniupnpd on a router whose kind has `upnp`, until the laboratory ends; returns when it listens."""
    config = folder / f"{router.host.name}.conf"
    lines = [
        *("ext_ifname=wan", f"ext_ip={router.outside}", "listening_ip=lan0", "http_port=0"),
        *("enable_natpmp=yes", "enable_upnp=yes", f"uuid={_UUID}"),
        *("allow 1024-65535 0.0.0.0/0 1024-65535", "deny 0-65535 0.0.0.0/0 0-65535"),
    ]
    config.write_text("\n".join(lines) + "\n")
    pid = folder / f"{router.host.name}.pid"
    with config.with_suffix(".log").open("wb") as log:
        router.host.spawn("miniupnpd", "-d", "-f", str(config), "-P", str(pid), stdout=log, stderr=subprocess.STDOUT)
    until("miniupnpd listens", lambda: ":5351 " in router.host.run("ss", "-Hlun"))
