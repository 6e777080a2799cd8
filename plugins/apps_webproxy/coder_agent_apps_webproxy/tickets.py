"""The decision about one visitor and one app, and the rules behind it.

Who may open what follows from the sharing level (`coder_agent.hooks.web.may_open`, applied by the server's look-ups).
What remains is whose page may share the server's origin. A path app does: its scripts could use the visitor's
session. So everybody's pages on paths run in a sandbox, except for the workspace's owner, who put the app there:
always for an app that was declared, and for a bare port once the owner trusts it. The owner's trust protects nobody
else, and so it is nobody else's.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit
from uuid import UUID

from coder_agent.hooks import Identity
from coder_agent.hooks.web import AgentPlace, CorsBehavior, PortShare, SharingLevel, WebApp

from .addresses import AppAddress, Method


@dataclass(frozen=True, slots=True)
class Ticket:
    """This visitor may open this app, like this. `url` is the app's as the agent sees it; `user_id` None = nobody."""

    url: str
    agent_id: UUID
    workspace_id: UUID
    owner_id: UUID
    owner: str
    workspace: str
    agent: str
    user_id: UUID | None
    sandboxed: bool
    public: bool
    cors: CorsBehavior = CorsBehavior.SIMPLE

    @property
    def scheme(self) -> str:
        """Of the app's URL."""
        return urlsplit(self.url).scheme.lower()

    @property
    def place(self) -> str:
        """``owner/workspace.agent``, for people."""
        return f"{self.owner}/{self.workspace}.{self.agent}"


def ticket_for_app(address: AppAddress, place: AgentPlace, app: WebApp, visitor: Identity | None) -> Ticket:
    """For an app that this visitor may open."""
    sandboxed = address.method is Method.PATH and not _owns(visitor, place)
    return _ticket(place, visitor, app.url, sandboxed, app.sharing_level, app.cors_behavior)


def ticket_for_port(address: AppAddress, place: AgentPlace, share: PortShare, visitor: Identity | None) -> Ticket:
    """For a port that this visitor may open. What the URL says (``8443s``) wins over what was shared as."""
    trusted = share.trusted and _owns(visitor, place)
    tls = address.tls or (share.protocol == "https" and share.sharing_level is not SharingLevel.OWNER)
    url = f"{'https' if tls else 'http'}://localhost:{address.port}/"
    return _ticket(place, visitor, url, address.method is Method.PORTS and not trusted, share.sharing_level)


def _ticket(
    place: AgentPlace,
    visitor: Identity | None,
    url: str,
    sandboxed: bool,
    level: SharingLevel,
    cors: CorsBehavior = CorsBehavior.SIMPLE,
) -> Ticket:
    return Ticket(
        url=url,
        agent_id=place.agent_id,
        workspace_id=place.workspace_id,
        owner_id=place.owner_id,
        owner=place.owner_name,
        workspace=place.workspace_name,
        agent=place.agent_name,
        user_id=visitor.user_id if visitor is not None else None,
        sandboxed=sandboxed,
        public=level is SharingLevel.PUBLIC,
        cors=cors,
    )


def _owns(visitor: Identity | None, place: AgentPlace) -> bool:
    return visitor is not None and visitor.user_id == place.owner_id
