"""How far away is a relay, when UDP does not say? One small request on an open connection.

Source: tailscale net/netcheck/netcheck.go (measureHTTPSLatency).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal

import anyio
import anyio.abc
import h11

from coder_agent.base.derp_map import DerpNode
from coder_agent.errors import CoderAgentError
from coder_agent.hooks import DialOptions
from coder_agent.http import Endpoint, dial, headers_of, merge_headers

from .interfaces import Family

CONNECT_TIMEOUT = 1.5
"""Seconds for TCP and TLS. Source: tailscale derp/derphttp/derphttp_client.go (dialNodeTimeout)."""
ANSWER_TIMEOUT = 2.0
"""Seconds from the request to the answer's headers: a relay farther away is no home."""
MAX_HEAD = 8 << 10
"""Bytes read before the headers must have ended."""


@dataclass(frozen=True, slots=True)
class HttpsAnswer:
    """`latency` of the request alone, in seconds; None with `error` (one line) and `hint` when there was no answer."""

    latency: float | None
    family: Literal["v4", "v6"] = "v4"
    error: str = ""
    hint: str = ""


Measure = Callable[[DerpNode, DialOptions], Awaitable[HttpsAnswer]]


def relay_endpoint(node: DerpNode, path: str) -> tuple[Endpoint, str]:
    """Where `path` of a relay is, and the address to connect to if the map states one ("" = look the name up)."""
    endpoint = Endpoint(
        secure=not node.force_http,
        host=_verified_name(node),
        port=node.derp_port or (80 if node.force_http else 443),
        path=path,
    )
    address = _literal(node.ipv4) or _literal(node.ipv6)
    return endpoint, address or ("" if endpoint.host == node.host_name else node.host_name)


def relay_options(node: DerpNode, options: DialOptions) -> DialOptions:
    """`options` for that relay. One whose certificate cannot be verified here gets none of the user's headers."""
    if node.insecure_for_tests or node.cert_name.startswith("sha256-raw:"):
        return DialOptions(insecure=True, proxy=options.proxy, egress=options.egress)
    return options


async def measure_https(node: DerpNode, options: DialOptions) -> HttpsAnswer:
    """Time one ``GET /derp/latency-check``. Never raises for what the network does."""
    endpoint, address = relay_endpoint(node, "/derp/latency-check")
    options = relay_options(node, options)
    try:
        stream = await dial(endpoint, options, timeout=CONNECT_TIMEOUT, address=address)
    except CoderAgentError as error:
        return HttpsAnswer(None, error=error.message, hint=error.hint or "")
    family: Family = "v6" if ":" in str(stream.extra(anyio.abc.SocketAttribute.remote_address)[0]) else "v4"
    try:
        fields = merge_headers(await headers_of(options), {"Host": endpoint.host_header, "Connection": "close"})
        started = anyio.current_time()
        with anyio.fail_after(ANSWER_TIMEOUT):
            status = await _status(stream, endpoint.path, fields)
        if status > 299:
            return HttpsAnswer(None, family, f"{endpoint} answers with HTTP status {status}, as no relay does")
        return HttpsAnswer(max(anyio.current_time() - started, 1e-6), family)
    except TimeoutError:
        return HttpsAnswer(None, family, f"{endpoint} takes longer than {ANSWER_TIMEOUT:g} s to answer")
    except (anyio.BrokenResourceError, anyio.EndOfStream, OSError, h11.ProtocolError):
        return HttpsAnswer(None, family, f"{endpoint} does not answer as a relay does")
    finally:
        await anyio.aclose_forcefully(stream)


async def _status(stream: anyio.abc.ByteStream, path: str, fields: dict[str, str]) -> int:
    machine = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
    head = machine.send(h11.Request(method="GET", target=path, headers=list(fields.items()))) or b""
    await stream.send(head + (machine.send(h11.EndOfMessage()) or b""))
    while True:
        event = machine.next_event()
        if isinstance(event, h11.Response):
            return event.status_code
        if event is h11.NEED_DATA:
            machine.receive_data(await stream.receive())
        elif not isinstance(event, h11.InformationalResponse):
            raise anyio.EndOfStream


def _verified_name(node: DerpNode) -> str:
    pinned = node.cert_name.startswith("sha256-raw:")
    return node.cert_name if node.cert_name and not pinned else node.host_name


def _literal(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        return ""
