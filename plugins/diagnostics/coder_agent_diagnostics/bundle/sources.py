"""The files that every bundle has: this program, the deployment, the way to the workspace.

What other plugins know of they add themselves (hook `coder_diagnostics`); `coder netcheck`'s report comes that way.
"""

from __future__ import annotations

import io
import logging
import os
import platform
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import anyio

from coder_agent import __version__
from coder_agent.api import client_config
from coder_agent.cli.context import Cli
from coder_agent.cli.logs import RedactingFormatter
from coder_agent.cli.redact import STARS
from coder_agent.client import Workspace, open_workspace
from coder_agent.errors import PeerUnreachable
from coder_agent.hooks.diagnostics import Diagnostic
from coder_agent.hooks.settings import Settings
from coder_agent.http import ApiClient, request_over
from coder_agent.workspace_name import WorkspaceName

from ..agent_api import PORT as AGENT_API_PORT
from ..path_document import path_document

PINGS = 5
"""Enough to see the path settle and how the latency varies."""
LOG_SIZE = 1 << 20
"""Bytes of debug log that are kept: the last ones."""
AGENT_READ = 1 << 20
"""Bytes that are read of one answer of the agent."""
ENVIRONMENT = ("CODER_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_", "LANG", "LC_", "TERM")
"""Variables that change what the program does, by their beginnings."""
AGENT_PATHS = {
    "workspace/listening-ports.json": ("/api/v0/listening-ports", "programs that listen in the workspace"),
    "workspace/agent-log.txt": ("/debug/logs", "the agent's log, if it gives it away"),
    "workspace/agent-magicsock.html": ("/debug/magicsock", "the agent's paths, of a stock agent"),
    "workspace/agent-manifest.json": ("/debug/manifest", "what the agent was told, of a stock agent"),
}


class Context:
    """What `coder_diagnostics` is handed."""

    def __init__(self, cli: Cli) -> None:
        self._cli = cli
        self._api = ApiClient(cli.url(), cli.token(), cli.dial_options())

    @property
    def settings(self) -> Settings:
        """The effective configuration."""
        return self._cli.settings

    @property
    def access_url(self) -> str:
        """The coder server."""
        return self._cli.url()

    async def get(self, path: str) -> Any:
        """A document of the server's API."""
        return await self._api.get(path)


# ---------------------------------------------------------------- this program


def of_this_program(cli: Cli, log: Callable[[], str]) -> list[Diagnostic]:
    """Versions, plugins, settings, environment; and the debug log of making this bundle."""
    return [
        Diagnostic("client/version.json", "program, Python and system", _now(_version)),
        Diagnostic("client/plugins.json", "installed plugins and what is wrong with them", _now(_plugins, cli)),
        Diagnostic("client/config.json", "settings in force and where they come from", _now(_config, cli)),
        Diagnostic("client/environment.json", "variables that the program reads", _now(_environment)),
        Diagnostic("client/log.txt", "debug log of this command", _now(log)),
    ]


def _now(function: Callable[..., object], *args: Any) -> Callable[[], Awaitable[object]]:
    async def call() -> object:
        return function(*args)

    return call


def _version() -> object:
    return {
        "coder_agent": __version__,
        "python": sys.version,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
    }


def _plugins(cli: Cli) -> object:
    return [
        {
            "name": record.name,
            "distribution": record.distribution,
            "version": record.version,
            "status": record.status,
            "hooks": list(record.hooks),
            "error": record.error.message if record.error else None,
        }
        for record in cli.host.records
    ]


def _config(cli: Cli) -> object:
    rows = cli.settings.rows()
    file = str(cli.file.path) if cli.file.path else None
    return {
        "file": file,
        "settings": [{"key": f"{r.section}.{r.key}", "value": r.value, "source": str(r.origin)} for r in rows],
    }


def _environment() -> object:
    known = {name: value for name, value in sorted(os.environ.items()) if name.upper().startswith(ENVIRONMENT)}
    return {name: STARS if _may_be_secret(name) else value for name, value in known.items()}


def _may_be_secret(name: str) -> bool:
    return any(word in name.upper() for word in ("TOKEN", "SECRET", "PASSWORD", "KEY", "HEADER"))


