"""The pages' scripts and styles: read once, compressed once, cached by browsers for as long as they are the same.

``/static/<file>`` is asked for again with its ETag; ``/static/v-<hash>/<file>`` names the content of the whole folder
and is kept for ever. Modules import each other by relative names, so one address with the hash brings all of them.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

STATIC = Path(__file__).parent / "static"
THIRD_PARTY = "modules/"
"""What scripts/web_modules.py fetches."""
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Other files (licences) are not served."""
MISSING = (
    "This file comes from npm and was not fetched when this server was installed: run scripts/setup in its source"
    " folder on a machine that has npm, or install a wheel that was built there.\n"
)
FOR_EVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class Asset:
    """A file as it goes over the wire."""

    body: bytes
    packed: bytes
    etag: str
    media_type: str


def routes() -> list[BaseRoute]:
    """Routes at the root."""
    return [Route("/static/{path:path}", serve, methods=["GET"]), Route("/favicon.ico", icon, methods=["GET"])]


@cache
def names() -> frozenset[str]:
    """Every file there is: nothing else can be asked for, whatever the address looks like."""
    files = (path for path in STATIC.rglob("*") if path.suffix in TYPES and path.is_file())
    return frozenset(path.relative_to(STATIC).as_posix() for path in files)


@cache
def version() -> str:
    """A hash of the pages' own files."""
    digest = hashlib.sha256()
    for name in sorted(names()):
        digest.update(f"{name}\0".encode() + (STATIC / name).read_bytes())
    return f"v-{digest.hexdigest()[:12]}"


@cache
def asset(name: str) -> Asset:
    """A file, read and compressed at its first use. Raises KeyError if there is none."""
    if name not in names():
        raise KeyError(name)
    body = (STATIC / name).read_bytes()
    etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    return Asset(body, gzip.compress(body, 9, mtime=0), etag, TYPES[Path(name).suffix])


def address(name: str) -> str:
    """Where a page finds a file of ours."""
    return f"/static/{version()}/{name}"


def has(name: str) -> bool:
    """Was this file fetched? For pages that cannot do without a module."""
    return name in names()


async def serve(request: Request) -> Response:
    """A file."""
    name = str(request.path_params["path"])
    first, _, rest = name.partition("/")
    named = first == version()
    return _answer(request, rest if named or first.startswith("v-") else name, for_ever=named)


async def icon(request: Request) -> Response:
    """Browsers ask for it wherever they are."""
    return _answer(request, "icon.svg", for_ever=False)


def _answer(request: Request, name: str, *, for_ever: bool) -> Response:
    try:
        found = asset(name)
    except KeyError:
        missing = MISSING if name.startswith(THIRD_PARTY) else "There is no such file.\n"
        return PlainTextResponse(missing, 404, {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"})
    headers = {
        "Cache-Control": FOR_EVER if for_ever else "no-cache",
        "ETag": found.etag,
        "Vary": "Accept-Encoding",
        "X-Content-Type-Options": "nosniff",
    }
    if found.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(found.packed, headers={**headers, "Content-Encoding": "gzip"}, media_type=found.media_type)
    return Response(found.body, headers=headers, media_type=found.media_type)
