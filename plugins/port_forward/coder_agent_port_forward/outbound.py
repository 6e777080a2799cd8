"""Which hosts an agent connects its users to. Pure: the caller looks names up, and asks again for their addresses."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
_NAME = re.compile(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")


@dataclass(frozen=True, slots=True)
class OutboundPolicy:
    """`everything`: all hosts but link-local ones, where clouds keep the machine's credentials (169.254.169.254).

    A name that is listed may have any address but those of this machine; a name that is not may have listed addresses.
    """

    everything: bool = False
    names: tuple[str, ...] = ()
    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, text: str) -> OutboundPolicy:
        """Read ``none``, ``all`` or a list with commas. Raises ValueError, which says what is wrong."""
        word = text.strip().lower()
        if word in ("", "none"):
            return cls()
        if word == "all":
            return cls(everything=True)
        names: list[str] = []
        networks: list[Network] = []
        for part in (piece.strip().lower() for piece in text.split(",")):
            try:
                networks.append(ip_network(part))
            except ValueError:
                if not _NAME.fullmatch(part) or part.replace(".", "").isdigit():
                    raise ValueError(f"{part!r} is not a name, *.name, address or network") from None
                names.append(part.rstrip("."))
        return cls(names=tuple(names), networks=tuple(networks))

    @property
    def nothing(self) -> bool:
        """Nobody is let out at all."""
        return not (self.everything or self.names or self.networks)

    def allows(self, host: str, address: Address) -> bool:
        """May users be connected to `address`, which `host` (a name or the address itself) was found to have?"""
        address = getattr(address, "ipv4_mapped", None) or address
        if address.is_loopback or address.is_unspecified or address.is_multicast:
            return False  # this machine's own ports have a policy of their own ([agent] forward_ports)
        if any(address.version == network.version and address in network for network in self.networks):
            return True
        if self._lists(host):
            return True
        return self.everything and not address.is_link_local

    def may_resolve(self, host: str) -> bool:
        """Is there any sense in looking `host` up?"""
        return self.everything or bool(self.networks) or self._lists(host)

    def _lists(self, host: str) -> bool:
        name = host.lower().rstrip(".")
        return any(name == rule or (rule.startswith("*.") and name.endswith(rule[1:])) for rule in self.names)


def literal(host: str) -> Address | None:
    """The address that `host` is, if it is one (brackets and zones are none)."""
    try:
        return ip_address(host)
    except ValueError:
        return None
