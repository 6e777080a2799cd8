"""Which router do our packets leave through? The IPv4 default route and our own address towards it."""

from __future__ import annotations

import platform
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

import anyio

from coder_agent.hooks import Egress, Purpose
from coder_agent.hooks.egress import OPEN
from coder_agent.protocols.portmap.natpmp import GATEWAY_PORT

ROUTE_FILE = "/proc/net/route"
RTF_UP = 0x1
RTF_GATEWAY = 0x2
PRIVATE = tuple(IPv4Network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))
"""RFC 1918: home routers live there. A gateway elsewhere is a provider's, and not ours to ask."""
COMMAND_TIMEOUT = 2.0
"""Seconds for the operating system's route command, where there is no file to read."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """The router's IPv4 address, and ours as it sees it."""

    address: str
    own: str


async def find_gateway(egress: Egress = OPEN) -> Gateway | None:
    """The default gateway, if it is a private IPv4 address that we have a route to, and allowed. Sends nothing."""
    address = await _default_route()
    if address is None or not is_private(address):
        return None
    if not egress.allows(address, GATEWAY_PORT, Purpose.PORT_MAPPING):
        return None
    own = _own_address(address)
    return None if own is None else Gateway(address, own)


def is_private(address: str) -> bool:
    """Is this an RFC 1918 address?"""
    parsed = IPv4Address(address)
    return any(parsed in network for network in PRIVATE)


def parse_proc_route(text: str) -> str | None:
    """The gateway of the default route with the lowest metric in Linux's ``/proc/net/route``.

    Layout: a header line, then ``iface destination gateway flags refcnt use metric mask …``; addresses are hex in
    host byte order.
    """
    best: tuple[int, str] | None = None
    for line in text.splitlines()[1:]:
        fields = line.split()
        try:
            destination, gateway, flags, mask = (int(fields[index], 16) for index in (1, 2, 3, 7))
            metric = int(fields[6])
        except (IndexError, ValueError):
            continue
        if destination or mask or not flags & RTF_UP or not flags & RTF_GATEWAY:
            continue
        address = str(IPv4Address(gateway.to_bytes(4, sys.byteorder)))
        if best is None or metric < best[0]:
            best = metric, address
    return best[1] if best else None


def parse_ip_route(text: str) -> str | None:
    """The gateway in what ``ip route show default`` prints: the best route is first."""
    fields = text.split()
    return _address(fields[fields.index("via") + 1]) if "via" in fields[:-1] else None


def parse_netstat(text: str) -> str | None:
    """The gateway of the first ``default`` line of BSD's and macOS's ``netstat -rn -f inet``."""
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 2 and fields[0] in ("default", "0.0.0.0"):
            found = _address(fields[1])
            if found is not None:
                return found
    return None


def parse_route_print(text: str) -> str | None:
    """The gateway of the line with the lowest metric in Windows' ``route print -4 0.0.0.0``."""
    best: tuple[int, str] | None = None
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 5 or fields[:2] != ["0.0.0.0", "0.0.0.0"] or not fields[4].isdecimal():
            continue
        address = _address(fields[2])
        if address is not None and (best is None or int(fields[4]) < best[0]):
            best = int(fields[4]), address
    return best[1] if best else None


def _address(text: str) -> str | None:
    try:
        address = IPv4Address(text)
    except ValueError:
        return None
    return None if address.is_unspecified else str(address)


async def _default_route() -> str | None:
    system = platform.system()
    if system == "Linux":
        try:
            return parse_proc_route(await anyio.Path(ROUTE_FILE).read_text())
        except OSError:
            return await _ask(["ip", "-4", "route", "show", "default"], parse_ip_route)
    if system == "Windows":
        return await _ask(["route", "print", "-4", "0.0.0.0"], parse_route_print)
    return await _ask(["netstat", "-rn", "-f", "inet"], parse_netstat)


async def _ask(command: list[str], parse: Callable[[str], str | None]) -> str | None:
    """What the operating system's command says; None if it is missing, fails or takes too long."""
    try:
        with anyio.fail_after(COMMAND_TIMEOUT):
            done = await anyio.run_process(command, check=False, stderr=subprocess.DEVNULL)
    except (OSError, TimeoutError):
        return None
    return parse(done.stdout.decode(errors="replace"))


def _own_address(gateway: str) -> str | None:
    """Our address towards `gateway`: a connected UDP socket knows it, and nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((gateway, GATEWAY_PORT))
            return str(probe.getsockname()[0])
        except OSError:
            return None
