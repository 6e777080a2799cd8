"""Where a NAT that gives each destination another port will put the next ones, if it counts.

Two kinds count: those that take ports in order, and those that keep the inside port while it is free and then take the
next. Their ports towards STUN servers give the step away (`NatFacts.port_step`), and our next pings open the ports that
follow: so they are published in the very call-me-maybe that tells the peer to ping. A stock peer obeys that, too.
"""

from __future__ import annotations

from ..base.addresses import AddrPort
from ..base.nat_facts import NatFacts
from . import constants as c


def next_mappings(facts: NatFacts) -> list[AddrPort]:
    """The outside addresses that our next new destinations will see, the likeliest first; empty if nobody can know."""
    seen = facts.public_v4
    if not facts.mapping_varies or not facts.port_step or seen is None:
        return []
    ports = (seen.port + facts.port_step * number for number in range(1, c.PREDICTED_PORTS + 1))
    return [AddrPort(seen.host, port) for port in ports if c.LOWEST_PORT <= port <= c.HIGHEST_PORT]
