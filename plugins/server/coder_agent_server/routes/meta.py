"""What the deployment says about itself, and the constants that clients ask for."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from ..deployment import deployment
from ..documents import Document
from ..documents.accounts import organization_document
from ..documents.deployment import (
    appearance_document,
    build_info_document,
    entitlements_document,
    regions_document,
    ssh_document,
)
from ..problems import not_found
from ..scopes import Need
from ..store import accounts
from .access import signed_in


def routes() -> list[BaseRoute]:
    """Routes under /api/v2."""
    return [
        Route("/", hello, methods=["GET"]),
        Route("/buildinfo", build_info, methods=["GET"]),
        Route("/updatecheck", update_check, methods=["GET"]),
        Route("/regions", regions, methods=["GET"]),
        Route("/deployment/ssh", ssh, methods=["GET"]),
        Route("/appearance", appearance, methods=["GET"]),
        Route("/entitlements", entitlements, methods=["GET"]),
        Route("/experiments", experiments, methods=["GET"]),
        Route("/experiments/available", available_experiments, methods=["GET"]),
        Route("/applications/host", applications_host, methods=["GET"]),
        Route("/organizations", organizations, methods=["GET"]),
        Route("/organizations/{organization}", organization, methods=["GET"]),
    ]


async def healthz(request: Request) -> Response:
    """Is the process serving? For load balancers."""
    return PlainTextResponse("OK")


async def hello(request: Request) -> Response:
    """The API's root."""
    return JSONResponse({"message": "👋"})


async def build_info(request: Request) -> Response:
    """Version and dashboard URL."""
    return JSONResponse(build_info_document(deployment(request)))


async def update_check(request: Request) -> Response:
    """This server calls nobody: it is as new as it is."""
    return JSONResponse({"current": True, "version": deployment(request).version, "url": ""})


async def regions(request: Request) -> Response:
    """Where web apps can be reached."""
    await signed_in(request, Need.READ)
    return JSONResponse(regions_document(deployment(request)))


async def ssh(request: Request) -> Response:
    """Settings of `coder config-ssh`."""
    await signed_in(request, Need.READ)
    return JSONResponse(ssh_document(deployment(request)))


async def appearance(request: Request) -> Response:
    """Names and banners."""
    return JSONResponse(appearance_document())


async def entitlements(request: Request) -> Response:
    """Licences."""
    await signed_in(request, Need.READ)
    return JSONResponse(entitlements_document(deployment(request)))


async def experiments(request: Request) -> Response:
    """None."""
    await signed_in(request, Need.READ)
    return JSONResponse([])


async def available_experiments(request: Request) -> Response:
    """None."""
    await signed_in(request, Need.READ)
    return JSONResponse({"safe": []})


async def applications_host(request: Request) -> Response:
    """The wildcard host of subdomain apps; empty = there are none."""
    await signed_in(request, Need.READ)
    return JSONResponse({"host": deployment(request).options.wildcard_access_url})


async def organizations(request: Request) -> Response:
    """The default one."""
    return JSONResponse([await _default_organization(request)])


async def organization(request: Request) -> Response:
    """The default one, by name or id."""
    document = await _default_organization(request)
    if request.path_params["organization"] not in ("default", document["id"]):
        raise not_found()
    return JSONResponse(document)


async def _default_organization(request: Request) -> Document:
    await signed_in(request, Need.READ)
    async with deployment(request).database.read() as session:
        return organization_document(await accounts.default_organization(session))
