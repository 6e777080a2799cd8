"""The agent's side: TCP port 2 inside the tunnel."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.abc

from coder_agent.hooks import AgentFacts

from . import PORT
from .settings import TerminalSettings

if TYPE_CHECKING:  # an agent without terminals shall not pay for them
    from .sessions import Sessions


class TerminalService:
    """Reconnecting terminals (coder_agent.hooks.LivingService)."""

    name = "terminal"
    port = PORT

    def __init__(self, settings: TerminalSettings) -> None:
        self._settings = settings
        self._facts: Callable[[], AgentFacts] | None = None
        self._tasks: anyio.abc.TaskGroup | None = None
        self._sessions: Sessions | None = None

    @asynccontextmanager
    async def open(self, facts: Callable[[], AgentFacts]) -> AsyncIterator[None]:
        """Terminals live while the block runs."""
        async with anyio.create_task_group() as tasks:
            self._facts, self._tasks = facts, tasks
            try:
                yield
            finally:
                if self._sessions is not None:
                    self._sessions.stop()
                self._facts = self._tasks = self._sessions = None
                tasks.cancel_scope.cancel()

    async def serve(self, stream: anyio.abc.ByteStream) -> None:
        """One viewer, from its opening message until it or the terminal ends."""
        from .visits import visit

        await visit(stream, self._terminals())

    def _terminals(self) -> Sessions:
        if self._sessions is None:
            from .sessions import Sessions

            assert self._facts is not None
            assert self._tasks is not None
            self._sessions = Sessions(self._settings, self._facts, self._tasks)
        return self._sessions
