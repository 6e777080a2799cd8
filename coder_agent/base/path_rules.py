"""What a deployment, a workspace or a user allows and wishes about paths; not which path is better (PathPolicy)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from .addresses import AddrPort


class DirectRule(StrEnum):
    """May packets go directly? NEVER: no endpoint is published, none is tried or answered. ONLY: never by relay."""

    AUTO = "auto"
    NEVER = "never"
    ONLY = "only"


@dataclass(frozen=True, slots=True)
class PathRules:
    """Rules for the paths to one peer, or to all.

    `prefer_region`: relay region to use instead of the peer's home when both ends can, 0 = none. `ipv6` False: no IPv6
    endpoint is published, tried or answered. `set_by` says whose rule it is, in words a user understands ("the
    deployment", "workspace dev", "--disable-direct-connections"): it is quoted when something is refused.
    """

    direct: DirectRule = DirectRule.AUTO
    prefer_region: int = 0
    ipv6: bool = True
    set_by: str = ""

    def permits(self, addr: AddrPort) -> bool:
        """May `addr`, ours or a peer's, be published, tried and answered?"""
        return self.direct is not DirectRule.NEVER and (self.ipv6 or not addr.is_ipv6)

    def refusal(self, what: str) -> str:
        """`what` is not allowed, and by whom."""
        return f"{what} not allowed by {self.set_by}" if self.set_by else f"{what} not allowed"

    def conflict(self, higher: PathRules) -> str:
        """Why a wish (these rules) cannot be granted below `higher` ones, in a sentence; "" if it can."""
        wishes = {self.direct, higher.direct}
        if wishes != {DirectRule.NEVER, DirectRule.ONLY}:
            return ""
        asked = self.set_by or ("--direct-only" if self.direct is DirectRule.ONLY else "--disable-direct-connections")
        by = higher.set_by or "the server"
        if higher.direct is DirectRule.NEVER:
            return f"{asked} was asked for, but {by} blocks direct connections"
        return f"{asked} was asked for, but {by} allows direct connections only"

    def under(self, higher: PathRules) -> PathRules:
        """These rules below `higher` ones (the server's): what the higher ones state wins, the rest stays."""
        direct_is_set = higher.direct is not DirectRule.AUTO
        return PathRules(
            direct=higher.direct if direct_is_set else self.direct,
            prefer_region=higher.prefer_region or self.prefer_region,
            ipv6=self.ipv6 and higher.ipv6,
            set_by=higher.set_by if direct_is_set or (not higher.ipv6 and self.ipv6) else self.set_by,
        )


NO_RULES = PathRules()
"""Everything is allowed and nothing wished."""
