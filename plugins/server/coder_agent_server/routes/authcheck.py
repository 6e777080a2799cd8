"""May I? Programs ask before they try: `coder support bundle` does, and so do dashboards that hide buttons.

Source: coder codersdk/authorization.go, coderd/authorize.go.
"""

from __future__ import annotations

from uuid import UUID

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ..auth import Principal
from ..bodies import read_json
from ..deployment import Deployment, deployment
from ..problems import Problem
from ..scopes import Need, covers
from ..store import accounts, workspaces
from .access import signed_in

MAX_CHECKS = 256
MAX_LOOKUPS = 10
"""Objects by id in one request. Source: coder coderd/authorize.go."""
OWNED = frozenset({"workspace", "api_key", "user", "user_secret"})
"""What belongs to a user, who may do everything with what is theirs; all else belongs to the deployment."""
FOR_ALL = frozenset({("organization", "read"), ("template", "read"), ("deployment_stats", "read")})
"""What everybody who is signed in may do."""


class ObjectBody(BaseModel):
    """What it is about: one object by `resource_id`, or all of a kind that `owner_id` owns."""

    resource_type: str = Field(default="", max_length=64)
    owner_id: str = Field(default="", max_length=64)
    resource_id: str = Field(default="", max_length=64)


class CheckBody(BaseModel):
    """One question."""

    object: ObjectBody = ObjectBody()
    action: str = Field(default="", max_length=64)


class ChecksBody(BaseModel):
    """Questions by name; the answers have the same names."""

    checks: dict[str, CheckBody] = Field(default_factory=dict, max_length=MAX_CHECKS)


def routes() -> list[BaseRoute]:
    """Routes under /api/v2."""
    return [Route("/authcheck", authcheck, methods=["POST"])]


async def authcheck(request: Request) -> Response:
    """What the user who asks may do."""
    principal = await signed_in(request, Need.READ)
    checks = (await read_json(request, ChecksBody)).checks
    lookups = sum(bool(check.object.resource_id) for check in checks.values())
    if lookups > MAX_LOOKUPS:
        raise Problem(400, f'At most {MAX_LOOKUPS} objects may be named by "resource_id", not {lookups}.')
    for name, check in checks.items():
        if not check.object.resource_type:
            raise Problem(400, f'Object\'s "resource_type" field must be defined for key "{name[:64]}".')
    server = deployment(request)
    return JSONResponse({name: await _may(server, principal, check) for name, check in checks.items()})


async def _may(server: Deployment, principal: Principal, check: CheckBody) -> bool:
    subject = check.object
    if not covers(principal.key_scope, Need.READ if check.action == "read" else Need.ALL):
        return False
    if subject.resource_id:
        owner = await _owner(server, subject)
        return owner is not None and principal.may_use(owner)
    if principal.sees_all or (subject.resource_type, check.action) in FOR_ALL:
        return True
    return subject.resource_type in OWNED and subject.owner_id in ("me", str(principal.user.id))


async def _owner(server: Deployment, subject: ObjectBody) -> UUID | None:
    """Whose object this is; None for what does not exist. Raises Problem 400."""
    try:
        wanted = UUID(subject.resource_id)
    except ValueError:
        raise Problem(
            400, f'Object "{subject.resource_id}" id is not a valid uuid.', validations=[("resource_id", "Not a UUID.")]
        ) from None
    async with server.database.read() as session:
        if subject.resource_type == "workspace":
            workspace = await workspaces.find_workspace(session, wanted)
            return None if workspace is None else workspace.owner_id
        if subject.resource_type == "user":
            user = await accounts.find_user(session, str(wanted))
            return None if user is None else user.id
    message = f'Object type "{subject.resource_type}" does not support "resource_id" field.'
    raise Problem(400, message, validations=[("resource_type", message)])
