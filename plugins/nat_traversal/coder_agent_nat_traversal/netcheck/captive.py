"""Does somebody stand between us and the network, and answer in others' names until we have paid or agreed?

Only relays of the map that serve port 80 are asked, and what the user configured: never a third party.
Source: tailscale net/captivedetection/{captivedetection,endpoints}.go.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

import anyio

from coder_agent.base.derp_map import DerpMap, DerpRegion
from coder_agent.errors import CoderAgentError
from coder_agent.hooks import DialOptions, Egress
from coder_agent.hooks.egress import OPEN
from coder_agent.http import HttpResponse, request

TIMEOUT = 3.0
"""Seconds for an answer."""
MAX_ENDPOINTS = 5
CHALLENGE, RESPONSE = "X-Tailscale-Challenge", "x-tailscale-response"

Fetch = Callable[[str, dict[str, str]], Awaitable[HttpResponse]]


@dataclass(frozen=True, slots=True)
class Page:
    """A page that answers 204 without content, and (a relay's) repeats a challenge."""

    url: str
    challenge: str = ""


def pages(derp_map: DerpMap, urls: Sequence[str], home: int = 0) -> list[Page]:
    """Whom to ask, at most MAX_ENDPOINTS: the home region's relays, other relays, what is configured."""
    ordered = sorted(derp_map.regions.values(), key=lambda region: region.region_id != home)
    found = [page for region in ordered for page in _of_region(region, region.region_id == home)]
    return [*found, *(Page(url) for url in urls)][:MAX_ENDPOINTS]


def _of_region(region: DerpRegion, is_home: bool) -> list[Page]:
    if not is_home and (region.avoid or region.no_measure_no_home):
        return []
    nodes = [node for node in region.nodes if node.can_port_80 and _is_ipv4(node.ipv4)]
    return [Page(f"http://{node.ipv4}/generate_204", f"ts_{node.host_name}") for node in nodes]


def is_intercepted(page: Page, answer: HttpResponse) -> bool:
    """True if this answer is not that page's."""
    if answer.status != 204:
        return True
    return bool(page.challenge) and answer.headers.get(RESPONSE) != f"response {page.challenge}"


async def fetch(url: str, headers: dict[str, str], egress: Egress = OPEN) -> HttpResponse:
    """GET without proxy, redirects or anything of the user's. Raises TransportBroken."""
    return await request("GET", url, headers=headers, timeout=TIMEOUT, options=DialOptions(proxy="", egress=egress))


async def detect(asked: Sequence[Page], fetch: Fetch = fetch) -> bool | None:
    """True if any page was intercepted, False if one was genuine, None if nobody answered (or nobody was asked)."""
    found: set[bool] = set()

    async def ask(page: Page, scope: anyio.CancelScope) -> None:
        headers = {"Cache-Control": "no-cache, no-store, must-revalidate, no-transform, max-age=0"}
        if page.challenge:
            headers[CHALLENGE] = page.challenge
        separator = "&" if "?" in page.url else "?"
        try:
            answer = await fetch(f"{page.url}{separator}t={int(time.time())}", headers)
        except CoderAgentError:
            return
        found.add(is_intercepted(page, answer))
        if True in found:
            scope.cancel()

    async with anyio.create_task_group() as tasks:
        for page in asked:
            tasks.start_soon(ask, page, tasks.cancel_scope)
    return any(found) if found else None


def _is_ipv4(text: str) -> bool:
    try:
        IPv4Address(text)
    except ValueError:
        return False
    return True
