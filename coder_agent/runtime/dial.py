"""Outgoing TCP and TLS connections to HTTP servers, through a proxy if there is one, with errors that say what to do.

Whatever goes wrong becomes one TransportBroken (ConfigError for what only the user can mend): what, where, and a hint.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import anyio
import anyio.abc
from anyio.streams.tls import TLSStream

from ..base.egress import Purpose
from ..errors import ConfigError, EgressRefused, TransportBroken
from ..hooks.interfaces import DialOptions
from .proxies import ProxyAddress, proxy_url, through
from .sockets import Target, connect_first, resolve
from .tls import tls_context

CONNECT_TIMEOUT = 15.0
"""Seconds for name, TCP, proxy and TLS together."""


class CertificateNotTrusted(TransportBroken):
    """The server's certificate does not verify: waiting does not help."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an HTTP URL points. `path` is what goes into the request line."""

    secure: bool
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str) -> Endpoint:
        """Read an http, https, ws or wss URL. Raises ConfigError."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as exc:
            raise ConfigError(f"{url!r} is not a URL: {exc}") from exc
        if parts.scheme not in ("http", "https", "ws", "wss") or not parts.hostname:
            raise ConfigError(f"{url!r} is not a URL of a server", hint="write it like https://coder.example.com")
        secure = parts.scheme in ("https", "wss")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(secure, parts.hostname, port or (443 if secure else 80), path)

    @property
    def host_header(self) -> str:
        """The Host header: the port only where it is not the usual one."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


async def dial(
    endpoint: Endpoint, options: DialOptions, *, timeout: float = CONNECT_TIMEOUT, address: str = ""
) -> anyio.abc.ByteStream:
    """Connect to `endpoint`, at `address` if given (but not through a proxy). Raises TransportBroken, ConfigError."""
    context = tls_context(options) if endpoint.secure else None
    try:
        with anyio.fail_after(timeout):
            stream = await _stream(await open_socket(endpoint, options, address=address))
            return stream if context is None else await _start_tls(stream, endpoint, context)
    except TimeoutError as exc:
        raise TransportBroken(
            f"{endpoint} does not answer within {timeout:g} s",
            hint="check the address, and whether a firewall drops the connection",
        ) from exc


async def open_socket(
    endpoint: Endpoint, options: DialOptions, *, address: str = "", targets: Sequence[Target] | None = None
) -> socket.socket:
    """A connected, non-blocking socket to `endpoint`, for whoever brings his own TLS; unbounded: the caller limits it.

    Through the proxy if there is one for it, which looks up the name; else to `targets` if given, else to the addresses
    of `address` or of the name. Every connection of ours outwards is made here: nothing that `options.egress` forbids
    gets past, be it through a proxy. Raises TransportBroken (EgressRefused), ConfigError.
    """
    proxy, egress = proxy_for(endpoint, options), options.egress
    if proxy is not None:
        server = ProxyAddress.parse(proxy)
        egress.require(server.host, server.port, Purpose.PROXY)
        egress.require(endpoint.host, endpoint.port, Purpose.CONNECT)
        return await through(proxy, endpoint.host, endpoint.port)
    try:
        if targets is None:
            return await connect_first(await resolve(address or endpoint.host, endpoint.port, egress))
        allowed = [one for one in targets if egress.allows_address(str(one[1][0]), endpoint.port, Purpose.CONNECT)]
        if not allowed:
            raise EgressRefused(f"{endpoint} may not be reached from here: none of its addresses is allowed")
        return await connect_first(allowed)
    except OSError as exc:
        raise _unreachable(endpoint, exc) from exc


def proxy_for(endpoint: Endpoint, options: DialOptions) -> str | None:
    """The URL of the proxy to use (proxies.proxy_url); None = connect directly."""
    return proxy_url(endpoint.host, endpoint.port, secure=endpoint.secure, configured=options.proxy)


# ---------------------------------------------------------------- steps


async def _stream(sock: socket.socket) -> anyio.abc.ByteStream:
    try:
        return await anyio.abc.SocketStream.from_socket(sock)
    except BaseException:
        sock.close()
        raise


async def _start_tls(stream: anyio.abc.ByteStream, endpoint: Endpoint, context: ssl.SSLContext) -> anyio.abc.ByteStream:
    try:
        return await _wrap(stream, endpoint.host, context)
    except ssl.SSLCertVerificationError as exc:
        raise CertificateNotTrusted(
            f"the certificate of {endpoint} does not verify: {exc.verify_message or exc.reason or exc}",
            hint="check the address; for a private certificate authority name its file: ca_file in [network] of the "
            "configuration, or SSL_CERT_FILE in the environment",
        ) from exc
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as exc:  # the latter is how Python 3.11.2 calls the former
        raise _hung_up(endpoint) from exc
    except ssl.SSLError as exc:
        if wants_certificate(exc):
            raise certificate_wanted(endpoint) from exc
        if exc.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNEXPECTED_MESSAGE"):
            raise TransportBroken(
                f"{endpoint} does not speak TLS", hint="use http:// if this server has no certificate"
            ) from exc
        if exc.reason is not None and "NO_APPLICATION_PROTOCOL" in exc.reason:
            raise TransportBroken(
                f"{endpoint} speaks HTTP/2 only, which has no upgrades",
                hint="allow HTTP/1.1 in the gateway in front of the server",
            ) from exc
        raise TransportBroken(f"TLS with {endpoint} failed: {exc.reason or exc}") from exc
    except (anyio.EndOfStream, anyio.BrokenResourceError, OSError) as exc:
        raise _hung_up(endpoint) from exc


def wants_certificate(error: BaseException | None) -> bool:
    """Did the server end the connection because we showed no certificate? In TLS 1.3 it says so after the handshake."""
    while error is not None:
        if isinstance(error, ssl.SSLError) and "CERTIFICATE_REQUIRED" in (error.reason or ""):
            return True
        error = error.__cause__ or error.__context__
    return False


def certificate_wanted(endpoint: Endpoint) -> TransportBroken:
    """What to do about that."""
    return TransportBroken(
        f"{endpoint} wants a client certificate",
        hint="set client_cert_file and client_key_file in [network] of the configuration, or "
        "CODER_CLIENT_TLS_CERT_FILE and CODER_CLIENT_TLS_KEY_FILE",
    )


def _hung_up(endpoint: Endpoint) -> TransportBroken:
    return TransportBroken(
        f"{endpoint} closed the connection during the TLS handshake", hint="check that the port is the one for https://"
    )


async def _wrap(stream: anyio.abc.ByteStream, host: str, context: ssl.SSLContext) -> anyio.abc.ByteStream:
    try:
        return await TLSStream.wrap(stream, hostname=host, ssl_context=context, standard_compatible=False)
    except BaseException:
        await anyio.aclose_forcefully(stream)
        raise


def _unreachable(endpoint: Endpoint, error: OSError) -> TransportBroken:
    """Every address was tried; what each said is behind the first one's error."""
    cause = error.__cause__
    reasons = list(cause.exceptions) if isinstance(cause, ExceptionGroup) else [error]
    if any(isinstance(reason, socket.gaierror) for reason in reasons):
        return TransportBroken(f"the name {endpoint.host} cannot be found", hint="check the URL and your DNS")
    if all(isinstance(reason, ConnectionRefusedError) for reason in reasons):
        return TransportBroken(
            f"{endpoint} refuses the connection", hint="is the server running, and is the port right?"
        )
    texts = {getattr(reason, "strerror", None) or str(reason) for reason in reasons}
    return TransportBroken(f"{endpoint} cannot be reached: {', '.join(sorted(texts))}")
