"""Reverse proxies whose word counts: ``--proxy-trusted-origins`` says which, ``--proxy-trusted-headers`` what.

Of everybody else those headers are removed, so that nobody can lie about where he is, to us or to an app behind us.
Source: coder coderd/httpmw/realip.go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from starlette.types import Scope

ADDRESS_HEADERS = ("cf-connecting-ip", "true-client-ip", "x-real-ip", "x-forwarded-for")
"""Names that may be trusted, and in this order: the first that is there counts."""
SPOOFED = frozenset({*(name.encode() for name in ADDRESS_HEADERS), b"x-forwarded-proto", b"forwarded"})

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class TrustedProxies:
    """`headers` in lower case. Without `origins` nobody is trusted."""

    origins: tuple[Network, ...] = ()
    headers: tuple[str, ...] = ()

    def apply(self, scope: Scope) -> None:
        """Put the visitor's address and scheme into an ASGI scope, or remove what an untrusted peer says of them.

        A unix socket's peer is trusted as soon as any header is: whoever may open it is on this machine.
        """
        if not self.trusts(scope.get("client")):
            scope["headers"] = [(name, value) for name, value in scope["headers"] if name not in SPOOFED]
            return
        told = {name: value.decode("latin-1") for name, value in scope["headers"]}
        for name in self.headers:
            if (address := self._client_of(told.get(name.encode(), ""))) is not None:
                scope["client"] = (str(address), 0)
                break
        proto = told.get(b"x-forwarded-proto", "").strip().lower()
        if proto in ("http", "https"):
            websocket = scope["type"] == "websocket"
            scope["scheme"] = ("wss" if proto == "https" else "ws") if websocket else proto

    def trusts(self, client: Sequence[object] | None) -> bool:
        """Does the word of this peer, (address, port) or None for a unix socket's, count for anything?"""
        if not self.headers:
            return False
        if not client:
            return True
        address = parse_ip(str(client[0]))
        return address is not None and any(address in network for network in self.origins)

    def _client_of(self, text: str) -> IPv4Address | IPv6Address | None:
        """The last address of a list that is no trusted proxy: what stands before it anybody may have written."""
        last = None
        for part in reversed(text.split(",")):
            address = parse_ip(part.strip())
            if address is None:
                return last
            last = address
            if not any(address in network for network in self.origins):
                return address
        return last


def parse_ip(text: str) -> IPv4Address | IPv6Address | None:
    """An address, perhaps with a port or in brackets; IPv4 in IPv6 counts as IPv4."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found


def known_headers(names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of the names that somebody wrote, those that can be trusted, in our order, and those that cannot."""
    wanted = {name.strip().lower() for name in names if name.strip()}
    return tuple(name for name in ADDRESS_HEADERS if name in wanted), tuple(sorted(wanted - set(ADDRESS_HEADERS)))