@contextmanager
def recorded_log() -> Iterator[Callable[[], str]]:
    """Within the block everything that our packages log is kept; the yielded function returns it."""
    buffer = io.StringIO()
    handler = logging.StreamHandler(buffer)
    handler.setFormatter(RedactingFormatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logger = logging.getLogger("coder_agent")
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = propagate and level == logging.DEBUG  # the screen shows no more than before
    try:
        yield lambda: buffer.getvalue()[-LOG_SIZE:]
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


# ---------------------------------------------------------------- the deployment


def of_the_deployment(context: Context) -> list[Diagnostic]:
    """What the server says of itself; some of it only to its owners."""

    def get(path: str) -> Callable[[], Awaitable[object]]:
        return lambda: context.get(path)

    return [
        Diagnostic("deployment/buildinfo.json", "the server's version", get("/api/v2/buildinfo")),
        Diagnostic("deployment/config.json", "the server's settings (owners)", get("/api/v2/deployment/config")),
        Diagnostic("deployment/health.json", "the server's health report (owners)", get("/api/v2/debug/health")),
        Diagnostic("deployment/regions.json", "regions", get("/api/v2/regions")),
        Diagnostic(
            "network/connection.json", "relay map and rules, as told", get("/api/v2/workspaceagents/connection")
        ),
    ]


# ---------------------------------------------------------------- the workspace


class Reached:
    """A workspace, opened once and shared by all files about it."""

    def __init__(self, cli: Cli, name: str) -> None:
        self._cli, self._name = cli, WorkspaceName.parse(name)
        self._workspace: Workspace | None = None
        self._error: Exception | None = None
        self._settled = anyio.Event()

    def diagnostics(self, context: Context) -> list[Diagnostic]:
        """The files."""
        owner, name = self._name.owner, self._name.workspace
        listing = f"/api/v2/users/{owner}/workspace/{name}"
        own = [
            Diagnostic("workspace/workspace.json", "the workspace as the server has it", lambda: context.get(listing)),
            Diagnostic("workspace/pings.json", f"{PINGS} pings and the way they went", self._pings),
            Diagnostic("workspace/path.json", "how packets go, and why that way", self._path),
        ]
        return [*own, *(Diagnostic(n, about, self._agent(path)) for n, (path, about) in AGENT_PATHS.items())]

    async def run(self, diagnostics: Callable[[], Awaitable[None]]) -> None:
        """Open the workspace, and keep it open while `diagnostics` runs; without one they say why there is none."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_open)
            await diagnostics()
            tasks.cancel_scope.cancel()

    async def _keep_open(self) -> None:
        try:
            async with open_workspace(client_config(self._cli), self._name) as workspace:
                self._workspace = workspace
                self._settled.set()
                await anyio.sleep_forever()
        except Exception as error:
            self._error = error
            self._settled.set()

    async def _get(self) -> Workspace:
        await self._settled.wait()
        if self._workspace is None or self._error is not None:
            raise self._error or PeerUnreachable("the workspace was not reached")
        return self._workspace

    async def _pings(self) -> object:
        workspace = await self._get()
        found: list[dict[str, object]] = []
        for _ in range(PINGS):
            try:
                pong = await workspace.ping()
                kind = pong.kind.value
                found.append({"latency_ms": round(pong.latency * 1e3, 3), "kind": kind, "path": str(pong.path)})
            except PeerUnreachable as error:
                found.append({"error": error.message})
        return found

    async def _path(self) -> object:
        workspace = await self._get()
        verdict = await workspace.explain_after_asking()
        return path_document(workspace, workspace.path(), verdict)

    def _agent(self, path: str) -> Callable[[], Awaitable[object]]:
        async def collect() -> object:
            workspace = await self._get()
            async with await workspace.open_tcp(AGENT_API_PORT) as stream:
                answer = await request_over(stream, "GET", f"http://agent{path}", max_body=AGENT_READ)
            if answer.status != 200:
                raise PeerUnreachable(f"the agent answers {answer.status} to {path}")
            return answer.body.decode("utf-8", "replace")

        return collect


def named(diagnostics: Sequence[Diagnostic]) -> list[tuple[str, str]]:
    """What a bundle would hold: names and what stands behind them."""
    return sorted((one.name, one.about) for one in diagnostics)
