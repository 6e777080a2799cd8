"""Addresses: UDP endpoints, and the overlay addresses that nodes get from their UUIDs (coder tailnet/conn.go)."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple
from uuid import UUID

TAILSCALE_PREFIX = bytes.fromhex("fd7a115ca1e0")
"""fd7a:115c:a1e0::/48 — the first service prefix; agents announce it and clients dial it."""
CODER_PREFIX = bytes.fromhex("fd60627aa42b")
"""fd60:627a:a42b::/48 — the newer one, which cannot clash with a local Tailscale."""


class AddrPort(NamedTuple):
    """A UDP endpoint in canonical text. Equal to, and hashing like, the plain ``(host, port)`` of a socket call.

    IPv4 in mapped form (::ffff:a.b.c.d) is never stored: use `parse` or `of`, which un-map it.
    """

    host: str
    port: int

    @classmethod
    def of(cls, address: IPv4Address | IPv6Address | str | bytes, port: int) -> AddrPort:
        """From an address object, text or packed bytes (4 or 16). Raises ValueError."""
        parsed = ip_address(address)
        if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        if not 0 <= port <= 65535:
            raise ValueError(f"port {port} is not in 0…65535")
        return cls(str(parsed), port)

    @classmethod
    def parse(cls, text: str) -> AddrPort:
        """Read ``1.2.3.4:5`` or ``[::1]:5``. Raises ValueError."""
        host, _, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(f"{text!r}: an IPv6 address needs brackets, as in [::1]:41641")
        if not port.isascii() or not port.isdigit():
            raise ValueError(f"{text!r} is not an address with a port, as in 1.2.3.4:41641 or [::1]:41641")
        return cls.of(host, int(port))

    @property
    def ip(self) -> IPv4Address | IPv6Address:
        """The address as an object (slow: not per packet)."""
        return ip_address(self.host)

    @property
    def is_ipv6(self) -> bool:
        """True for an IPv6 endpoint."""
        return ":" in self.host

    def packed16(self) -> bytes:
        """The address as 16 bytes, IPv4 in mapped form, as disco and DERP carry it."""
        ip = self.ip
        return ip.packed if isinstance(ip, IPv6Address) else b"\0" * 10 + b"\xff\xff" + ip.packed

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def overlay_address(prefix: bytes, uuid: UUID) -> IPv6Address:
    """The overlay address of a UUID: its 16 bytes with the first 6 overwritten by `prefix`."""
    return IPv6Address(prefix + uuid.bytes[6:])


def node_id(uuid: UUID) -> int:
    """The numeric node id: the last 8 bytes as big-endian int64, then its absolute value (coder tailnet/conn.go)."""
    return abs(int.from_bytes(uuid.bytes[8:], "big", signed=True))
