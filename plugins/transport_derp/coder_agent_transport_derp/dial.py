"""A TCP connection to a relay node: which addresses, in which order, through which proxy.

Source: tailscale derp/derphttp/derphttp_client.go dialNode @de9ec7ee; RFC 8305 for the race.
"""

from __future__ import annotations

import asyncio
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.request import getproxies, proxy_bypass

import anyio

from coder_agent.base.derp_map import DerpNode
from coder_agent.errors import TransportBroken
from coder_agent.hooks.interfaces import DialOptions

NODE_TIMEOUT = 1.5
"""Seconds for the TCP connection to one node (dialNodeTimeout)."""
PROXY_TIMEOUT = 8.0
"""Seconds through a proxy, which dials on its own terms."""
STAGGER = 0.2
"""Seconds that the second address family waits for the first (200 ms upstream; RFC 8305 allows 100 ms to 2 s)."""

_Target = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]


def port_of(node: DerpNode) -> int:
    """The node's relay port: as configured, else 443, or 80 for plain HTTP."""
    return node.derp_port or (80 if node.force_http else 443)


def host_header(node: DerpNode) -> str:
    """Host name, with the port unless it is the scheme's own; IPv6 in brackets."""
    host = f"[{node.host_name}]" if ":" in node.host_name else node.host_name
    port = port_of(node)
    return host if port == (80 if node.force_http else 443) else f"{host}:{port}"


async def connect(node: DerpNode, dial: DialOptions) -> socket.socket:
    """A connected, non-blocking socket. Raises TransportBroken."""
    proxy = proxy_for(node, dial)
    if proxy is not None:
        return await _through(proxy, node)
    targets = await _targets(node)
    if not targets:
        raise TransportBroken(f"{node.host_name} has no usable address")
    with anyio.move_on_after(NODE_TIMEOUT):
        return await _race(targets)
    raise TransportBroken(f"{node.host_name} does not answer on port {port_of(node)} within {NODE_TIMEOUT} s")


def proxy_for(node: DerpNode, dial: DialOptions) -> str | None:
    """The proxy to use: as configured, else as the environment says (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY)."""
    if dial.proxy is not None:
        return dial.proxy or None
    if _is_loopback(node.host_name) or proxy_bypass(f"{node.host_name}:{port_of(node)}"):
        return None
    proxies = getproxies()
    url = proxies.get("http" if node.force_http else "https") or proxies.get("all")
    if url and "://" not in url:
        return f"http://{url}"
    return url


def _is_loopback(host: str) -> bool:
    """As Go does: no proxy in the environment is meant for this machine itself."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


async def _through(proxy: str, node: DerpNode) -> socket.socket:
    # Here, not above: most machines have no proxy, and an idle agent is to be small.
    from python_socks import ProxyConnectionError, ProxyError, ProxyTimeoutError
    from python_socks.async_.asyncio import Proxy

    try:
        sock = await Proxy.from_url(proxy).connect(node.host_name, port_of(node), timeout=PROXY_TIMEOUT)
    except (ProxyError, ProxyConnectionError, ProxyTimeoutError, OSError, ValueError) as exc:
        raise TransportBroken(f"the proxy does not connect to {node.host_name}: {exc}") from exc
    sock.setblocking(False)
    return sock


async def _targets(node: DerpNode) -> list[_Target]:
    """Addresses to try, IPv6 first. A field that holds no address of its family ("none") switches the family off."""
    port = port_of(node)
    found: list[_Target] = []
    unknown: list[socket.AddressFamily] = []
    for family, text in ((socket.AF_INET6, node.ipv6), (socket.AF_INET, node.ipv4)):
        if not text:
            unknown.append(family)
        elif (address := _literal(family, text)) is not None:
            found.append((family, (address, port)))
    if unknown:
        family = unknown[0] if len(unknown) == 1 else socket.AF_UNSPEC
        try:
            infos = await asyncio.get_running_loop().getaddrinfo(
                node.host_name, port, family=family, type=socket.SOCK_STREAM
            )
        except OSError as exc:
            if not found:
                raise TransportBroken(f"the name {node.host_name} cannot be resolved: {exc.strerror}") from exc
            infos = []
        found += [(kind, where) for kind, _, _, _, where in infos]  # type: ignore[misc]  # no bytes from TCP families
    return sorted(found, key=lambda target: target[0] != socket.AF_INET6)


def _literal(family: socket.AddressFamily, text: str) -> str | None:
    try:
        return str(IPv6Address(text) if family == socket.AF_INET6 else IPv4Address(text))
    except ValueError:
        return None


async def _race(targets: list[_Target]) -> socket.socket:
    """Connect to all of them, each starting STAGGER after the one before or when that fails; the first one wins."""
    winner: list[socket.socket] = []
    errors: list[OSError] = []

    async def attempt(index: int, go: list[anyio.Event], scope: anyio.CancelScope) -> None:
        if index:
            with anyio.move_on_after(STAGGER * index):
                await go[index].wait()
        family, where = targets[index]
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, where)
        except OSError as exc:
            sock.close()
            errors.append(exc)
            if index + 1 < len(go):
                go[index + 1].set()
        except BaseException:
            sock.close()
            raise
        else:
            if winner:
                sock.close()
                return
            winner.append(sock)
            scope.cancel()

    async with anyio.create_task_group() as tasks:
        go = [anyio.Event() for _ in targets]
        for index in range(len(targets)):
            tasks.start_soon(attempt, index, go, tasks.cancel_scope)
    if winner:
        return winner[0]
    raise TransportBroken(f"cannot connect: {errors[0].strerror or errors[0]}") from errors[0]
