"""Services of an agent that are loaded when the first user comes: most agents are never asked for most of what they
offer, and stay small."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import anyio.abc

    from .interfaces import AgentService


class DeferredService:
    """An `AgentService` that `load` makes for the first connection.

        def load() -> AgentService:
            from .service import SpeedtestService

            return SpeedtestService()

        return [DeferredService("speedtest", 3, load)]

    Not for a `LivingService`: the agent opens that when it starts.
    """

    def __init__(self, name: str, port: int, load: Callable[[], AgentService]) -> None:
        self.name = name
        self.port = port
        self._load = load
        self._service: AgentService | None = None

    async def serve(self, stream: anyio.abc.ByteStream) -> None:
        """Serve one connection until it ends."""
        if self._service is None:
            self._service = self._load()
        await self._service.serve(stream)
