"""What an internet gateway device describes: the services that can map ports, and where on the gateway to call them.

Source: UPnP Device Architecture 1.1 §2.3; WANIPConnection:1 and :2; tailscale net/portmapper/upnp.go.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address
from urllib.parse import urljoin, urlsplit

from ...errors import RemoteProtocolError
from . import safe_xml

IP_2 = "urn:schemas-upnp-org:service:WANIPConnection:2"
IP_1 = "urn:schemas-upnp-org:service:WANIPConnection:1"
PPP_1 = "urn:schemas-upnp-org:service:WANPPPConnection:1"
DSL_PPP_1 = "urn:dslforum-org:service:WANPPPConnection:1"
DSL_IP_1 = "urn:dslforum-org:service:WANIPConnection:1"
PREFERENCE = (IP_2, IP_1, PPP_1, DSL_PPP_1, DSL_IP_1)
"""The best first. Source: tailscale net/portmapper/upnp.go."""
MAX_SERVICES = 8
"""More are not looked at: each costs two calls."""
MAX_PATH = 512


@dataclass(frozen=True, slots=True)
class Target:
    """Where on the gateway: there is no host, because nobody else is ever contacted."""

    port: int
    path: str


@dataclass(frozen=True, slots=True)
class Service:
    """One service that maps ports: its type (one of `PREFERENCE`), and where it is called."""

    kind: str
    control: Target


def on_gateway(url: str, base: Target | None = None) -> Target:
    """Read a URL that a device gave; `base` = the document it stood in.

    Whatever host it names is ignored: the gateway is contacted instead (some routers name an address of another
    interface). A host must be an IPv4 address nevertheless; a name would be somebody's on the Internet. Raises
    RemoteProtocolError.
    """
    try:
        absolute = urljoin(f"http://0.0.0.0:{base.port}{base.path}", url) if base is not None else url
        parts = urlsplit(absolute)
        port = 80 if parts.port is None else parts.port
        IPv4Address(parts.hostname or "")
    except ValueError as exc:
        raise RemoteProtocolError(f"a UPnP device names the address {url[:80]!r}: {exc}") from exc
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if parts.scheme != "http" or port == 0 or not _is_plain(path):
        raise RemoteProtocolError(f"a UPnP device names the address {url[:80]!r}")
    return Target(port, path)


def parse_description(document: bytes, source: Target) -> list[Service]:
    """The services of a device description, the best kind first. Raises RemoteProtocolError.

    A service whose address is no address is left out.
    """
    root = safe_xml.parse(document)
    base = source
    if root.text_of("URLBase"):
        base = on_gateway(root.text_of("URLBase"), source)
    found: list[Service] = []
    for element in root.walk():
        kind, url = element.text_of("serviceType"), element.text_of("controlURL")
        if element.name != "service" or kind not in PREFERENCE or not url:
            continue
        try:
            found.append(Service(kind, on_gateway(url, base)))
        except RemoteProtocolError:
            continue
    return sorted(found, key=lambda service: PREFERENCE.index(service.kind))[:MAX_SERVICES]


def _is_plain(path: str) -> bool:
    """May it stand in a request line?"""
    return len(path) <= MAX_PATH and path.startswith("/") and all("!" <= char <= "~" for char in path)
