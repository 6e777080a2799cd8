"""One entry of the allow-list, and how hosts are compared. Pure.

An entry is a name (``relay.corp.example``), all names below one (``*.corp.example``), an address or a network in CIDR
form, each followed by ``:port`` where only one port is meant (IPv6 in brackets then).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\Z")
"""RFC 1123 §2.1, and the underscore that real networks use."""


def address_of(text: str) -> Address | None:
    """The address that `text` writes, or None for a name.

    Zone and brackets go; IPv4 in mapped form (RFC 4291 §2.5.5.2) is IPv4, for that is what the kernel sends. The old
    spellings of inet_aton (``127.1``, ``0x8080808``) are no addresses here: they are refused as names nobody listed.
    """
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    try:
        parsed = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return mapped or parsed


def name_of(text: str) -> str | None:
    """`text` as DNS carries it: lower case, international names in ASCII, without the dot at the end. None: no name.

    Encoded as Python's resolver does it (IDNA 2003): what is compared is what would be looked up.
    """
    text = text.removesuffix(".")
    try:
        name = text.encode("idna").decode("ascii").lower()
    except UnicodeError:
        return None
    if not name or len(name) > 253 or not all(_LABEL.match(label) for label in name.split(".")):
        return None
    return name


@dataclass(frozen=True, slots=True)
class Entry:
    """`network` or `name` is set; `below`: names below `name`, not itself. `port` 0 = any. `text`: as written."""

    text: str
    network: Network | None = None
    name: str = ""
    below: bool = False
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Entry:
        """Read an entry. Raises ValueError, with a sentence that says what would be right."""
        written = text.strip()
        if "://" in written or not written:
            raise ValueError(f"{text!r} is not a host: write relay.example.com, relay.example.com:443 or 10.0.0.0/8")
        host, port = _split_port(written)
        if "/" in host or address_of(host) is not None:
            return cls(written, network=_network(host, written), port=port)
        below = host.startswith(("*.", "."))
        name = name_of(host.removeprefix("*").removeprefix(".") if below else host)
        if name is None or name.rpartition(".")[2].isdecimal():
            raise ValueError(f"{text!r} is neither a name, an address nor a network such as 10.0.0.0/8")
        return cls(written, name=name, below=below, port=port)

    def covers_address(self, address: Address, port: int) -> bool:
        """Is `address` in this network? `port` 0: whichever it will be."""
        network = self.network
        return network is not None and network.version == address.version and address in network and self._port(port)

    def covers_name(self, name: str, port: int) -> bool:
        """Is `name` (as `name_of` writes it) this one, or below it?"""
        if not self.name or not self._port(port):
            return False
        return name.endswith(f".{self.name}") if self.below else name == self.name

    def _port(self, port: int) -> bool:
        return not self.port or not port or self.port == port


def _split_port(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or (":" in host and not host.endswith("]")):  # none, or an IPv6 address
        return text, 0
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(f"{text!r}: {port!r} is not a port")
    return host, int(port)


def _network(host: str, written: str) -> Network:
    bare = host.strip("[]")
    if "/" not in bare:
        address = address_of(bare)
        assert address is not None  # the caller looked
        return ip_network(address)
    try:
        return ip_network(bare)
    except ValueError as exc:
        try:
            meant = ip_network(bare, strict=False)
        except ValueError:
            raise ValueError(f"{written!r} is not a network: write it like 10.0.0.0/8 or fd00::/8") from exc
        raise ValueError(f"{written!r} has bits behind its prefix: is {meant} meant?") from exc
