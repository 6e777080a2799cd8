"""A stateful firewall: which UDP packets it lets through."""

from __future__ import annotations

from ...base.addresses import AddrPort
from .topology import Firewall

MAX_FLOWS = 65536


class Flows:
    """What one firewall remembers. Its rules may be replaced at any time."""

    def __init__(self, rules: Firewall) -> None:
        self.rules = rules
        self._seen_at: dict[tuple[AddrPort, AddrPort], float] = {}

    def outbound(self, inside: AddrPort, remote: AddrPort, now: float) -> bool:
        """A packet leaves. False = it may not."""
        if not self.rules.udp or (self.rules.to_ports and remote.port not in self.rules.to_ports):
            return False
        if not self.rules.unsolicited:
            self._note(inside, remote, now)
        return True

    def inbound(self, inside: AddrPort, remote: AddrPort, now: float) -> bool:
        """A packet arrives. False = it may not; it leaves no trace, then."""
        rules = self.rules
        if not rules.udp:
            return False
        if rules.unsolicited or inside.port in rules.open_ports:
            return True
        seen_at = self._seen_at.get((inside, remote))
        if seen_at is None or now - seen_at > rules.lifetime:
            return False
        self._note(inside, remote, now)
        return True

    def _note(self, inside: AddrPort, remote: AddrPort, now: float) -> None:
        self._seen_at.pop((inside, remote), None)  # the oldest stay in front
        if len(self._seen_at) >= MAX_FLOWS:
            del self._seen_at[next(iter(self._seen_at))]
        self._seen_at[inside, remote] = now
