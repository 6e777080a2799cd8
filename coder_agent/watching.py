"""Is the workspace still there? A peer that is gone must be a reset for local programs, not a hang.

TCP alone would find out late: an idle connection after minutes, one with data in flight after two. The server knows
when an agent's connection ends, and a ping through the tunnel shows whether data still flows without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import anyio

from .directory import AgentInfo
from .errors import CoderAgentError, PeerUnreachable

INTERVAL = 5.0
"""Seconds between two pings while there are connections, and the time each has."""
SURE_AFTER = 2
"""Pings without answer that suffice if the server says that the agent is gone."""
GIVE_UP_AFTER = 12
"""Pings without answer that suffice whatever the server says: a minute, which every change of network fits in."""


class Watched(Protocol):
    """What is needed of a `coder_agent.Workspace`."""

    async def ping_tunnel(self, *, timeout: float) -> object: ...
    async def refresh_agent(self) -> AgentInfo: ...


class Watch:
    """Pings while `busy()`; tells `lost(why)` once, and `restored()` when answers come again."""

    def __init__(
        self,
        workspace: Watched,
        *,
        busy: Callable[[], bool],
        lost: Callable[[str], None],
        restored: Callable[[], None],
    ) -> None:
        self._workspace = workspace
        self._busy = busy
        self._lost = lost
        self._restored = restored
        self.is_lost = False
        self._missed = 0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            if not self._missed:  # a ping that is not answered has taken its time already
                await anyio.sleep(INTERVAL)
            if self._busy() or self.is_lost:
                await self.look()
            else:
                self._missed = 0

    async def look(self) -> None:
        """One ping, and what follows from it."""
        try:
            await self._workspace.ping_tunnel(timeout=INTERVAL)
        except PeerUnreachable:
            self._missed += 1
        else:
            self._missed = 0
            if self.is_lost:
                self.is_lost = False
                self._restored()
            return
        if self.is_lost or self._missed < SURE_AFTER:
            return
        status = await self._status()
        if self._missed >= GIVE_UP_AFTER or status not in ("connected", ""):
            self.is_lost = True
            self._lost(f"its agent is {status}" if status not in ("connected", "") else "it does not answer any more")

    async def _status(self) -> str:
        """What the server says about the agent; "" if it cannot be asked."""
        try:
            with anyio.fail_after(INTERVAL):
                return (await self._workspace.refresh_agent()).status
        except (CoderAgentError, TimeoutError):
            return ""
