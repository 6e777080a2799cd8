"""A user's program that reads from a workspace through a relay, and tells which relays it knows meanwhile.

map_follower.py WORKSPACE PORT SIZE PACE

Events: those of transfer.py, and `map` (the numbers of the regions, at first and after each change).
"""

from __future__ import annotations

import sys

import anyio
from transfer import expected, get, say  # type: ignore[import-not-found]  # beside this file, which is run by path

import coder_agent
from coder_agent.client import Workspace


async def watch_map(workspace: Workspace) -> None:
    """Tell when the relay map changes."""
    last: list[int] = []
    while True:
        if (now := sorted(workspace.node.derp_map.regions)) != last:
            last = now
            say("map", regions=now)
        await anyio.sleep(0.02)


async def main() -> None:
    """Connect, read, check."""
    name, port, size, pace = sys.argv[1], *map(int, sys.argv[2:])
    async with coder_agent.connect(name, direct=False) as workspace, anyio.create_task_group() as tasks:
        tasks.start_soon(watch_map, workspace)
        async with await workspace.open_tcp(port) as stream:
            say("open", kind=workspace.path().kind.value)
            found = await get(stream, size, pace)
        say("done", equal=found == expected(size))
        tasks.cancel_scope.cancel()


if __name__ == "__main__":
    anyio.run(main)
