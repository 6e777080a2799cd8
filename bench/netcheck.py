"""How long `coder netcheck` takes, from the command's start to its end: on a healthy network, and on a dead one."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .place import BIN, Place
from .rows import Row

if TYPE_CHECKING:
    from .runner import Plan


def duration(place: Place, plan: Plan) -> Iterator[Row]:
    """Healthy: server, relay and STUN answer. Blocked: every packet to them is lost without a word; each run is the
    longer of two, one that asks the server for its relays and one that was told them in a file."""
    place.start_server()
    map_file = place.directory / "map.json"
    map_file.write_text(json.dumps(_relay_map(place)), encoding="utf-8")
    _netcheck(place)  # compiles, on a fresh machine
    healthy = [_netcheck(place) for _ in range(max(plan.runs, 5))]
    for rule in ("table inet cut", "chain inet cut arriving { type filter hook input priority 0; policy drop; }"):
        place.workspace.run("nft", "add", *rule.split())
    blocked = [
        max(_netcheck(place, fails=True), _netcheck(place, "--derp-map", str(map_file), fails=True))
        for _ in range(plan.runs)
    ]
    yield Row.of("netcheck_time", "s healthy", healthy)
    yield Row.of("netcheck_time", "s blocked", blocked)


def _netcheck(place: Place, *flags: str, fails: bool = False) -> float:
    command = ["ip", "netns", "exec", place.user.name, str(BIN / "coder"), "netcheck", *flags]
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=place.environment("user"))
    took = time.monotonic() - started
    if (done.returncode != 0) != fails:
        raise RuntimeError(f"coder netcheck: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return took


def _relay_map(place: Place) -> object:
    """The server's map as netcheck's own report repeats it."""
    derp = json.loads(place.coder("netcheck", "--output", "json"))["derp"]
    return {"Regions": {number: region["region"] for number, region in derp["regions"].items()}}
