"""HTTP as this program speaks it, for plugins: proxies, certificates, time-outs and errors that say what to do.

`ApiClient` is Coder's REST API, `request` one request anywhere, `dial` a connection for whoever speaks for himself.
"""

from __future__ import annotations

from .runtime.dial import Endpoint, dial
from .runtime.http import ApiClient, HttpResponse, merge_headers, request

__all__ = ["ApiClient", "Endpoint", "HttpResponse", "dial", "merge_headers", "request"]
