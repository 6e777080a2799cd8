"""What other plugins may add: routes, ways to sign in, another coordinator; and what a bad one cannot do."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
from coder_agent_server.testing import PASSWORD, Api, another_user, first_user, run_server
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from coder_agent.coordination.core import InMemoryCoordinator
from coder_agent.errors import PluginContractError
from coder_agent.hooks import hookimpl
from coder_agent.hooks.interfaces import Authenticator, Identity, ServerContext
from coder_agent.hooks.settings import Settings

pytestmark = pytest.mark.anyio


class Routes:
    """Adds a page, tries to replace one, and offers something that is no route."""

    @hookimpl
    def coder_server_routes(self, context: ServerContext) -> Sequence[object]:
        async def hello(request: Request) -> Response:
            return PlainTextResponse(f"hello from {context.access_url}")

        return [Route("/hello", hello), Route("/api/v2/mine", hello), Route("/healthz", hello), "nonsense"]


async def test_plugins_add_routes_and_replace_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        async with run_server(tmp_path, ("routes", Routes())) as server, Api(server.url) as api:
            reply = await api.get("/hello")
            assert reply.text == f"hello from {server.url}"
            assert reply.headers["x-coder-build-version"]
            assert (await api.get("/healthz")).text == "OK"
    assert "str is not a Starlette route" in caplog.text


class Directory:
    """A directory service that knows bob, and fails for carol."""

    name = "directory"

    async def authenticate(self, login: str, secret: str) -> Identity | None:
        if login == "carol@corp":
            raise OSError("the directory is down")
        return Identity("1", "bob") if (login, secret) == ("bob@corp", "from the directory") else None


class DirectoryPlugin:
    @hookimpl
    def coder_authenticators(self, settings: Settings) -> Sequence[Authenticator]:
        return [Directory()]


async def test_an_authenticator_vouches_for_accounts_that_exist(tmp_path: Path) -> None:
    async with (
        run_server(tmp_path, ("directory", DirectoryPlugin())) as server,
        first_user(server.url) as alice,
        Api(server.url) as anonymous,
    ):

        async def sign_in(email: str, password: str) -> int:
            body = {"email": email, "password": password}
            return (await anonymous.post("/api/v2/users/login", json=body)).status_code

        assert await sign_in("bob@corp", "from the directory") == 401  # nobody has made his account yet
        async with another_user(alice, server.url, "bob"):
            assert await sign_in("bob@corp", "from the directory") == 201
            assert await sign_in("bob@corp", PASSWORD) == 401
            assert await sign_in("carol@corp", "x") == 401
            assert await sign_in("bob@example.org", PASSWORD) == 201


class Coordinator:
    def __init__(self, coordinator: object) -> None:
        self.coordinator = coordinator

    @hookimpl
    def coder_coordinator_store(self, settings: Settings) -> object:
        return self.coordinator


async def test_another_coordinator_may_stand_in(tmp_path: Path) -> None:
    mine = InMemoryCoordinator()
    async with run_server(tmp_path, ("store", Coordinator(mine))) as server:
        assert server.running.deployment.coordinator is mine


async def test_something_that_is_no_coordinator_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PluginContractError, match="connect"):
        async with run_server(tmp_path, ("store", Coordinator(object()))):
            raise AssertionError("it started")
