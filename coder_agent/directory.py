"""What the coder server says about workspaces and their agents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote
from uuid import UUID

from .errors import ApiError, PeerUnreachable
from .runtime.http import ApiClient
from .workspace_name import WorkspaceName


@dataclass(frozen=True, slots=True)
class AgentInfo:
    """What the server says about a workspace's agent. Times are UTC."""

    id: UUID
    name: str
    status: str
    workspace: str
    owner: str
    last_connected_at: datetime | None = None
    disconnected_at: datetime | None = None

    @property
    def label(self) -> str:
        """``owner/workspace``, as error messages name it."""
        return f"{self.owner}/{self.workspace}"


async def find_workspace(api: ApiClient, name: WorkspaceName) -> dict[str, Any]:
    """A workspace's document. Raises ApiError: unknown and forbidden workspaces give the same answer."""
    path = f"/api/v2/users/{quote(name.owner)}/workspace/{quote(name.workspace)}?include_deleted=false"
    try:
        document: dict[str, Any] = await api.get(path)
    except ApiError as exc:
        if exc.status != 404:
            raise
        raise ApiError(
            f"workspace {name} not found", status=404, hint="see `coder list` for the workspaces you may use"
        ) from exc
    return document


async def find_agent(api: ApiClient, name: WorkspaceName) -> AgentInfo:
    """Look a workspace's agent up. Raises ApiError."""
    document = await find_workspace(api, name)
    agents = [a for resource in document["latest_build"]["resources"] for a in resource.get("agents") or []]
    if not agents:
        raise ApiError(f"workspace {name} has no agents", status=404)
    if name.agent:
        agents = [agent for agent in agents if agent["name"] == name.agent]
        if not agents:
            raise ApiError(f"workspace {name.workspace} has no agent called {name.agent!r}", status=404)
    elif len(agents) > 1:
        names = ", ".join(f"{name}.{agent['name']}" for agent in agents)
        raise ApiError(f"workspace {name} has several agents", status=400, hint=f"name one: {names}")
    return agent_from(agents[0], document["name"], document["owner_name"])


def agent_from(document: Mapping[str, Any], workspace: str, owner: str) -> AgentInfo:
    """An agent's document, which does not name its workspace, as a value."""
    return AgentInfo(
        id=UUID(document["id"]),
        name=document["name"],
        status=document["status"],
        workspace=workspace,
        owner=owner,
        last_connected_at=parse_time(document.get("last_connected_at")),
        disconnected_at=parse_time(document.get("disconnected_at")),
    )


def parse_time(text: str | None) -> datetime | None:
    """A time as servers write it; None for none, which a stock server may write as the first day of the year 1."""
    time = datetime.fromisoformat(text) if text else None
    return None if time is None or time.year == 1 else time


def ago(text: str | None) -> str:
    """How long ago a server's time was, for people: ``3 min ago``, ``never``."""
    time = parse_time(text)
    return "never" if time is None else f"{age(time)} ago"


def age(since: datetime) -> str:
    """How long ago that was, in one unit: ``3 min``."""
    seconds = max(0, int((datetime.now(UTC) - since).total_seconds()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def agent_unreachable(agent: AgentInfo) -> PeerUnreachable:
    """The error for an agent that is not connected: says which workspace and since when."""
    since = agent.disconnected_at or agent.last_connected_at
    if since is None:
        return PeerUnreachable(
            f"workspace {agent.label}: its agent has never connected",
            hint="run `coder-agent run` on that machine; `coder create` printed the line with its token",
        )
    when = since.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return PeerUnreachable(
        f"workspace {agent.label}: its agent is not connected since {when} ({age(since)} ago)",
        hint="start `coder-agent run` on that machine, or look at its log",
    )
