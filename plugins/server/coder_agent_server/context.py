"""The deployment as plugins' routes see it: `coder_agent.hooks.interfaces.ServerContext`.

Look-ups by name for proxies live here, under the visitor's rights: what is forbidden looks like what does not exist.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import anyio
from starlette.requests import HTTPConnection

from coder_agent.hooks.events import Event
from coder_agent.hooks.interfaces import Identity
from coder_agent.hooks.server_tailnet import ServerTailnet
from coder_agent.hooks.web import (
    MEMBER_ROLE,
    OWNER_ROLE,
    SCOPE_ALL,
    AgentPlace,
    PortShare,
    SharingLevel,
    WebApp,
    may_open,
    may_use,
)

from .auth import Principal, caller_ip, is_cross_site, presented_token, user_of
from .documents.agents import agent_status
from .plugin_view import PluginView
from .request_ids import request_id
from .store import accounts, agents, workspaces
from .store.apps import shared_port, web_app
from .store.schema import Agent, Workspace

if TYPE_CHECKING:
    from coder_agent.hooks.web_apps import AppProxy

    from .deployment import Deployment


def identity_of(principal: Principal) -> Identity:
    """A signed-in user, as plugins see him."""
    user = principal.user
    roles = {MEMBER_ROLE, OWNER_ROLE} if user.is_owner else {MEMBER_ROLE}
    return Identity(
        str(user.id), user.username, user.email, user.id, frozenset(roles), principal.key_scope, principal.key_id
    )


class RoutesContext(PluginView):
    """What `coder_server_routes` is handed."""

    def __init__(self, server: Deployment, app_proxies: Sequence[AppProxy] = ()) -> None:
        super().__init__(server)
        self._app_proxies = tuple(app_proxies)

    @property
    def tailnet(self) -> ServerTailnet:
        """The way into workspaces."""
        return self._server.tailnet

    @property
    def wildcard_access_url(self) -> str:
        """Host pattern of subdomain apps; empty = none."""
        return self._server.options.wildcard_access_url

    @property
    def stopping(self) -> anyio.Event:
        """Set when the server is going away."""
        return self._server.stopping

    def secret(self, purpose: str) -> bytes:
        """64 bytes derived from the deployment's own key, which never leaves it."""
        return hmac.digest(self._server.facts.resume_key, b"plugin secret\0" + purpose.encode(), hashlib.sha512)

    # ------------------------------------------------------------ who

    async def authenticate(self, connection: object, *, token: str | None = None) -> Identity | None:
        """Who makes this request."""
        assert isinstance(connection, HTTPConnection)
        shown = presented_token(connection) if token is None else token
        principal = await user_of(self._server.database, shown, self._server.clock())
        return None if principal is None else identity_of(principal)

    def refuse_cross_site(self, connection: object) -> bool:
        """Is this another site's page, with our cookie?"""
        assert isinstance(connection, HTTPConnection)
        return is_cross_site(connection, self._server.access_url)

    def believe_proxies(self, scope: dict[str, object]) -> None:
        """What the front does for requests that come through it."""
        self._server.options.proxies.apply(scope)

    def app_proxies(self) -> Sequence[AppProxy]:
        """Schemes of apps that plugins know."""
        return self._app_proxies

    def client_address(self, connection: object) -> str:
        """The peer's address, or what a trusted reverse proxy says; also for a connection that came past front.py."""
        assert isinstance(connection, HTTPConnection)
        if request_id(connection):
            return caller_ip(connection)
        scope = dict(connection.scope)
        self._server.options.proxies.apply(scope)
        return caller_ip(HTTPConnection(scope))

    def watch_key(self, visitor: Identity, close: Callable[[str], None]) -> Callable[[], None]:
        """Call `close` when the visitor's key is revoked."""
        return self._server.revocations.watch(visitor.key_id, close)

    async def issue_key(self, visitor: Identity, scope: str, lifetime: float) -> str:
        """A narrower key for the same user, which ends no later than the one it comes from."""
        if visitor.scope not in (SCOPE_ALL, scope):
            raise ValueError(f"a key of scope {visitor.scope!r} cannot make one of scope {scope!r}")
        server = self._server
        async with server.database.write() as session:
            found = await accounts.find_key(session, visitor.key_id)
            if found is None:
                raise ValueError("the visitor's session has ended")
            key, user = found
            now = server.clock()
            seconds = min(timedelta(seconds=lifetime), key.expires_at - now)
            token = await accounts.add_key(session, user, seconds, now, login_type=accounts.APP_LOGIN, scope=scope)
        return token.text

    # ------------------------------------------------------------ where

    async def find_agent(
        self, owner: str, workspace: str, agent: str | None = None, *, visitor: Identity | None
    ) -> AgentPlace | None:
        """An agent that `visitor` may use in every way."""
        for place in await self._places(owner, workspace, agent, visitor):
            if may_use(visitor, place.owner_id):
                return place
        return None

    async def find_agent_by_id(self, agent_id: UUID, *, visitor: Identity | None) -> AgentPlace | None:
        """The same by its id."""
        async with self._server.database.read() as session:
            agent = await agents.find_agent(session, agent_id)
        if agent is None or not may_use(visitor, agent.workspace.owner_id):
            return None
        return self.place(agent.workspace, agent)

    async def find_app(
        self, owner: str, workspace: str, agent: str | None, slug: str, *, visitor: Identity | None
    ) -> tuple[AgentPlace, WebApp] | None:
        """An app that `visitor` may open."""
        for place in await self._places(owner, workspace, agent, visitor, any_of_several=True):
            app = place.app(slug)
            if app is not None and may_open(visitor, place.owner_id, app.sharing_level):
                return place, app
        return None

    async def find_port(
        self, owner: str, workspace: str, agent: str | None, port: int, *, visitor: Identity | None
    ) -> tuple[AgentPlace, PortShare] | None:
        """A port that `visitor` may open."""
        for place in await self._places(owner, workspace, agent, visitor):
            share = place.share(port) or PortShare(port, SharingLevel.OWNER)
            if may_open(visitor, place.owner_id, share.sharing_level):
                return place, share
        return None

    async def _places(
        self, owner: str, workspace: str, agent: str | None, visitor: Identity | None, *, any_of_several: bool = False
    ) -> list[AgentPlace]:
        """The agents that these names may mean. Without a name it must be the only one, unless any will do."""
        if owner == "me":
            if visitor is None or visitor.user_id is None:
                return []
            owner = str(visitor.user_id)
        async with self._server.database.read() as session:
            user = await accounts.find_user(session, owner)
            found = None if user is None else await workspaces.find_workspace_by_name(session, user.id, workspace)
        if found is None:
            return []
        meant = [one for one in found.agents if agent is None or one.name == agent.lower()]
        if agent is None and not any_of_several and len(meant) != 1:
            return []
        return [self.place(found, one) for one in meant]

    def place(self, workspace: Workspace, agent: Agent) -> AgentPlace:
        """Rows as a value."""
        view = self._server.view()
        return AgentPlace(
            agent_id=agent.id,
            agent_name=agent.name,
            workspace_id=workspace.id,
            workspace_name=workspace.name,
            owner_id=workspace.owner_id,
            owner_name=workspace.owner.username,
            status=agent_status(agent, view),
            last_seen=view.last_seen(agent.id) or agent.last_connected_at,
            operating_system=agent.operating_system,
            apps=tuple(web_app(app) for app in agent.apps),
            shares=tuple(shared_port(share) for share in workspace.shares if share.agent_name == agent.name),
        )

    # ------------------------------------------------------------ what happened

    async def used(self, place: AgentPlace) -> None:
        """Somebody uses this workspace."""
        await self._server.touch(place.workspace_id)

    def emit(self, event: Event) -> None:
        """Tell observers."""
        self._server.emit(event)
