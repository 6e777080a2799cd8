"""A TCP connection to a relay node: which addresses its map entry means. Proxies and the race are the core's.

Source: tailscale derp/derphttp/derphttp_client.go dialNode @de9ec7ee.
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address

import anyio

from coder_agent.base.derp_map import DerpNode
from coder_agent.errors import EgressRefused, TransportBroken
from coder_agent.hooks import DialOptions, Egress, Purpose
from coder_agent.hooks.egress import OPEN
from coder_agent.http import Endpoint, Target, in_turn, open_socket, proxy_for, resolve

NODE_TIMEOUT = 1.5
"""Seconds for the TCP connection to one node (dialNodeTimeout)."""
PROXY_TIMEOUT = 8.0
"""Seconds through a proxy, which dials on its own terms."""


def endpoint_of(node: DerpNode) -> Endpoint:
    """Where the relay is, as HTTP sees it: its port as configured, else 443, or 80 for plain HTTP."""
    port = node.derp_port or (80 if node.force_http else 443)
    return Endpoint(not node.force_http, node.host_name, port, "/derp")


async def connect(node: DerpNode, dial: DialOptions) -> socket.socket:
    """A connected, non-blocking socket. Raises TransportBroken, ConfigError (a proxy that is none)."""
    endpoint = endpoint_of(node)
    if proxy_for(endpoint, dial) is not None:
        targets, limit = None, PROXY_TIMEOUT  # which looks the name up itself
    else:
        targets, limit = await targets_of(node, dial.egress), NODE_TIMEOUT
        if not targets:
            raise TransportBroken(f"{node.host_name} has no usable address")
    with anyio.move_on_after(limit):
        return await open_socket(endpoint, dial, targets=targets)
    raise TransportBroken(f"{node.host_name} does not answer on port {endpoint.port} within {limit:g} s")


async def targets_of(node: DerpNode, egress: Egress = OPEN) -> list[Target]:
    """Addresses to try, IPv6 first: those that `egress` allows. A field that holds no address of its family ("none")
    switches the family off. Raises TransportBroken (EgressRefused: none of its addresses is allowed)."""
    port = endpoint_of(node).port
    stated: list[Target] = []
    unknown: list[socket.AddressFamily] = []
    for family, text in ((socket.AF_INET6, node.ipv6), (socket.AF_INET, node.ipv4)):
        if not text:
            unknown.append(family)
        elif (address := _literal(family, text)) is not None:
            stated.append((family, (address, port)))
    found = [target for target in stated if egress.allows(str(target[1][0]), port, Purpose.RELAY)]
    if unknown:
        family_wanted = unknown[0] if len(unknown) == 1 else socket.AF_UNSPEC
        try:
            found += await resolve(node.host_name, port, egress, family_wanted)
        except EgressRefused:
            if not found:
                raise
        except OSError as exc:
            if not found:
                raise TransportBroken(f"the name {node.host_name} cannot be resolved: {exc.strerror}") from exc
    if stated and not found:
        raise EgressRefused(f"{node.host_name} may not be reached from here: none of its addresses is allowed")
    return in_turn(found)


def _literal(family: socket.AddressFamily, text: str) -> str | None:
    try:
        return str(IPv6Address(text) if family == socket.AF_INET6 else IPv4Address(text))
    except ValueError:
        return None
