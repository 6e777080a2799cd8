"""Endpoints that the user configured."""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from coder_agent.base.addresses import AddrPort
from coder_agent.hooks import Candidate, CandidateContext, CandidateKind


class StaticEndpoints:
    """Publishes the same list for ever."""

    name = "static"

    def __init__(self, endpoints: Sequence[AddrPort]) -> None:
        self._candidates = [Candidate(addr, CandidateKind.STATIC) for addr in endpoints]

    async def run(self, context: CandidateContext) -> None:
        """Publish once."""
        context.publish(self.name, self._candidates)
        await anyio.sleep_forever()
