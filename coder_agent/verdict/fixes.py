"""What would make a relayed path direct. A fix is named only if it suffices, alone or with those named beside it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Where(StrEnum):
    """Who would have to act."""

    HERE = "here"
    THERE = "there"
    DEPLOYMENT = "deployment"
    PATH = "path"
    """Whoever runs the networks in between."""


class FixCode(StrEnum):
    """The kinds of fixes; values are stable like those of `Cause`."""

    ALLOW_DIRECT = "allow_direct"
    """Take the rule away that forbids direct paths."""
    ALLOW_UDP = "allow_udp"
    """Let UDP out, to any port, and the answers back in."""
    OPEN_PORT = "open_port"
    """Let UDP to one fixed port of the machine in from anywhere, through every firewall and NAT before it; also from
    behind the same router (NAT loopback), if the peer is there."""
    ENABLE_PORT_MAPPING = "enable_port_mapping"
    """Switch UPnP, NAT-PMP or PCP on, on the router next to the machine."""
    ENABLE_IPV6 = "enable_ipv6"
    ALLOW_IPV6 = "allow_ipv6"
    """Take the rule away that forbids IPv6."""
    ADD_STUN = "add_stun"
    """Put a STUN server into the relay map."""
    ENABLE_HAIRPIN = "enable_hairpin"
    """Let the router both ends are behind turn packets back inside (NAT loopback)."""
    RAISE_MTU = "raise_mtu"


@dataclass(frozen=True, slots=True)
class Fix:
    """One change. `text` is an imperative for a person: what to do, on what, with the number."""

    code: FixCode
    where: Where
    text: str


@dataclass(frozen=True, slots=True)
class Remedy:
    """Fixes that suffice together; mostly one."""

    all_of: tuple[Fix, ...]

    @property
    def text(self) -> str:
        """The fixes as half a sentence."""
        texts = [fix.text for fix in self.all_of]
        if len(texts) > 2:
            return "all of: " + "; ".join(texts)
        return f"both {' and '.join(texts)}" if len(texts) == 2 else "".join(texts)
