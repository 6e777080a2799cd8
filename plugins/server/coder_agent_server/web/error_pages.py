"""What went wrong, for people: the same sentences as in the API's error document, on a page."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from html import escape

from starlette.requests import Request
from starlette.responses import Response

from ..deployment import deployment
from .shell import page

Handler = Callable[[Request, Exception], Awaitable[Response]]

TITLES = {
    400: "This request was not understood",
    403: "Refused",
    404: "Not found",
    405: "Not possible here",
    408: "It took too long",
    413: "Too large",
    429: "Too many requests",
    500: "The server made a mistake",
    503: "Not now",
}
WHAT_TO_DO = {
    404: "See whether the address is right, and whether you are signed in as somebody who may see this.",
    429: "Wait a minute, then try again.",
    500: "Its log has the details, with the time of your request. Whoever runs this server can read it.",
    503: "Try again in a moment.",
}


def for_people(handler: Handler) -> Handler:
    """The handler's answer as a page where a browser asked for one; programs get the document."""

    async def handle(request: Request, exc: Exception) -> Response:
        reply = await handler(request, exc)
        return as_page(request, reply) if wants_page(request) else reply

    return handle


def wants_page(request: Request) -> bool:
    """Was this opened in a browser, and is it none of the API?"""
    return not request.url.path.startswith("/api/") and "text/html" in request.headers.get("accept", "")


def as_page(request: Request, reply: Response) -> Response:
    """An error document as a page with the same status and headers."""
    try:
        said = json.loads(bytes(reply.body))
    except ValueError:
        said = {}
    title = TITLES.get(reply.status_code, "Something went wrong")
    lines = [said.get("message", ""), said.get("detail", ""), WHAT_TO_DO.get(reply.status_code, "")]
    lines += [f"{fault.get('field')}: {fault.get('detail')}" for fault in said.get("validations", ())]
    text = "".join(f"<p>{escape(line)}</p>" for line in lines if line)
    body = f'<div class=narrow><h1>{title}</h1>{text}<p><a href="/">Your workspaces</a></p></div>'
    made = page(deployment(request), title, body, status=reply.status_code)
    for name in ("retry-after", "allow"):
        if name in reply.headers:
            made.headers[name] = reply.headers[name]
    return made
