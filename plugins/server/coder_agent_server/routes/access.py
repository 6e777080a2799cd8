"""Who may? Every handler starts with one of these. What is unknown and what is forbidden get the same answer."""

from __future__ import annotations

from uuid import UUID

from starlette.requests import HTTPConnection

from ..auth import Principal, caller_ip, presented_token, refuse_cross_site, user_of
from ..deployment import Deployment, deployment
from ..problems import Problem, not_found
from ..scopes import Need, covers
from ..store import accounts, agents, workspaces
from ..store.schema import Agent, User, Workspace

SIGNED_OUT = "You are signed out or your session has expired. Please sign in again to continue."


async def signed_in(connection: HTTPConnection, need: Need = Need.ALL) -> Principal:
    """The user who asks, whose key must cover `need`. Raises Problem 401, 403 (another site's page), 404, 429."""
    server = deployment(connection)
    principal = await maybe_signed_in(connection)
    if principal is None:
        server.api_limit.check(caller_ip(connection))
        presented = bool(presented_token(connection))
        detail = "The session token is not valid." if presented else "No session token was sent."
        raise Problem(401, SIGNED_OUT, detail=detail)
    server.api_limit.check(principal.user.id)
    refuse_cross_site(connection, server.access_url)
    if not covers(principal.key_scope, need):
        raise not_found()
    return principal


async def maybe_signed_in(connection: HTTPConnection) -> Principal | None:
    """The user who asks, or None."""
    server = deployment(connection)
    return await user_of(server.database, presented_token(connection), server.clock())


async def owner_only(connection: HTTPConnection) -> Principal:
    """The user who asks, who must be an owner of the deployment. Raises Problem 401, 404."""
    principal = await signed_in(connection)
    if not principal.sees_all:
        raise not_found()
    return principal


def path_uuid(connection: HTTPConnection, name: str) -> UUID:
    """A UUID from the path. Raises Problem 400, as stock servers answer."""
    text = str(connection.path_params[name])
    try:
        return UUID(text)
    except ValueError:
        raise Problem(400, f'Invalid UUID "{text[:64]}".', validations=[(name, "This must be a UUID.")]) from None


async def path_user(connection: HTTPConnection, principal: Principal) -> User:
    """The user in the path: ``me``, a name or an id; others only for owners. Raises Problem 404."""
    who = str(connection.path_params["user"])
    if who == "me":
        return principal.user
    async with deployment(connection).database.read() as session:
        user = await accounts.find_user(session, who)
    if user is None or not principal.may_use(user.id):
        raise not_found()
    return user


async def path_workspace(connection: HTTPConnection, principal: Principal) -> Workspace:
    """The workspace whose id is in the path. Raises Problem 400, 404."""
    workspace_id = path_uuid(connection, "workspace")
    async with deployment(connection).database.read() as session:
        workspace = await workspaces.find_workspace(session, workspace_id)
    if workspace is None or not principal.may_use(workspace.owner_id):
        raise not_found()
    return workspace


async def path_agent(connection: HTTPConnection, principal: Principal) -> Agent:
    """The agent whose id is in the path. Raises Problem 400, 404."""
    return await reachable_agent(deployment(connection), principal, path_uuid(connection, "agent"))


async def reachable_agent(server: Deployment, principal: Principal, agent_id: UUID) -> Agent:
    """An agent that this user may reach. Raises Problem 404."""
    async with server.database.read() as session:
        agent = await agents.find_agent(session, agent_id)
    if agent is None or not principal.may_use(agent.workspace.owner_id):
        raise not_found()
    return agent
