"""Apps: declared by the workspace's owner, or by the agent's own configuration. The routes are ours; what stock
clients see of apps is part of the agent's document.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from coder_agent.hooks.web import SharingLevel

from ..auth import agent_of, presented_token
from ..bodies import read_json
from ..deployment import Deployment, deployment
from ..documents.apps import app_document
from ..problems import Problem, invalid, not_found
from ..scopes import Need
from ..store import apps as store
from ..store.accounts import NameTaken
from ..store.schema import Agent
from .access import path_agent, signed_in
from .audit import audit

FIRST_FREE_PORT = 9
"""Ports below belong to the agent's own services. Source: coder codersdk/workspacesdk/workspacesdk.go."""

_SLUG = re.compile(r"[a-z0-9](?:-?[a-z0-9])*\Z")
_PORT_LIKE = re.compile(r"[0-9]{4,5}s?\Z")


def _slug(text: str) -> str:
    """Source: coder coderd/database, provisioner/appslug.Regex; port-like labels would mean a port in a host name."""
    if _SLUG.match(text) is None:
        raise ValueError("A slug has lower-case letters, digits and single dashes between them.")
    if _PORT_LIKE.match(text) is not None:
        raise ValueError("This slug would be read as a port.")
    return text


def _no_controls(text: str) -> str:
    if not text.isprintable():
        raise ValueError("No control characters, please.")
    return text


Slug = Annotated[str, StringConstraints(min_length=1, max_length=32), AfterValidator(_slug)]
Text = Annotated[str, StringConstraints(max_length=64), AfterValidator(_no_controls)]
Address = Annotated[str, StringConstraints(max_length=2048), AfterValidator(_no_controls)]
LINK_SCHEMES = re.compile(r"(?!(?:javascript|data|vbscript|file|blob):)[a-z][a-z0-9+.-]*:", re.IGNORECASE)
"""Schemes of a link in the dashboard; scripts in disguise are none."""


WEB_SCHEMES = frozenset({"http", "https"})


class AppBody(BaseModel):
    """An app as it is declared. Exactly one of `url` and `command`."""

    model_config = ConfigDict(extra="forbid")

    slug: Slug
    display_name: Text = ""
    url: Address = ""
    icon: Address = ""
    command: Annotated[str, StringConstraints(max_length=2048), AfterValidator(_no_controls)] = ""
    external: bool = False
    subdomain: bool = False
    sharing_level: SharingLevel = SharingLevel.OWNER
    healthcheck_url: Address = ""
    healthcheck_interval: int = Field(5, ge=1, le=86400)
    healthcheck_threshold: int = Field(6, ge=1, le=1000)
    hidden: bool = False
    order: int = Field(0, ge=-(1 << 31), lt=1 << 31)
    open_in: Literal["slim-window", "tab"] = "slim-window"
    cors_behavior: Literal["simple", "passthru"] = "simple"
    trusted: bool = False

    @model_validator(mode="after")
    def _fits_together(self) -> AppBody:
        if bool(self.url) == bool(self.command):
            raise ValueError("An app has either a url or a command.")
        if self.command and (self.external or self.subdomain or self.healthcheck_url):
            raise ValueError("A command runs in the terminal: external, subdomain and health check mean nothing.")
        if self.external:
            if LINK_SCHEMES.match(self.url) is None:
                raise ValueError("url must be a link with a scheme, such as https://…")
            if self.subdomain or self.healthcheck_url:
                raise ValueError("An external app is a link: subdomain and health check mean nothing.")
        elif self.url and self.scheme in WEB_SCHEMES:
            check_local_url("url", self.url)
        elif self.url and (LINK_SCHEMES.match(self.url) is None or not urlsplit(self.url).hostname):
            raise ValueError("url must be like http://localhost:8080.")
        if self.healthcheck_url:
            check_local_url("healthcheck_url", self.healthcheck_url)
        if self.icon and not self.icon.startswith(("/", "https://", "http://")):
            raise ValueError("icon must be a path on this server or a URL.")
        return self

    @property
    def scheme(self) -> str:
        """Of the URL. Others than those of the web are an app proxy's: `refuse_unknown_schemes`."""
        return urlsplit(self.url).scheme.lower()

    def value(self) -> store.NewApp:
        """As the store takes it. Without a health check its two numbers are nothing."""
        fields = self.model_dump(mode="json")
        if not self.healthcheck_url:
            fields |= {"healthcheck_interval": 0, "healthcheck_threshold": 0}
        return store.NewApp(**fields)


