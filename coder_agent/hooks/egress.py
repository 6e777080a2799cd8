"""The one door outwards: everything that looks up a name or talks to an address asks here first.

Without a policy (hook `coder_egress_policy`) everything is allowed and nothing is counted. With one, whatever it
refuses is an audited event: counted, logged, and told to observers (`OutsideRefused`).
"""

from __future__ import annotations

import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ..base.egress import EgressPolicy, Purpose, Verdict
from ..errors import EgressRefused
from .events import OutsideRefused

if TYPE_CHECKING:
    from ..base.derp_map import DerpMap, DerpNode
    from .events import EventSink

log = logging.getLogger(__name__)

REPEAT_AFTER = 60.0
"""Seconds after which the same refusal is told again: who redials every five seconds shall not fill the log."""
TOLD_PER_MINUTE = 120
"""Refusals told in a minute, whoever makes us try: more are counted only."""
MEMORY = 1024
"""Refusals, and addresses of allowed names, that are remembered."""


class Egress:
    """Asks the policy, and keeps account of what it refused. One per program; used on one thread.

    `refused` counts attempts by purpose, told or not.
    """

    def __init__(
        self,
        policy: EgressPolicy | None = None,
        emit: EventSink = lambda event: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.policy = policy
        self.refused: Counter[str] = Counter()
        self._emit = emit
        self._clock = clock
        self._told: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()
        self._minute, self._in_minute = float("-inf"), 0
        self._admitted: OrderedDict[tuple[str, int], None] = OrderedDict()

    def trust(self, url: str, reason: str = "the address of the coder server") -> None:
        """The user told the program to talk to this URL's host."""
        if self.policy is not None:
            try:
                host = urlsplit(url).hostname
            except ValueError:
                return
            if host:
                self.policy.trust(host, reason)

    def judge(self, host: str, port: int, purpose: Purpose, address: str | None = None) -> Verdict:
        """What the policy says, without keeping account of it."""
        if self.policy is None:
            return Verdict(True, "there is no policy")
        return self.policy.judge(host, address, port, purpose)

    def allows(self, host: str, port: int, purpose: Purpose, *, address: str | None = None, who: str = "") -> bool:
        """May this be done? A refusal is audited; `who` made us try, if that was not the user.

        `address` None: `host` is about to be looked up (or is an address); else `host` was found to be there.
        """
        return self._refusal(host, port, purpose, address, who) is None

    def require(self, host: str, port: int, purpose: Purpose, *, address: str | None = None, who: str = "") -> None:
        """As `allows`. Raises EgressRefused."""
        rule = self._refusal(host, port, purpose, address, who)
        if rule is not None:
            raise EgressRefused(f"{_place(host, port, address)} may not be reached from here: {rule}")

    def allows_address(self, address: str, port: int, purpose: Purpose, *, who: str = "") -> bool:
        """As `allows`, for an address whose name is not at hand: what was `found` for an allowed name, at that port."""
        return (address, port) in self._admitted or self.allows(address, port, purpose, who=who)

    def permits_node(self, node: DerpNode) -> bool:
        """May this relay (or STUN server) be talked to, at any address that the map states or its name has?

        An address in the map counts for itself: a map must not lend an allowed name to a foreign address.
        """
        if self.policy is None:
            return True
        stated = [text for text in (node.ipv4, node.ipv6, node.stun_test_ip) if _is_address(text)]
        port = node.derp_port or (80 if node.force_http else 443)
        where = list(stated)
        if not (node.ipv4 and node.ipv6):  # a family that the map says nothing about is looked up
            where.append(node.host_name)
        verdicts = [self.judge(host, port, Purpose.RELAY) for host in where]
        if any(verdict.allowed for verdict in verdicts):
            return True
        rule = verdicts[-1].rule if verdicts else "it has no address"
        self._audit(Purpose.RELAY, f"{node.host_name}:{port}", f"relay map, region {node.region_id}", rule)
        return False

    def inside(self, derp_map: DerpMap) -> DerpMap:
        """The part of a relay map that may be used. The rest is audited; regions without nodes are left out."""
        if self.policy is None:
            return derp_map
        regions = {}
        for number, region in derp_map.regions.items():
            nodes = tuple(node for node in region.nodes if self.permits_node(node))
            if nodes:
                regions[number] = region if len(nodes) == len(region.nodes) else replace(region, nodes=nodes)
        return derp_map if regions == derp_map.regions else replace(derp_map, regions=regions)

    def found(self, host: str, port: int, purpose: Purpose, addresses: Iterable[str]) -> list[str]:
        """Those of the addresses found for `host` that may be talked to."""
        allowed = [one for one in addresses if self.allows(host, port, purpose, address=one)]
        if self.policy is not None:
            for address in allowed:
                self._admitted[address, port] = None
                self._admitted.move_to_end((address, port))
            while len(self._admitted) > MEMORY:
                self._admitted.popitem(last=False)
        return allowed

    # ------------------------------------------------------------ account

    def _refusal(self, host: str, port: int, purpose: Purpose, address: str | None, who: str) -> str | None:
        if self.policy is None:
            return None
        verdict = self.policy.judge(host, address, port, purpose)
        if verdict.allowed:
            return None
        self._audit(purpose, _place(host, port, address), who, verdict.rule)
        return verdict.rule

    def _audit(self, purpose: Purpose, where: str, who: str, rule: str) -> None:
        self.refused[purpose.value] += 1
        now = self._clock()
        told_at, since = self._told.pop((purpose.value, where), (float("-inf"), 0))
        if now - told_at < REPEAT_AFTER or not self._may_tell(now):
            self._told[purpose.value, where] = (told_at, since + 1)
        else:
            self._told[purpose.value, where] = (now, 0)
            times = f" ({since} more times since it was last told)" if since else ""
            log.warning("refused: %s to %s%s: %s%s", purpose.value, where, f" for {who}" if who else "", rule, times)
            self._emit(OutsideRefused(purpose.value, where, who, rule, since + 1))
        while len(self._told) > MEMORY:
            self._told.popitem(last=False)

    def _may_tell(self, now: float) -> bool:
        if now - self._minute >= 60.0:
            if self._in_minute > TOLD_PER_MINUTE:
                log.warning("refused: %d more in the last minute", self._in_minute - TOLD_PER_MINUTE)
            self._minute, self._in_minute = now, 0
        self._in_minute += 1
        return self._in_minute <= TOLD_PER_MINUTE


OPEN = Egress()
"""No policy: everything is allowed."""


def _place(host: str, port: int, address: str | None) -> str:
    name = f"[{host}]" if ":" in host else host
    where = f"{name}:{port}" if port else name
    return where if address is None or address == host else f"{where} ({address})"


def _is_address(text: str) -> bool:
    for kind in (IPv4Address, IPv6Address):
        try:
            kind(text)
        except ValueError:
            continue
        return True
    return False
