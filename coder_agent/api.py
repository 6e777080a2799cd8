"""The one call that most programs need.

    async with coder_agent.connect("dev") as workspace:
        stream = await workspace.open_tcp(8080)

`coder_agent.blocking` is the same for scripts and notebooks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, TypedDict, Unpack

import anyio

from .cli.context import Cli
from .client import ClientConfig, Workspace, open_workspace
from .compose import node_config
from .workspace_name import WorkspaceName


class ConnectOptions(TypedDict, total=False):
    """Keyword options of `connect`."""

    url: str | None
    token: str | None
    direct: bool
    config_file: str | None
    plugins: Sequence[str] | None


def connect(workspace: str, **options: Unpack[ConnectOptions]) -> Connecting:
    """Connect to a workspace as the `coder` command would: ``async with connect("dev") as workspace``. In a notebook,
    where a workspace shall outlive its cell: ``workspace = await connect("dev")``, and later `workspace.aclose()`.

    `workspace` is ``[owner/]name[.agent]``. `url` and `token` default to the environment, the configuration (of
    `config_file`) and what `coder login` stored. `direct=False` uses relays only; `plugins` limits which plugins are
    loaded.

    Raises: ConfigError (not logged in, bad name), ApiError, PeerUnreachable, CoordinationError (see `open_workspace`).
    """
    return Connecting(workspace, options)


class Connecting(AbstractAsyncContextManager[Workspace]):
    """What `connect` returns: an async context manager, or something to await. Nothing happens before."""

    def __init__(self, workspace: str, options: ConnectOptions) -> None:
        self._context = _opened(workspace, options)

    async def __aenter__(self) -> Workspace:
        return await self._context.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._context.__aexit__(kind, error, trace)

    def __await__(self) -> Generator[Any, None, Workspace]:
        return self._kept().__await__()

    async def _kept(self) -> Workspace:
        """Open it in a task of its own, which keeps it until `Workspace.aclose`: whoever closes it may be another task
        than the one that opened it, as cells of a notebook are."""
        opened: asyncio.Future[Workspace] = asyncio.get_running_loop().create_future()
        stop = asyncio.Event()

        async def keep() -> None:
            async with self._context as workspace:
                opened.set_result(workspace)
                await stop.wait()

        async def close() -> None:
            stop.set()
            await asyncio.shield(task)

        task = asyncio.create_task(keep())
        try:
            waited: list[asyncio.Future[Any]] = [task, opened]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait([task])
            raise
        if not opened.done():
            opened.cancel()
            await task  # raises what went wrong
        workspace = opened.result()
        workspace.on_close = close
        return workspace


@asynccontextmanager
async def _opened(workspace: str, options: ConnectOptions) -> AsyncIterator[Workspace]:
    flags: dict[str, object] = {
        "url": options.get("url"),
        "token": options.get("token"),
        "config": options.get("config_file"),
        "disable_direct_connections": not options.get("direct", True),
        "only_plugin": options.get("plugins"),
    }
    config = client_config(Cli("coder", flags))
    async with open_workspace(config, WorkspaceName.parse(workspace)) as opened:
        yield opened


def client_config(cli: Cli, *, say: Callable[[str], None] = lambda message: None) -> ClientConfig:
    """What a command's context says about server, credentials and node; `say` is told what takes long.

    Raises: ConfigError, PluginError.
    """
    node = node_config(cli.host, cli.settings, cli.dial_options())
    return ClientConfig(cli.url(), cli.token(), node, say, cli.host.command_runner(cli.settings))
