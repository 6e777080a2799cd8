"""What a check says of a network interface. Apart from the report, for every node reads its interfaces."""

from __future__ import annotations

from dataclasses import dataclass

from coder_agent.base.nat_facts import SAFE_MTU


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface that is up. `mtu` in bytes, 0 = not known; `used`: a default route leaves through it."""

    name: str
    mtu: int
    addresses: tuple[str, ...] = ()
    is_loopback: bool = False
    used: bool = False

    @property
    def too_small(self) -> bool:
        """True if tunnel packets will not fit."""
        return 0 < self.mtu < SAFE_MTU and not self.is_loopback
