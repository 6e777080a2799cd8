"""`coder login`: sign in, or make a new server's first user."""

from __future__ import annotations

import secrets
import sys
from typing import Annotated, Any

import anyio
import typer

from ..errors import ApiError, ConfigError, Unauthenticated
from ..hooks.interfaces import DialOptions
from ..runtime.http import ApiClient
from .context import Cli
from .output import Output, OutputOption, note, print_json


def login(
    ctx: typer.Context,
    url: Annotated[str, typer.Argument(help="URL of the server; default: the last one")] = "",
    first_user_username: Annotated[str, typer.Option(envvar="CODER_FIRST_USER_USERNAME")] = "",
    first_user_email: Annotated[str, typer.Option(envvar="CODER_FIRST_USER_EMAIL")] = "",
    first_user_full_name: Annotated[str, typer.Option(envvar="CODER_FIRST_USER_FULL_NAME")] = "",
    first_user_password: Annotated[str, typer.Option(envvar="CODER_FIRST_USER_PASSWORD")] = "",
    first_user_trial: Annotated[str, typer.Option(envvar="CODER_FIRST_USER_TRIAL", hidden=True)] = "",
    email: Annotated[str, typer.Option(help="sign in with a password, as this user")] = "",
    password: Annotated[
        str, typer.Option(help="with --email; better by environment than on the command line", envvar="CODER_PASSWORD")
    ] = "",
    use_token_as_session: Annotated[
        bool, typer.Option("--use-token-as-session", help="keep --token itself instead of a new key")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Sign in to a coder server and remember it. On a new server this makes the first user, its owner.

    With --token the token is exchanged for a session; with --email a password is asked for; otherwise a token from the
    server's own page is.
    """
    cli: Cli = ctx.obj
    server = cli.trusted(url) if url else cli.url()
    first = {
        "username": first_user_username,
        "email": first_user_email,
        "name": first_user_full_name,
        "password": first_user_password,
    }
    dial = cli.dial_options()
    token = cli.settings.client.token.get_secret_value()
    if not anyio.run(_has_users, server, dial):
        note("This server has not been set up yet: creating its first user.")
        session = anyio.run(_create_first_user, server, _complete(first), dial)
    elif token and not email:
        session = token if use_token_as_session else anyio.run(_new_key, server, token, dial)
    elif email:
        session = anyio.run(_sign_in, server, email, password or _ask("Password", hide=True), dial)
    else:
        note(f"Open {server}/cli-auth in a browser, sign in, and copy the token.")
        session = anyio.run(_new_key, server, _ask("Paste your token here", hide=True), dial)
    user = anyio.run(_whoami, server, session, dial)
    cli.session.save(server, session)
    if output is Output.JSON:
        print_json({"url": server, "username": user["username"], "email": user["email"]})
    else:
        print(f"Welcome to Coder, {user['username']}! You're authenticated.")


def _ask(question: str, *, hide: bool = False, default: str | None = None) -> str:
    if not sys.stdin.isatty():
        raise ConfigError(
            f"cannot ask for {question!r}: there is no terminal",
            hint="give it as an option or in the environment, see `coder login --help`",
        )
    answer = typer.prompt(question, hide_input=hide, default=default, err=True)
    return str(answer).strip()


def _complete(first: dict[str, str]) -> dict[str, str]:
    """Ask for what the flags left out."""
    username = first["username"] or _ask("Username of the first user")
    email = first["email"] or _ask("Email", default=f"{username}@localhost")
    password = first["password"]
    if not password:
        password = _ask("Password", hide=True)
        if not secrets.compare_digest(password.encode(), _ask("The same password again", hide=True).encode()):
            raise ConfigError("the two passwords differ", hint="run `coder login` again")
    return {**first, "username": username, "email": email, "password": password}


async def _has_users(url: str, dial: DialOptions) -> bool:
    try:
        await ApiClient(url, "", dial).get("/api/v2/users/first")
    except ApiError as exc:
        if exc.status != 404:
            raise
        return False
    return True


async def _create_first_user(url: str, first: dict[str, str], dial: DialOptions) -> str:
    await ApiClient(url, "", dial).post("/api/v2/users/first", {**first, "trial": False})
    return await _sign_in(url, first["email"], first["password"], dial)


async def _sign_in(url: str, email: str, password: str, dial: DialOptions) -> str:
    try:
        reply = await ApiClient(url, "", dial).post("/api/v2/users/login", {"email": email, "password": password})
    except Unauthenticated as exc:
        raise Unauthenticated("wrong email or password", hint="check both; after many attempts wait a minute") from exc
    return str(reply["session_token"])


async def _new_key(url: str, token: str, dial: DialOptions) -> str:
    try:
        reply = await ApiClient(url, token, dial).post("/api/v2/users/me/keys")
    except Unauthenticated as exc:
        raise Unauthenticated("that is not a valid token", hint=f"get one from {url}/cli-auth") from exc
    return str(reply["key"])


async def _whoami(url: str, token: str, dial: DialOptions) -> dict[str, Any]:
    document: dict[str, Any] = await ApiClient(url, token, dial).get("/api/v2/users/me")
    return document
