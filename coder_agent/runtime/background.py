"""A task group for things that run beside a body of code, whose errors stay what they are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.abc


@asynccontextmanager
async def background() -> AsyncIterator[anyio.abc.TaskGroup]:
    """Tasks that end with the body.

    A plain task group wraps whatever its body raises into an ExceptionGroup, so that ``except PeerUnreachable`` around
    an ``async with connect(…)`` would never match. Here the body's exception is raised as itself, and so is that of a
    single task that failed.
    """
    failure: Exception | None = None
    try:
        async with anyio.create_task_group() as tasks:
            try:
                yield tasks
            except Exception as exc:
                failure = exc
            finally:
                tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        only = _single(group)
        if failure is not None or only is None:
            raise
        raise only from only.__cause__
    if failure is not None:
        raise failure


def _single(error: BaseException) -> BaseException | None:
    """The one exception inside nested groups; None if there are several."""
    while isinstance(error, BaseExceptionGroup):
        if len(error.exceptions) != 1:
            return None
        error = error.exceptions[0]
    return error
