"""Outgoing TCP and TLS connections to HTTP servers, through a proxy if there is one, with errors that say what to do.

Whatever goes wrong becomes one TransportBroken (ConfigError for what only the user can mend): what, where, and a hint.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import anyio
import anyio.abc
import truststore
from anyio.streams.tls import TLSStream

from ..errors import ConfigError, TransportBroken
from ..hooks.interfaces import DialOptions

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
    context = tls_context(options.ca_file, options.insecure) if endpoint.secure else None
    proxy = proxy_for(endpoint, options)
    try:
        with anyio.fail_after(timeout):
            stream = await (_direct(endpoint, address) if proxy is None else _through(proxy, endpoint))
            return stream if context is None else await _start_tls(stream, endpoint, context)
    except TimeoutError as exc:
        raise TransportBroken(
            f"{endpoint} does not answer within {timeout:g} s",
            hint="check the address, and whether a firewall drops the connection",
        ) from exc


def proxy_for(endpoint: Endpoint, options: DialOptions) -> str | None:
    """The proxy to use: the configured one ("" = none), else HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY."""
    if options.proxy is not None:
        return options.proxy or None
    if proxy_bypass(f"{endpoint.host}:{endpoint.port}"):
        return None
    proxies = getproxies()
    url = proxies.get("https" if endpoint.secure else "http") or proxies.get("all")
    return f"http://{url}" if url and "://" not in url else url or None


@lru_cache(maxsize=8)
def tls_context(ca_file: str | None, insecure: bool) -> ssl.SSLContext:
    """Trust the system's certificates (by the system's own rules), and `ca_file` too. Raises ConfigError.

    Kept, because loading the system's certificates takes 20 ms.
    """
    if insecure:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if ca_file:
            try:
                context.load_verify_locations(ca_file)
            except OSError as exc:  # ssl.SSLError is one
                raise ConfigError(f"the CA file {ca_file} cannot be used: {exc.strerror or exc}") from exc
    context.set_alpn_protocols(["http/1.1"])  # upgrades do not exist in HTTP/2
    return context


# ---------------------------------------------------------------- steps


async def _direct(endpoint: Endpoint, address: str) -> anyio.abc.ByteStream:
    try:
        return await anyio.connect_tcp(address or endpoint.host, endpoint.port)
    except OSError as exc:
        raise _unreachable(endpoint, exc) from exc


async def _through(proxy: str, endpoint: Endpoint) -> anyio.abc.ByteStream:
    # Here, not above: most machines have no proxy, and an idle agent is to be small.
    from python_socks import ProxyConnectionError, ProxyError, ProxyTimeoutError, parse_proxy_url
    from python_socks.async_.anyio.v2 import Proxy

    shown = urlsplit(proxy).netloc.rpartition("@")[2] or proxy
    try:
        kind, host, port, username, password = parse_proxy_url(proxy)
        connector = Proxy(kind, host, port, username, password, rdns=True)
    except ValueError as exc:
        raise ConfigError(
            f"the proxy {shown!r} is not usable: {exc}", hint="write it like http://host:3128 or socks5://host:1080"
        ) from exc
    try:
        # Our own limit surrounds this call; the library's must not fire first with a less telling error.
        stream = await connector.connect(endpoint.host, endpoint.port, timeout=10 * CONNECT_TIMEOUT)
    except ProxyError as exc:
        raise TransportBroken(f"the proxy {shown} does not connect to {endpoint}: {exc}") from exc
    except (ProxyConnectionError, ProxyTimeoutError, OSError, anyio.BrokenResourceError) as exc:
        raise TransportBroken(
            f"the proxy {shown} cannot be reached",
            hint="check HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, and proxy in [network] of the configuration",
        ) from exc
    return stream.anyio_stream


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
        if exc.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNEXPECTED_MESSAGE"):
            raise TransportBroken(
                f"{endpoint} does not speak TLS", hint="use http:// if this server has no certificate"
            ) from exc
        raise TransportBroken(f"TLS with {endpoint} failed: {exc.reason or exc}") from exc
    except (anyio.EndOfStream, anyio.BrokenResourceError, OSError) as exc:
        raise _hung_up(endpoint) from exc


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
    """anyio tries every address and wraps what each said."""
    reasons: list[BaseException] = [error]
    while reasons[0].__cause__ is not None:
        reasons = [reasons[0].__cause__]
        if isinstance(reasons[0], BaseExceptionGroup):
            reasons = list(reasons[0].exceptions)
    if any(isinstance(reason, socket.gaierror) for reason in (error, *reasons)):
        return TransportBroken(f"the name {endpoint.host} cannot be found", hint="check the URL and your DNS")
    if all(isinstance(reason, ConnectionRefusedError) for reason in reasons):
        return TransportBroken(
            f"{endpoint} refuses the connection", hint="is the server running, and is the port right?"
        )
    texts = {getattr(reason, "strerror", None) or str(reason) for reason in reasons}
    return TransportBroken(f"{endpoint} cannot be reached: {', '.join(sorted(texts))}")
