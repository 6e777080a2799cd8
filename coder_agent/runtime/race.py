"""Several routines of which the first to end ends all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from ..errors import CoderAgentError


async def race(*routines: Callable[[], Awaitable[object]]) -> None:
    """Run all; when one returns or raises, cancel the others.

    A CoderAgentError is raised as it is (the first one, if there are several), not in an ExceptionGroup: it is an
    outcome, not a crash.
    """
    outcome: list[CoderAgentError | None] = []
    async with anyio.create_task_group() as tasks:

        async def run(routine: Callable[[], Awaitable[object]]) -> None:
            try:
                await routine()
                outcome.append(None)
            except CoderAgentError as exc:
                outcome.append(exc)
            tasks.cancel_scope.cancel()

        for routine in routines:
            tasks.start_soon(run, routine)
    if outcome and outcome[0] is not None:
        raise outcome[0]
