"""A small HTTP client (h11): one request per connection, bounded answers; and Coder's REST API over it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.abc
import h11

from .. import __version__
from ..errors import ApiError, ConfigError, CoordinationError, TransportBroken, Unauthenticated
from ..hooks.interfaces import DialOptions
from .dial import CONNECT_TIMEOUT, Endpoint, certificate_wanted, dial, wants_certificate
from .header_command import headers_of

TIMEOUT = 30.0
"""Seconds for one whole request, as stock clients allow."""
MAX_BODY = 16 * 1024 * 1024
"""Bytes of one answer; the largest real document (a list of all workspaces) is far smaller."""
BUILD_VERSION_HEADER = "x-coder-build-version"
TOKEN_HEADER = "Coder-Session-Token"
USER_AGENT = f"coder-agent/{__version__}"


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An answer. Header names are lower case; of several equal ones the last is kept."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON. Raises ValueError."""
        try:
            return json.loads(self.body)
        except RecursionError as exc:
            raise ValueError("nested too deeply") from exc


async def request(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: Any = None,
    timeout: float = TIMEOUT,
    options: DialOptions | None = None,
) -> HttpResponse:
    """Make one request; `body` is sent as JSON. Redirects are not followed.

    Raises: TransportBroken, ConfigError (bad URL or CA file).
    """
    options = options or DialOptions()
    endpoint = Endpoint.parse(url)
    data = b"" if body is None else json.dumps(body).encode()
    fields = merge_headers(
        {"User-Agent": USER_AGENT, "Accept": "application/json"}, await headers_of(options), headers or {}
    )
    own = {"Host": endpoint.host_header, "Connection": "close", "Content-Length": str(len(data))}
    if body is not None:
        own["Content-Type"] = "application/json"
    fields = merge_headers(fields, own)
    stream = await dial(endpoint, options, timeout=min(timeout, CONNECT_TIMEOUT))
    try:
        with anyio.fail_after(timeout):
            return await _exchange(stream, endpoint, method, fields, data, MAX_BODY)
    except TimeoutError as exc:
        raise TransportBroken(f"{endpoint} took longer than {timeout:g} s to answer") from exc
    except (anyio.BrokenResourceError, anyio.EndOfStream, OSError) as exc:
        if wants_certificate(exc):
            raise certificate_wanted(endpoint) from exc
        raise TransportBroken(
            f"{endpoint} closed the connection before it had answered",
            hint="a gateway in front of the server must allow HTTP/1.1" if endpoint.secure else None,
        ) from exc
    except h11.LocalProtocolError as exc:
        raise ConfigError(f"a request header cannot be sent: {exc}", hint="check --header") from exc
    except h11.RemoteProtocolError as exc:
        raise TransportBroken(
            f"{endpoint} does not answer in HTTP",
            hint="check the URL and its port; a gateway in front must allow HTTP/1.1",
        ) from exc
    finally:
        await anyio.aclose_forcefully(stream)


async def request_over(
    stream: anyio.abc.ByteStream, method: str, url: str, *, timeout: float = TIMEOUT, max_body: int = MAX_BODY
) -> HttpResponse:
    """One request over a connection that is there already (through a tunnel, say), without anybody's own headers.
    `url` says what is asked for. The stream stays open; it is used up. Raises TransportBroken, also for an answer of
    more than `max_body` bytes."""
    endpoint = Endpoint.parse(url)
    fields = {"Host": endpoint.host_header, "User-Agent": USER_AGENT, "Connection": "close"}
    try:
        with anyio.fail_after(timeout):
            return await _exchange(stream, endpoint, method, fields, b"", max_body)
    except TimeoutError as exc:
        raise TransportBroken(f"{endpoint} took longer than {timeout:g} s to answer") from exc
    except (anyio.BrokenResourceError, anyio.EndOfStream, OSError) as exc:
        raise TransportBroken(f"{endpoint} closed the connection before it had answered") from exc
    except h11.RemoteProtocolError as exc:
        raise TransportBroken(f"{endpoint} does not answer in HTTP") from exc


def merge_headers(*groups: Mapping[str, str]) -> dict[str, str]:
    """One set of headers; a later group replaces a name of an earlier one, whatever its case.

    Raises ConfigError for what no header can carry (RFC 9110 §5.5), without repeating it: it may be a secret.
    """
    merged: dict[str, tuple[str, str]] = {}
    for group in groups:
        merged |= {name.lower(): (name, value) for name, value in group.items()}
    for name, value in merged.values():
        if not (name.isascii() and value.isascii() and value.isprintable()):
            raise ConfigError(
                f"the header {name!a} cannot be sent: it has characters that no header may have",
                hint="check the token (`coder login` makes a new one) and --header",
            )
    return dict(merged.values())


async def _exchange(
    stream: anyio.abc.ByteStream,
    endpoint: Endpoint,
    method: str,
    fields: Mapping[str, str],
    data: bytes,
    max_body: int,
) -> HttpResponse:
    machine = h11.Connection(h11.CLIENT)
    head = machine.send(h11.Request(method=method, target=endpoint.path, headers=list(fields.items()))) or b""
    if data:
        head += machine.send(h11.Data(data=data)) or b""
    await stream.send(head + (machine.send(h11.EndOfMessage()) or b""))
    response: h11.Response | None = None
    body = bytearray()
    received = ended = False
    while True:
        try:
            event = machine.next_event()
        except h11.RemoteProtocolError as exc:
            if ended and (response is not None or not received):
                raise anyio.EndOfStream from exc  # cut off, not wrong
            raise
        if event is h11.NEED_DATA:
            data = await _receive(stream)
            received, ended = received or bool(data), not data
            machine.receive_data(data)
        elif isinstance(event, h11.Response):
            response = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > max_body:
                raise TransportBroken(f"{endpoint} sent more than {max_body >> 20} MiB")
        elif isinstance(event, h11.EndOfMessage) and response is not None:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in response.headers}
            return HttpResponse(response.status_code, headers, bytes(body))
        elif isinstance(event, h11.ConnectionClosed):
            raise anyio.EndOfStream


