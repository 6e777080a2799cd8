"""The public face of our HTTP client: bounded requests, through the user's proxy, with errors that say what to do.

    answer = await request("GET", "https://relays.example.com/derpmap.json", options=DialOptions())

`ApiClient` is Coder's REST API, `dial` a connection (TCP, or TLS) for whoever speaks for himself, `open_socket` a bare
socket for whoever brings his own TLS (`tls_context`). `headers_of` is what the user wants on every request.
"""

from __future__ import annotations

from .runtime.dial import CertificateNotTrusted, Endpoint, dial, open_socket, proxy_for
from .runtime.header_command import headers_of
from .runtime.http import ApiClient, HttpResponse, merge_headers, request, request_over
from .runtime.link_watch import is_ours
from .runtime.sockets import Target, connect_first, in_turn, resolve
from .runtime.tls import tls_context
from .runtime.websocket import WebSocketStream, open_websocket

__all__ = [
    "ApiClient",
    "CertificateNotTrusted",
    "Endpoint",
    "HttpResponse",
    "Target",
    "WebSocketStream",
    "connect_first",
    "dial",
    "headers_of",
    "in_turn",
    "is_ours",
    "merge_headers",
    "open_socket",
    "open_websocket",
    "proxy_for",
    "request",
    "request_over",
    "resolve",
    "tls_context",
]
