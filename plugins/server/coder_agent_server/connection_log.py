"""Writes the connection log: an observer (`Deployment.observers`) with a bounded queue before the database."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from datetime import datetime
from uuid import UUID

import anyio

from coder_agent.hooks.events import Audited, Event, WorkspaceConnection

from .store import connections as store
from .store.database import Database

logger = logging.getLogger("coder_agent.server")
audit_log = logging.getLogger("coder_agent.server.audit")

MAX_WAITING = 4096
"""Events that may wait for the database; what comes on top is counted and lost: the log must not eat the memory."""
GATHER = 0.25
"""Seconds between two writes: a page with a hundred requests is one transaction."""
PRUNE_INTERVAL = 3600.0


class ConnectionLogWriter:
    """Hand it events, `run` it until cancelled, then `flush`. `written` hears which workspace's log has news."""

    def __init__(
        self, database: Database, clock: Callable[[], datetime], written: Callable[[UUID], None] = lambda _: None
    ) -> None:
        self._database = database
        self._written = written
        self._clock = clock
        self._waiting: deque[tuple[WorkspaceConnection, datetime]] = deque()
        self._news = anyio.Event()
        self.lost = 0

    def __call__(self, event: Event) -> None:
        """Something happened."""
        if isinstance(event, Audited):
            _say(event)
        elif isinstance(event, WorkspaceConnection):
            if len(self._waiting) >= MAX_WAITING:
                self.lost += 1
                return
            self._waiting.append((event, self._clock()))
            self._news.set()

    async def run(self) -> None:
        """Write until cancelled."""
        async with self._database.write() as session:
            await store.close_open(session, self._clock())
        pruned = float("-inf")
        while True:
            if anyio.current_time() - pruned >= PRUNE_INTERVAL:
                pruned = anyio.current_time()
                async with self._database.write() as session:
                    await store.prune(session, self._clock())
            with anyio.move_on_after(PRUNE_INTERVAL):
                await self._news.wait()
            await anyio.sleep(GATHER)
            await self.flush()

    async def flush(self) -> None:
        """Write what waits."""
        self._news = anyio.Event()
        batch = list(self._waiting)
        self._waiting.clear()
        if batch:
            async with self._database.write() as session:
                await store.record(session, batch)
            for workspace_id in {event.workspace_id for event, _ in batch}:
                self._written(workspace_id)


def _say(event: Audited) -> None:
    audit_log.info(
        "%s %s %s by %s from %s: %d",
        event.action,
        event.resource,
        event.target,
        event.user or "nobody",
        event.ip or "this machine",
        event.status,
        extra={
            "request_id": event.request_id,
            "action": event.action,
            "resource": event.resource,
            "target": event.target,
            "user": event.user,
            "client": event.ip,
            "status": event.status,
        },
    )
