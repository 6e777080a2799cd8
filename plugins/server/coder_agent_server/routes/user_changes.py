"""What becomes of accounts: new passwords, roles, suspension, the end. Source: coder coderd/users.go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ..auth import Principal, caller_ip
from ..bodies import read_json
from ..deployment import Deployment, deployment
from ..documents.accounts import user_document
from ..passwords import password_fault
from ..problems import Problem, invalid, not_found
from ..store import accounts
from ..store.schema import User
from .access import owner_only, path_user, signed_in
from .audit import audit

OWNER = "owner"


class PasswordBody(BaseModel):
    """`old_password` is needed for one's own account only."""

    old_password: str = ""
    password: str


class RolesBody(BaseModel):
    """All roles that the account has from now on."""

    roles: list[str]


def routes() -> list[BaseRoute]:
    """Routes under /api/v2/users/{user}."""
    return [
        Route("/users/{user}", delete_user, methods=["DELETE"]),
        Route("/users/{user}/password", change_password, methods=["PUT"]),
        Route("/users/{user}/roles", change_roles, methods=["PUT"]),
        Route("/users/{user}/status/suspend", suspend, methods=["PUT"]),
        Route("/users/{user}/status/activate", activate, methods=["PUT"]),
    ]


@dataclass(frozen=True, slots=True)
class Change:
    """Something that an owner does to somebody else's account."""

    server: Deployment
    principal: Principal
    user: User

    @classmethod
    async def of_another(cls, request: Request, own: str) -> Change:
        """Who asks and about whom. `own`: what is answered to who means himself. Raises Problem 400, 401, 404."""
        principal = await owner_only(request)
        user = await path_user(request, principal)
        if user.id == principal.user.id:
            raise Problem(400, own)
        return cls(deployment(request), principal, user)

    async def update(self, alter: Callable[[User], None], reason: str) -> User:
        """Write it, and end what goes on under the account's keys."""
        async with self.server.database.write() as session:
            user = await _found_again(session, self.user)
            alter(user)
            user.updated_at = self.server.clock()
            keys = await _key_ids(session, user)
        self.server.revocations.revoked(keys, reason)
        return user


async def _found_again(session: AsyncSession, user: User) -> User:
    found = await accounts.find_user(session, str(user.id))
    if found is None:
        raise not_found()  # deleted meanwhile
    return found


async def _key_ids(session: AsyncSession, user: User) -> Sequence[str]:
    return [key.id for key, _ in await accounts.user_keys(session, user.id, tokens_only=False)]


async def delete_user(request: Request) -> Response:
    """Remove an account that has no workspaces any more; its sessions and tokens end at once."""
    change = await Change.of_another(request, "You cannot delete yourself!")
    async with change.server.database.write() as session:
        keys = await _key_ids(session, change.user)
        try:
            await accounts.delete_user(session, change.user.id)
        except accounts.HasWorkspaces:
            raise Problem(
                417, "You cannot delete a user that has workspaces. Delete their workspaces and try again!"
            ) from None
    change.server.revocations.revoked(keys, "the account was deleted")
    audit(request, "delete", "user", change.user.username, 200, change.principal)
    return JSONResponse({"message": "User has been deleted!"})


async def change_password(request: Request) -> Response:
    """A new password: one's own with the old one, anybody's for an owner. All sessions end, named tokens stay."""
    principal = await signed_in(request)
    user = await path_user(request, principal)
    server = deployment(request)
    body = await read_json(request, PasswordBody)
    fault = password_fault(body.password)
    if fault is not None:
        raise invalid("password", fault)
    if user.id == principal.user.id:
        server.login_limit.check(caller_ip(request))  # who found an open session must not guess on with it
        if not await server.passwords.verify(body.old_password, user.password_hash):
            raise invalid("old_password", "Old password is incorrect.")
    password_hash = await server.passwords.hash(body.password)
    async with server.database.write() as session:
        found = await _found_again(session, user)
        found.password_hash = password_hash
        found.updated_at = server.clock()
        gone = await accounts.delete_sessions(session, user.id)
    server.revocations.revoked(gone, "the password was changed")
    audit(request, "write", "user", user.username, 204, principal)
    return Response(status_code=204)


async def change_roles(request: Request) -> Response:
    """Make somebody an owner, or no owner any more."""
    change = await Change.of_another(request, "You cannot change your own roles.")
    wanted = set((await read_json(request, RolesBody)).roles) - {"member"}
    if not wanted <= {OWNER}:
        raise invalid("roles", "The only role besides that of every member is owner.")

    def alter(user: User) -> None:
        user.is_owner = OWNER in wanted

    user = await change.update(alter, "the account's roles were changed")
    audit(request, "write", "user", user.username, 200, change.principal)
    return JSONResponse(user_document(user))


async def suspend(request: Request) -> Response:
    """Keep somebody out, until he is activated; his workspaces and tokens are kept."""
    change = await Change.of_another(request, "You cannot suspend yourself.")
    if change.user.is_owner:
        raise Problem(400, "You cannot suspend a user with the owner role. You must remove the role first.")
    return await _set_status(request, change, "suspended")


async def activate(request: Request) -> Response:
    """Let somebody in again."""
    return await _set_status(request, await Change.of_another(request, "You are active."), "active")


async def _set_status(request: Request, change: Change, status: str) -> Response:
    def alter(user: User) -> None:
        user.status = status

    user = await change.update(alter, f"the account is {status}")
    audit(request, "write", "user", user.username, 200, change.principal)
    return JSONResponse(user_document(user))
