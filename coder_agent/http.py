"""The public face of our HTTP client: bounded requests, through the user's proxy, with errors that say what to do.

    answer = await request("GET", "https://relays.example.com/derpmap.json", options=DialOptions())

`ApiClient` is Coder's REST API, `dial` a connection (TCP, or TLS) for whoever speaks for himself.
"""

from __future__ import annotations

from .runtime.dial import Endpoint, dial
from .runtime.http import ApiClient, HttpResponse, merge_headers, request

__all__ = ["ApiClient", "Endpoint", "HttpResponse", "dial", "merge_headers", "request"]
