"""Which proxy a connection takes, and the way through it: HTTP CONNECT and SOCKS5, with a user name if there is one.

The one place that decides for every outgoing connection: API, coordination, relays, relay maps. A proxy that is set
must never be gone round, so there is no fall-back to a direct connection.
Source: golang.org/x/net/http/httpproxy for the environment's rules; RFC 9110 §9.3.6 and RFC 1928/1929 by python-socks.
"""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from ..errors import ConfigError, TransportBroken

if TYPE_CHECKING:
    from python_socks.async_.asyncio import Proxy

NEVER = ("", "none", "direct")
"""Values of the setting `proxy` that mean: none, whatever the environment says."""
_PORTS = {"http": 80, "socks5": 1080, "socks5h": 1080, "socks4": 1080}
"""Schemes understood, with the port when the URL names none."""
PROXY_TIMEOUT = 120.0
"""Seconds inside python-socks. Never reached: the caller's own limit fires first, with the better sentence."""
_SETTING_HINT = "write it like http://USER:PASSWORD@host:3128 or socks5://host:1080"


@dataclass(frozen=True, slots=True)
class ProxyAddress:
    """A proxy, read from its URL. Prints as ``host:port``: the password stays in."""

    kind: str
    host: str
    port: int
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @classmethod
    def parse(cls, url: str) -> ProxyAddress:
        """Read ``http://user:password@host:port`` or ``socks5://…``. Raises ConfigError, without the password."""
        shown = url.rpartition("@")[2]
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as exc:
            raise ConfigError(f"the proxy {shown!r} is not usable: {exc}", hint=_SETTING_HINT) from exc
        if parts.scheme not in _PORTS:
            raise ConfigError(
                f"the proxy {shown!r} is not usable: {parts.scheme or 'it has no scheme, which'} is not supported",
                hint=_SETTING_HINT,
            )
        if not parts.hostname:
            raise ConfigError(f"the proxy {shown!r} is not usable: it has no host", hint=_SETTING_HINT)
        kind = parts.scheme.removesuffix("h")
        name, password = unquote(parts.username or ""), unquote(parts.password or "")
        return cls(kind, parts.hostname, port or _PORTS[parts.scheme], name, password)

    def __str__(self) -> str:
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def proxy_url(host: str, port: int, *, secure: bool, configured: str | None) -> str | None:
    """The URL of the proxy for `host`:`port`; None = connect directly.

    `configured` is the user's setting: None = as the environment says (HTTPS_PROXY for TLS, HTTP_PROXY for plain
    connections, else ALL_PROXY; NO_PROXY excepts), NEVER = no proxy. As Go does, nothing in the environment is meant
    for this machine itself; a proxy that was configured is used even for that.
    """
    if configured is not None:
        return None if configured.strip().lower() in NEVER else configured.strip()
    if not _may_be_set():
        return None
    from urllib.request import getproxies, getproxies_environment, proxy_bypass

    if is_loopback(host) or is_excepted(host, port, getproxies_environment().get("no", "")):
        return None
    proxies = getproxies()
    url = proxies.get("https" if secure else "http") or proxies.get("all")
    if not url or (not getproxies_environment() and proxy_bypass(host)):  # the system's own exceptions (macOS, Windows)
        return None
    return url if "://" in url else f"http://{url}"


def _may_be_set() -> bool:
    """Is there anything that the standard library would find? It takes 0.5 MB to look."""
    return sys.platform in ("darwin", "win32") or any(name.lower().endswith("_proxy") for name in os.environ)


def is_loopback(host: str) -> bool:
    """This machine itself, by address or name."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost" or host.lower().endswith(".localhost")


def is_excepted(host: str, port: int, no_proxy: str) -> bool:
    """Does NO_PROXY name `host`? Entries: ``*``; a name (it and what is below it); ``.name`` or ``*.name`` (only what
    is below); an address; a network in CIDR form; each, but for networks, with ``:port`` if one port is meant."""
    host = host.lower().rstrip(".")
    return any(_matches(entry, host, port) for entry in no_proxy.lower().replace(" ", ",").split(",") if entry)


def _matches(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    if "/" in entry:
        with suppress(ValueError):
            return ip_address(host) in ip_network(entry, strict=False)
        return False
    name, wanted = _split_port(entry)
    if wanted and wanted != str(port):
        return False
    with suppress(ValueError):
        return ip_address(host) == ip_address(name)
    below = name.removeprefix("*")
    return host.endswith(below if below.startswith(".") else f".{below}") or host == name


def _split_port(entry: str) -> tuple[str, str]:
    if entry.startswith("["):
        name, _, rest = entry[1:].partition("]")
        return name, rest.removeprefix(":")
    if entry.count(":") == 1:
        name, _, port = entry.partition(":")
        return name, port
    return entry, ""  # a name, or an IPv6 address without a port


async def through(url: str, host: str, port: int) -> socket.socket:
    """A socket that ends at `host`:`port`, by the proxy at `url`, which looks the name up. The caller limits the time.

    Raises TransportBroken, ConfigError (a URL of no proxy). Neither repeats the password.
    """
    # Here, not above: most machines have no proxy, and an idle agent is to be small.
    from python_socks import ProxyConnectionError, ProxyError, ProxyTimeoutError

    proxy = ProxyAddress.parse(url)
    target = f"{f'[{host}]' if ':' in host else host}:{port}"
    try:
        sock = await _connector(proxy).connect(host, port, timeout=PROXY_TIMEOUT)
    except ProxyError as exc:
        raise TransportBroken(f"the proxy {proxy} does not connect to {target}: {exc}", hint=_hint(str(exc))) from exc
    except (ProxyConnectionError, ProxyTimeoutError, OSError, EOFError) as exc:
        raise TransportBroken(
            f"the proxy {proxy} cannot be reached",
            hint="check HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, and proxy in [network] of the configuration",
        ) from exc
    sock.setblocking(False)
    return sock


def _connector(proxy: ProxyAddress) -> Proxy:
    from python_socks import ProxyType
    from python_socks.async_.asyncio import Proxy

    kinds = {"http": ProxyType.HTTP, "socks5": ProxyType.SOCKS5, "socks4": ProxyType.SOCKS4}
    # Names are for the proxy to look up (rdns): behind one there is often no DNS.
    return Proxy(kinds[proxy.kind], proxy.host, proxy.port, proxy.username, proxy.password, rdns=True)


def _hint(words: str) -> str | None:
    if "407" in words or "auth" in words.lower():
        return "the proxy wants a user name and a password, or others: http://USER:PASSWORD@host:port"
    if "403" in words or "not allowed" in words.lower():
        return "the proxy's rules forbid this address or port: ask its administrator"
    return None
