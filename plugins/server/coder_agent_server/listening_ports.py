"""Asking an agent which ports programs of its workspace listen on, through the server's own tailnet."""

from __future__ import annotations

import json
from collections.abc import Iterable
from urllib.parse import urlsplit
from uuid import UUID

import anyio

from coder_agent.errors import CoderAgentError
from coder_agent.hooks.server_tailnet import ServerTailnet
from coder_agent.http import request_over

from .documents import Document
from .problems import Problem

AGENT_API_PORT = 4
"""Source: coder tailnet/conn.go."""
PATIENCE = 5.0
"""Seconds for the whole answer: the dashboard asks again."""
FIRST_FREE_PORT = 9
MAX_PORTS = 1024
_MAIL_AND_FILES = {20, 21, 22, 23, 25, 53, 110, 143, 179, 389, 465, 587, 636, 989, 990, 993, 995}
_DATABASES_AND_DESKTOPS = {3306, 3389, 5432, 27017, 27018, 27019, 28017}
NOT_FOR_BROWSERS = frozenset(_MAIL_AND_FILES | _DATABASES_AND_DESKTOPS)
"""Ports of well-known services that do not speak HTTP. Source: coder codersdk/workspaceagents.go."""


async def listening_ports(tailnet: ServerTailnet, agent_id: UUID, app_urls: Iterable[str]) -> Document:
    """The document of ``/listening-ports``, without the ports of declared apps. Raises Problem 502."""
    try:
        with anyio.fail_after(PATIENCE):
            stream = await tailnet.dial(agent_id, AGENT_API_PORT, timeout=PATIENCE)
            async with stream:
                reply = await request_over(stream, "GET", "http://agent:4/api/v0/listening-ports", timeout=PATIENCE)
        found = json.loads(reply.body) if reply.status == 200 else {}
        ports = found.get("ports") or []
    except (CoderAgentError, TimeoutError, ValueError, AttributeError) as exc:
        raise Problem(
            502, "The agent did not say which ports are open.", detail=str(exc) or "It took too long."
        ) from exc
    return {"ports": filtered(ports if isinstance(ports, list) else [], app_urls)}


def filtered(ports: list[object], app_urls: Iterable[str]) -> list[Document]:
    """What is worth offering to a browser, of an answer that is somebody else's word."""
    of_apps = {port for url in app_urls if (port := _port_of(url)) is not None}
    shown: list[Document] = []
    for item in ports[:MAX_PORTS]:
        port = item.get("port") if isinstance(item, dict) else None
        if not isinstance(item, dict) or not isinstance(port, int) or not FIRST_FREE_PORT <= port < 1 << 16:
            continue
        if port not in of_apps and port not in NOT_FOR_BROWSERS:
            name = item.get("process_name")
            shown.append({"process_name": str(name or "")[:64], "network": "tcp", "port": port})
    return shown


def _port_of(url: str) -> int | None:
    """The port of an app on the workspace's own loopback."""
    try:
        parts = urlsplit(url)
        local = parts.hostname in ("localhost", "127.0.0.1", "::1", "0.0.0.0")
        return (parts.port or {"http": 80, "https": 443}.get(parts.scheme)) if local else None
    except ValueError:
        return None
