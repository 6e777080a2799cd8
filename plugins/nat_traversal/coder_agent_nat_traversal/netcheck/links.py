"""The machine's network interfaces with their MTU."""

from __future__ import annotations

import socket
import struct
import sys
from ipaddress import ip_address
from pathlib import Path

import ifaddr

from .interface import Interface

SYSFS = Path("/sys/class/net")
SIOCGIFMTU = 0x8921 if sys.platform == "linux" else 0xC0206933
"""Ask for an interface's MTU: linux/sockios.h, BSD sys/sockio.h."""
IFF_UP = 1
OUTSIDE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
"""Addresses of nobody (RFC 5737, 3849): a connected UDP socket tells the route without a packet."""


def read_interfaces() -> tuple[Interface, ...]:
    """Interfaces that are up and have an address, in the system's order."""
    leaving = {address for family in OUTSIDE if (address := route_source(family))}
    found = []
    for adapter in ifaddr.get_adapters():
        addresses = [_text(entry) for entry in adapter.ips]
        if not addresses or not _is_up(adapter.name):
            continue
        plain = [text.partition("/")[0] for text in addresses]
        found.append(
            Interface(
                adapter.nice_name,
                mtu_of(adapter.name),
                tuple(addresses),
                is_loopback=all(ip_address(text).is_loopback for text in plain),
                used=bool(leaving.intersection(plain)),
            )
        )
    return tuple(found)


def smallest_mtu(interfaces: tuple[Interface, ...]) -> int:
    """The smallest MTU on the way out, in bytes; 0 = not known."""
    outside = [each for each in interfaces if not each.is_loopback and each.mtu]
    used = [each for each in outside if each.used]
    return min((each.mtu for each in used or outside), default=0)


def route_source(family: int) -> str:
    """Our address on packets to the Internet, "" without a route. Sends nothing."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((OUTSIDE[socket.AddressFamily(family)], 9))
            return str(sock.getsockname()[0])
    except OSError:
        return ""


def mtu_of(name: str) -> int:
    """An interface's MTU in bytes, 0 where the system does not say."""
    try:
        return int((SYSFS / name / "mtu").read_text())
    except (OSError, ValueError):
        pass
    if sys.platform == "win32":
        return 0
    import fcntl

    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            answer = fcntl.ioctl(sock, SIOCGIFMTU, struct.pack("16s16x", name.encode()[:15]))
    except OSError:
        return 0
    return int(struct.unpack_from("i", answer, 16)[0])


def _is_up(name: str) -> bool:
    try:
        return bool(int((SYSFS / name / "flags").read_text(), 16) & IFF_UP)
    except (OSError, ValueError):
        return True  # elsewhere only interfaces that are up have addresses


def _text(entry: ifaddr.IP) -> str:
    address = entry.ip if isinstance(entry.ip, str) else entry.ip[0]
    return f"{address.partition('%')[0]}/{entry.network_prefix}"
