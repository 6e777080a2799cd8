"""Getting to a workspace whose agent may still be starting."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import anyio

from coder_agent.cli.output import note
from coder_agent.client import ClientConfig, Workspace, open_workspace
from coder_agent.errors import PathRefused, PeerUnreachable
from coder_agent.workspace_name import WorkspaceName

PAUSE = 1.0
"""Seconds between two attempts; each attempt waits some seconds itself."""


@asynccontextmanager
async def reached(config: ClientConfig, name: WorkspaceName, *, wait: bool) -> AsyncIterator[Workspace]:
    """The workspace, as soon as its agent is there: with `wait`, however long that takes (Ctrl-C ends it).

    Raises as `open_workspace`.
    """
    async with AsyncExitStack() as exits:
        while True:
            try:
                workspace = await exits.enter_async_context(open_workspace(config, name))
                break
            except PathRefused:
                raise
            except PeerUnreachable as exc:
                if not wait:
                    raise
                note(f"{exc.message}. Waiting for it; Ctrl-C ends this.")
            await anyio.sleep(PAUSE)
        yield workspace