def refuse_unknown_schemes(server: Deployment, bodies: Iterable[AppBody]) -> None:
    """Apps that nobody here could reach: neither we nor a plugin's app proxy. Raises Problem 400."""
    for body in bodies:
        if body.url and not body.external and body.scheme not in WEB_SCHEMES | server.app_schemes:
            known = ", ".join(sorted(WEB_SCHEMES | server.app_schemes))
            raise invalid("url", f"This server reaches apps by {known}; other schemes need a plugin.")


def check_local_url(field: str, url: str) -> None:
    """An address as the agent sees it: http or https, a host, a port that is not the agent's own. Raises ValueError."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        raise ValueError(f"{field}: the port is not a number from 1 to 65535.") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise ValueError(f"{field} must be like http://localhost:8080.")
    if port is not None and port < FIRST_FREE_PORT:
        raise ValueError(f"{field}: ports below {FIRST_FREE_PORT} are the agent's own.")


class AgentAppsBody(BaseModel):
    """All apps that an agent's configuration declares."""

    apps: list[AppBody] = Field(default_factory=list, max_length=store.MAX_APPS)


def routes() -> list[BaseRoute]:
    """Routes under /api/v2/workspaceagents."""
    return [
        Route("/workspaceagents/me/apps", report_apps, methods=["PUT"]),
        Route("/workspaceagents/{agent}/apps", list_apps, methods=["GET"]),
        Route("/workspaceagents/{agent}/apps", add_app, methods=["POST"]),
        Route("/workspaceagents/{agent}/apps/{slug}", put_app, methods=["PUT"]),
        Route("/workspaceagents/{agent}/apps/{slug}", remove_app, methods=["DELETE"]),
    ]


async def list_apps(request: Request) -> Response:
    """The agent's apps."""
    agent = await path_agent(request, await signed_in(request, Need.READ))
    return JSONResponse([app_document(app, agent) for app in agent.apps])


async def add_app(request: Request) -> Response:
    """Declare an app."""
    return await _declare(request, replace=False)


async def put_app(request: Request) -> Response:
    """Declare an app, or change the one of that slug."""
    return await _declare(request, replace=True)


async def _declare(request: Request, *, replace: bool) -> Response:
    principal = await signed_in(request)
    agent = await path_agent(request, principal)
    body = await read_json(request, AppBody)
    if replace and body.slug != request.path_params["slug"]:
        raise Problem(400, "Validation failed.", validations=[("slug", "It must be the one in the address.")])
    server = deployment(request)
    refuse_unknown_schemes(server, [body])
    async with server.database.write() as session:
        try:
            app = await store.add_app(session, agent.id, body.value(), server.clock(), replace=replace)
        except NameTaken as exc:
            message = f"There is an app {body.slug!r} already."
            raise Problem(409, message, validations=[("slug", "Already in use.")]) from exc
        except store.TooMany as exc:
            raise Problem(409, f"An agent has at most {exc.limit} apps.") from exc
    apps_changed(server, agent)
    status = 200 if replace else 201
    audit(request, "write" if replace else "create", "workspace_app", body.slug, status, principal)
    return JSONResponse(app_document(app, agent), status)


async def remove_app(request: Request) -> Response:
    """Forget an app."""
    principal = await signed_in(request)
    agent = await path_agent(request, principal)
    server = deployment(request)
    slug = str(request.path_params["slug"])
    async with server.database.write() as session:
        if not await store.remove_app(session, agent.id, slug):
            raise not_found()
    apps_changed(server, agent)
    audit(request, "delete", "workspace_app", slug, 204, principal)
    return Response(status_code=204)


def apps_changed(server: Deployment, agent: Agent) -> None:
    """The agent learns of its apps from its manifest, which it asks for when it connects."""
    server.live.agent_changed(agent.id)
    server.presence.close(agent.id, "the apps of this workspace changed")


async def report_apps(request: Request) -> Response:
    """An agent declares the apps of its own configuration, in place of those that it declared before."""
    server = deployment(request)
    agent = await agent_of(server.database, presented_token(request))
    server.report_limit.check(agent.id)
    bodies = (await read_json(request, AgentAppsBody)).apps
    refuse_unknown_schemes(server, bodies)
    wanted = {body.slug: body.value() for body in bodies}
    async with server.database.write() as session:
        told = await store.report_apps(session, agent.id, list(wanted.values()), server.clock())
    if told.changed:
        apps_changed(server, agent)
    return JSONResponse({"changed": told.changed, "declared_otherwise": told.taken})
