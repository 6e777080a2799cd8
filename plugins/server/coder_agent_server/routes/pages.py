"""The pages of the dashboard. Each is complete enough to be read without scripts; its module makes it live."""

from __future__ import annotations

from html import escape
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from ..auth import Principal
from ..deployment import Deployment, deployment
from ..documents import Document
from ..problems import NOT_FOUND
from ..scopes import Need, covers
from ..store import accounts, workspaces
from ..web import static_files
from ..web.help_pages import TITLES, help_html
from ..web.shell import page
from . import sign_in
from .access import maybe_signed_in
from .live import detail_document, list_document, network_view

STATE_WORDS = {
    "direct": "direct",
    "relayed": "relayed",
    "offline": "not reachable",
    "degraded": "degraded",
    "ready": "ready",
    "searching": "looking for a path",
    "waiting": "waiting for its agent",
}
"""As the scripts say them (static/words.js)."""
MARKS = {"direct": "●", "relayed": "◐", "degraded": "▲", "ready": "●", "searching": "◌", "waiting": "○"}


def routes() -> list[BaseRoute]:
    """Routes at the root."""
    return [
        *static_files.routes(),
        *sign_in.routes(),
        Route("/", workspaces_page, methods=["GET"]),
        Route("/network", network_page, methods=["GET"]),
        Route("/account", account_page, methods=["GET"]),
        Route("/help/{name}", help_page, methods=["GET"]),
        Route("/@{owner}/{workspace}", workspace_page, methods=["GET"]),
    ]


async def workspaces_page(request: Request) -> Response:
    """Which of my workspaces can I reach?"""
    server = deployment(request)
    principal = await _visitor(request)
    if principal is None:
        return await _way_in(request)
    data = await list_document(server, principal)
    rows = "".join(_plain_row(workspace) for workspace in data["workspaces"])
    body = (
        "<div id=page><h1>Workspaces</h1><table><thead><tr><th scope=col>State<th scope=col>Workspace"
        f"<th scope=col>Agent<th scope=col>Last seen</tr></thead><tbody>{rows}</tbody></table></div>"
        if rows
        else "<div id=page><h1>No workspace yet</h1><p><code>coder create NAME</code> registers one and says how to"
        " start its agent.</p></div>"
    )
    return page(
        server,
        "Workspaces",
        body,
        principal=principal,
        script="workspaces.js",
        more=("spark.js",),
        data=_with_facts(server, principal, data),
        here="/",
    )


def _plain_row(workspace: Document) -> str:
    """For browsers without scripts; the others draw their own."""
    href = f"/@{quote(workspace['owner'])}/{quote(workspace['name'])}"
    name = f'<a href="{href}">{escape(workspace["owner"])}/{escape(workspace["name"])}</a>'
    rows = ""
    for agent in workspace["agents"]:
        mark, words = MARKS.get(agent["state"], "○"), STATE_WORDS[agent["state"]]
        rows += f"<tr><td>{mark} {words}<td>{name}<td>{escape(agent['name'])}<td>{agent['last_seen_at'] or 'never'}"
    return rows


async def workspace_page(request: Request) -> Response:
    """What is going on with this one?"""
    server = deployment(request)
    principal = await _visitor(request)
    if principal is None:
        return await _way_in(request)
    async with server.database.read() as session:
        wanted = str(request.path_params["owner"])
        owner = principal.user if wanted == "me" else await accounts.find_user(session, wanted)
        name = str(request.path_params["workspace"])
        found = None if owner is None else await workspaces.find_workspace_by_name(session, owner.id, name)
    if found is None or not principal.may_use(found.owner_id):
        return not_found_page(server, principal)
    data = await detail_document(server, principal, found)
    title = f"{found.owner.username}/{found.name}"
    states = "".join(f"<p>{escape(agent['name'])}: {STATE_WORDS[agent['state']]}</p>" for agent in _agents(data))
    return page(
        server,
        title,
        f"<div id=page><h1>{escape(title)}</h1>{states}</div>",
        principal=principal,
        script="workspace.js",
        more=("spark.js", "picture.js", "ports.js", "past.js"),
        data=_with_facts(server, principal, data),
    )


def _agents(data: Document) -> list[Document]:
    return [agent for workspace in data["workspaces"] for agent in workspace["agents"]]


async def network_page(request: Request) -> Response:
    """How healthy is the whole?"""
    server = deployment(request)
    principal = await _visitor(request)
    if principal is None:
        return await _way_in(request)
    data = await network_view(server, principal)
    regions = "".join(
        f"<tr><td>{escape(region['name'])}<td>{escape(', '.join(region['hosts']))}" for region in data["regions"]
    )
    body = (
        "<div id=page><h1>Network</h1><table><thead><tr><th scope=col>Region<th scope=col>Relays</tr></thead>"
        f"<tbody>{regions}</tbody></table></div>"
    )
    return page(
        server,
        "Network",
        body,
        principal=principal,
        script="network.js",
        data=_with_facts(server, principal, data),
        here="/network",
    )


async def account_page(request: Request) -> Response:
    """What can act for me?"""
    server = deployment(request)
    principal = await _visitor(request)
    if principal is None:
        return await _way_in(request)
    body = (
        f"<div id=page><h1>{escape(principal.user.username)}</h1><p>{escape(principal.user.email)}</p>"
        "<p><code>coder tokens list</code> shows what can act for you.</p></div>"
    )
    data: Document = {"key_id": principal.key_id}
    return page(
        server,
        "Account",
        body,
        principal=principal,
        script="account.js",
        data=_with_facts(server, principal, data),
        here="/account",
    )


async def help_page(request: Request) -> Response:
    """What a cause or a code means. For everybody: it says nothing about this deployment."""
    server = deployment(request)
    principal = await _visitor(request)
    name = str(request.path_params["name"])
    try:
        body = help_html(name)
    except KeyError:
        return not_found_page(server, principal)
    return page(server, TITLES[name], f"<article>{body}</article>", principal=principal)


def not_found_page(server: Deployment, principal: Principal | None) -> Response:
    """What is not there, or not this visitor's."""
    body = (
        f'<div class=narrow><h1>Not found</h1><p>{escape(NOT_FOUND)}.</p><p><a href="/">Your workspaces</a></p></div>'
    )
    return page(server, "Not found", body, principal=principal, status=404)


async def _visitor(request: Request) -> Principal | None:
    """Who looks: with a key that may do everything, for the page offers everything."""
    principal = await maybe_signed_in(request)
    return principal if principal is not None and covers(principal.key_scope, Need.ALL) else None


async def _way_in(request: Request) -> Response:
    """To the form that lets in: `/login` goes on to `/setup` if nobody exists."""
    path = request.url.path
    return RedirectResponse("/login" if path == "/" else f"/login?next={quote(path)}", 303)


def _with_facts(server: Deployment, principal: Principal, data: Document) -> Document:
    """What every script needs to know besides."""
    facts = {
        "access_url": server.access_url,
        "user": principal.user.username,
        "user_id": str(principal.user.id),
        "owner": principal.sees_all,
        "wildcard": server.options.wildcard_access_url,
        "version": server.version,
    }
    return {"facts": facts, **data}
