"""`coder users delete|suspend|activate|edit-roles|password`: what becomes of accounts."""

from __future__ import annotations

import os
from typing import Annotated, Any
from urllib.parse import quote

import anyio
import typer

from .accounts import ENV_NEW_PASSWORD
from .apps import api_of
from .output import Output, OutputOption, print_json
from .questions import ask_password

ENV_OLD_PASSWORD = "CODER_OLD_USER_PASSWORD"

Who = Annotated[str, typer.Argument(metavar="USER", help="a user name or an id")]


def delete_user(ctx: typer.Context, user: Who, output: OutputOption = Output.TABLE) -> None:
    """Remove an account that has no workspaces any more; for owners. Its sessions and tokens end at once."""
    anyio.run(api_of(ctx.obj).delete, _path(user))
    _tell(output, {"deleted": user}, f"User {user} is deleted.")


def suspend_user(ctx: typer.Context, user: Who, output: OutputOption = Output.TABLE) -> None:
    """Keep somebody out, for owners: what goes on under his keys ends. Workspaces and tokens are kept."""
    changed = anyio.run(api_of(ctx.obj).call, "PUT", f"{_path(user)}/status/suspend")
    _tell(output, changed, f"User {user} is suspended. Let him in again with `coder users activate {user}`.")


def activate_user(ctx: typer.Context, user: Who, output: OutputOption = Output.TABLE) -> None:
    """Let a suspended user in again; for owners."""
    changed = anyio.run(api_of(ctx.obj).call, "PUT", f"{_path(user)}/status/activate")
    _tell(output, changed, f"User {user} is active.")


def edit_roles(
    ctx: typer.Context,
    user: Who,
    roles: Annotated[str, typer.Option(help="owner, or member for no further role")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Say who is an owner of the deployment; for owners."""
    wanted = [role.strip() for role in roles.split(",") if role.strip()]
    changed = anyio.run(api_of(ctx.obj).call, "PUT", f"{_path(user)}/roles", {"roles": wanted})
    _tell(output, changed, f"User {user} is {'an owner' if changed['roles'] else 'a member'}.")


def change_password(
    ctx: typer.Context,
    user: Annotated[str, typer.Argument(metavar="[USER]", help="for owners: somebody else's")] = "me",
    output: OutputOption = Output.TABLE,
) -> None:
    """Set a new password; all sessions of the account end. One's own old and new passwords are asked for, or read from
    CODER_OLD_USER_PASSWORD and CODER_NEW_USER_PASSWORD."""
    old = ""
    if user == "me":
        old = os.environ.get(ENV_OLD_PASSWORD) or ask_password(
            "Old password", "old password", ENV_OLD_PASSWORD, twice=False
        )
    new = os.environ.get(ENV_NEW_PASSWORD) or ask_password("New password", "password", ENV_NEW_PASSWORD, twice=True)
    anyio.run(api_of(ctx.obj).call, "PUT", f"{_path(user)}/password", {"old_password": old, "password": new})
    next_step = " Sign in again with `coder login`." if user == "me" else ""
    _tell(output, {"changed": user}, f"The password is changed; all sessions are ended.{next_step}")


def _path(user: str) -> str:
    return f"/api/v2/users/{quote(user, safe='')}"


def _tell(output: Output, document: dict[str, Any], sentence: str) -> None:
    if output is Output.JSON:
        print_json(document)
    else:
        print(sentence)
