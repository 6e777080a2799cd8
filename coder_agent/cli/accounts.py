"""`coder users` and `coder tokens`: who may sign in, and with which keys; `coder logout`."""

from __future__ import annotations

import os
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import quote

import anyio
import typer

from ..directory import ago
from ..errors import ApiError, CoderAgentError
from ..runtime.http import ApiClient
from .apps import api_of
from .context import Cli
from .durations import parse_duration
from .output import Output, OutputOption, note, print_json, print_table
from .questions import ask_password

NANOSECONDS = 1_000_000_000
ENV_NEW_PASSWORD = "CODER_NEW_USER_PASSWORD"


def create_user(
    ctx: typer.Context,
    username: Annotated[str, typer.Argument(help="letters, digits and single dashes")],
    email: Annotated[str, typer.Option(help="what he signs in with")],
    name: Annotated[str, typer.Option("--full-name", help="what people read")] = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Make an account; for owners. The password is asked for, or read from CODER_NEW_USER_PASSWORD."""
    password = os.environ.get(ENV_NEW_PASSWORD) or ask_password("Password", "password", ENV_NEW_PASSWORD, twice=True)
    body = {"username": username, "email": email, "name": name, "password": password}
    made = anyio.run(api_of(ctx.obj).post, "/api/v2/users", body)
    if output is Output.JSON:
        print_json(made)
    else:
        print(f"User {made['username']} is made. He signs in as {made['email']}.")


def list_users(
    ctx: typer.Context,
    search: Annotated[str, typer.Option(help="part of a name or an address")] = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """List accounts; who is not an owner sees his own."""
    users = anyio.run(api_of(ctx.obj).get, f"/api/v2/users?q={quote(search)}")["users"]
    if output is Output.JSON:
        print_json(users)
        return
    rows = [(u["username"], u["email"], _roles(u), u["status"], ago(u["last_seen_at"])) for u in users]
    print_table(["username", "email", "roles", "status", "last seen"], rows)


def _roles(user: dict[str, Any]) -> str:
    return ", ".join(role["name"] for role in user["roles"]) or "member"


# ---------------------------------------------------------------- tokens


def create_token(
    ctx: typer.Context,
    name: Annotated[str, typer.Option("--name", "-n", help="to find it again")] = "",
    lifetime: Annotated[str, typer.Option(help="such as 12h; none = a week")] = "",
    scope: Annotated[
        str, typer.Option(help="all, application_connect, workspace:read or workspace:ssh (which includes read)")
    ] = "all",
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a token for a program. It is shown this one time."""
    nanoseconds = round(parse_duration(lifetime) * NANOSECONDS) if lifetime else 0
    body = {"lifetime": nanoseconds, "scope": scope, "token_name": name}
    made = anyio.run(api_of(ctx.obj).post, "/api/v2/users/me/keys/tokens", body)
    if output is Output.JSON:
        print_json(made)
    else:
        print(made["key"])


def list_tokens(
    ctx: typer.Context,
    everyone: Annotated[bool, typer.Option("--all", "-a", help="everybody's; for owners")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """List named tokens, without their secrets."""
    path = f"/api/v2/users/me/keys/tokens?include_all={str(everyone).lower()}"
    tokens = anyio.run(api_of(ctx.obj).get, path)
    if output is Output.JSON:
        print_json(tokens)
        return
    if not tokens:
        note("No tokens. Make one with `coder tokens create --name NAME`.")
        return
    rows = [(t["id"], t["token_name"], t["username"], t["scope"], ago(t["last_used"]), _day(t)) for t in tokens]
    print_table(["id", "name", "owner", "scope", "last used", "expires"], rows)


def _day(token: dict[str, Any]) -> str:
    return datetime.fromisoformat(token["expires_at"]).astimezone().strftime("%Y-%m-%d %H:%M")


def remove_token(
    ctx: typer.Context,
    which: Annotated[str, typer.Argument(metavar="TOKEN", help="its name or id")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Revoke a token: whoever uses it is signed out, and what it holds open ends."""
    anyio.run(_remove, api_of(ctx.obj), which)
    if output is Output.JSON:
        print_json({"removed": which})
    else:
        print(f"Token {which} is revoked.")


async def _remove(api: ApiClient, token: str) -> None:
    try:
        key = await api.get(f"/api/v2/users/me/keys/tokens/{quote(token, safe='')}")
    except ApiError as exc:
        if exc.status != 404:
            raise
        raise ApiError(f"you have no token {token!r}", status=404, hint="see `coder tokens list`") from exc
    await api.delete(f"/api/v2/users/me/keys/{key['id']}")


def logout(ctx: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """Sign out: the server forgets the session, and so does this machine."""
    cli: Cli = ctx.obj
    try:
        anyio.run(api_of(cli).post, "/api/v2/users/logout")
    except CoderAgentError as exc:
        note(f"The server was not told: {exc}")
    cli.session.forget()
    if output is Output.JSON:
        print_json({"logged_out": True})
    else:
        print("You are signed out.")