async def _receive(stream: anyio.abc.ByteStream) -> bytes:
    """Some bytes; none at the end, as h11 wants to hear it."""
    try:
        return await stream.receive()
    except anyio.EndOfStream:
        return b""


# ---------------------------------------------------------------- Coder's API


class NotACoderServer(CoordinationError):
    """Something answers at this URL, but not what we are looking for: waiting does not help."""


class NotOffered(ApiError):
    """A coder server without this route: a stock one, for what is ours alone, or one that is older than we are."""

    def __init__(self, url: str, status: int) -> None:
        super().__init__(
            f"{url} does not offer this",
            hint="it is a stock Coder server, or one older than this program",
            status=status,
        )


ROUTE_NOT_FOUND = "Route not found."
"""Source: coder coderd/httpapi/httpapi.go (RouteNotFound); a thing that does not exist gives another message."""


class ApiClient:
    """Coder's REST API: documents in, documents out, error documents as exceptions. `url` is the server's root.

    Every call raises: TransportBroken (not reached), Unauthenticated (401), ApiError (any other error document),
    NotACoderServer (what answers is something else).
    """

    def __init__(self, url: str, token: str, options: DialOptions | None = None) -> None:
        Endpoint.parse(url)  # a bad URL shall be told now, not at the first call
        self.url = url.rstrip("/")
        self._token = token
        self._options = options or DialOptions()

    async def get(self, path: str, *, timeout: float = TIMEOUT) -> Any:
        """The document at `path` (``/api/v2/…``)."""
        return await self.call("GET", path, timeout=timeout)

    async def post(self, path: str, body: Any = None, *, timeout: float = TIMEOUT) -> Any:
        """Send a document, return the answer's (None if it has none)."""
        return await self.call("POST", path, body, timeout=timeout)

    async def delete(self, path: str, *, timeout: float = TIMEOUT) -> Any:
        """Delete what is at `path`."""
        return await self.call("DELETE", path, timeout=timeout)

    async def call(self, method: str, path: str, body: Any = None, *, timeout: float = TIMEOUT) -> Any:
        """Any method."""
        headers = {TOKEN_HEADER: self._token} if self._token else {}
        response = await request(
            method, self.url + path, headers=headers, body=body, timeout=timeout, options=self._options
        )
        if response.status >= 300:
            raise api_error(self.url, response)
        check_ours(self.url, response)
        if not response.body:
            return None
        try:
            return response.json()
        except ValueError as exc:
            raise not_ours(self.url, f"its answer to {path.partition('?')[0]} is not JSON") from exc


def check_ours(url: str, response: HttpResponse) -> None:
    """Raises NotACoderServer if the answer does not come from a coder server: those put their version on all."""
    if BUILD_VERSION_HEADER not in response.headers:
        raise not_ours(url, "the answer has no X-Coder-Build-Version")


def not_ours(url: str, why: str) -> NotACoderServer:
    """The error for a URL behind which something else listens."""
    return NotACoderServer(f"{url} is not a coder server: {why}", hint="check the URL, and proxies in between")


def api_error(url: str, response: HttpResponse) -> ApiError | Unauthenticated | CoordinationError:
    """What an answer of 300 or more means."""
    if 300 <= response.status < 400 and (target := response.headers.get("location")):
        return NotACoderServer(f"{url} redirects to {target}", hint="use the URL that it redirects to")
    document = _error_document(response)
    if document is None:
        # A proxy on the way may answer for a server of ours that is down (502, 503 …).
        if response.status == 405 and BUILD_VERSION_HEADER in response.headers:
            return NotOffered(url, 405)
        if response.status >= 500 or BUILD_VERSION_HEADER in response.headers:
            return ApiError(f"{url} answered with HTTP status {response.status}", status=response.status)
        if response.status == 400 and b"SSL certificate" in response.body:  # nginx's words, "No required SSL …"
            return NotACoderServer(f"{url} wants a client certificate", hint="set client_cert_file in [network]")
        return not_ours(url, f"it answered with HTTP status {response.status} and no error document")
    message = str(document.get("message") or f"HTTP status {response.status}")
    if response.status == 401:
        return Unauthenticated(message, hint="try logging in using `coder login`")
    if response.status == 404 and message == ROUTE_NOT_FOUND:
        return NotOffered(url, 404)
    validations = tuple(
        (str(v.get("field", "")), str(v.get("detail", "")))
        for v in document.get("validations") or ()
        if isinstance(v, Mapping)
    )
    if validations:
        # Not "field: detail": what follows `password:` is starred out wherever it is printed.
        message = message.rstrip(".") + ": " + "; ".join(f"{text.rstrip('.')} ({field})" for field, text in validations)
    return ApiError(message, status=response.status, detail=str(document.get("detail") or ""), validations=validations)


def _error_document(response: HttpResponse) -> Mapping[str, Any] | None:
    try:
        document = response.json()
    except ValueError:
        return None
    return document if isinstance(document, Mapping) and "message" in document else None
