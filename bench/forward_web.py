"""A web app by `coder port-forward`, and the same app in the same run through the server, as the dashboard opens it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .forward import LOCAL, LOCAL_PORT, forwarding
from .place import Place
from .rows import Row

if TYPE_CHECKING:
    from .runner import Plan

APP_PORT = 28082
CONNECTIONS = 16
DOWNLOAD = 256_000_000
FORWARD, DASHBOARD = "forward", "dashboard"


def beside_dashboard(place: Place, plan: Plan) -> Iterator[Row]:
    """Small requests at once, one at a time, and a download; each way in turn, by one load program. Three machines:
    a server beside the workspace would have a tunnel over loopback, with its large packets."""
    place.join_three()
    with forwarding(place, APP_PORT, *place.program("web_load", "serve", str(APP_PORT))):
        rate: dict[str, list[float]] = {FORWARD: [], DASHBOARD: []}
        delay: dict[str, list[float]] = {FORWARD: [], DASHBOARD: []}
        speed: dict[str, list[float]] = {FORWARD: [], DASHBOARD: []}
        for way in (DASHBOARD, FORWARD):
            _load(place, way, "small", "", "0.5", "1")  # the server's own tunnel, and what is imported at first use
        for _ in range(plan.runs):
            for way in (FORWARD, DASHBOARD):
                rate[way].append(_load(place, way, "small", "", f"{plan.seconds:g}", str(CONNECTIONS))["rate"])
                delay[way].append(_load(place, way, "small", "", f"{plan.seconds:g}", "1")["median_ms"])
                speed[way].append(_load(place, way, "download", "big/", str(DOWNLOAD))["mbits"])
        for unit, figures in (("req/s", rate), ("ms median", delay), ("Mbit/s", speed)):
            yield Row.of("forward_vs_dashboard", unit, figures[FORWARD], figures[DASHBOARD], DASHBOARD)


def _load(place: Place, way: str, what: str, page: str, *numbers: str) -> dict[str, Any]:
    """What the load program on the user's machine found. Raises RuntimeError."""
    env = dict(os.environ)
    if way == FORWARD:
        target = [LOCAL, str(LOCAL_PORT), f"/{page}", ""]
    else:
        token = (place.directory / "cli" / "session").read_text(encoding="utf-8").strip()
        target = [place.server_host.address4, "3443", f"/@bench/dev/ports/{APP_PORT}/{page}", token]
        env["WEB_CA"] = str(place.directory / "ca.pem")
    done = subprocess.run(
        ["ip", "netns", "exec", place.user.name, *place.program("web_load", what, *target, *numbers)],
        capture_output=True, text=True, timeout=600, check=False, env=env,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"web_load {what} by {way}: exit {done.returncode}\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
