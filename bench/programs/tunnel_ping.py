"""Pings through the tunnel to the workspace "dev", on a direct path.

tunnel_ping.py COUNT INTERVAL_MS
"""

from __future__ import annotations

import json
import sys

import anyio

import coder_agent


async def main(count: int, interval: float) -> None:
    """Ping, and tell the round trips in seconds."""
    async with coder_agent.connect("dev") as workspace:
        await workspace.wait_direct()
        times = []
        for _ in range(count):
            pong = await workspace.ping_tunnel()
            times.append(pong.latency)
            await anyio.sleep(interval)
        status = workspace.path()
    print(json.dumps({"event": "pongs", "seconds": times, "path": status.kind.value}), flush=True)


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]), int(sys.argv[2]) / 1e3)
