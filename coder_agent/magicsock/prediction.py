"""Where a NAT that gives each destination another port will put the next ones, if it counts.

Two kinds count: those that take ports in order, and those that keep the inside port while it is free and then take the
next. Their ports towards STUN servers give the step away (`NatFacts.port_step`), and our next pings open the ports that
follow: so they are published in the very call-me-maybe that tells the peer to ping. A stock peer obeys that, too.

If both NATs count, each ping takes the next port here and goes to the next port there, and with every other packet that
either end has sent meanwhile the two walks are one step further apart: in the same order they never meet. So one end
publishes its ports in `crossing_order`, and whatever the distance is, up to 9, some ping of one end goes from and to
the very ports of a ping of the other.
"""

from __future__ import annotations

from ..base.addresses import AddrPort
from ..base.nat_facts import NatFacts
from . import constants as c


def next_mappings(facts: NatFacts, *, crossing: bool = False) -> list[AddrPort]:
    """The outside addresses that our next new destinations will see, the likeliest first; empty if nobody can know.

    `crossing`: in the order that meets the walk of a peer whose NAT counts, too.
    """
    seen = facts.public_v4
    if not facts.mapping_varies or not facts.port_step or seen is None:
        return []
    order = crossing_order(c.PREDICTED_PORTS) if crossing else range(1, c.PREDICTED_PORTS + 1)
    ports = (seen.port + facts.port_step * number for number in order)
    return [AddrPort(seen.host, port) for port in ports if c.LOWEST_PORT <= port <= c.HIGHEST_PORT]


def crossing_order(count: int) -> list[int]:
    """1…count in such an order that the differences of value and place (from 1) cover 1…2t+1 with t = (count - 2) // 3.

    The peer's i-th ping comes from its i-th next port; ours to that one has to be the i-th plus distance: for each
    distance there is a place. Two descending runs give the even and the odd ones, one value the difference of 1.
    """
    half = (count - 2) // 3
    evens = range(2 * half + 1, half + 1, -1)
    odds = range(3 * half + 2, 2 * half + 2, -1)
    first = [*evens, *odds, 2 * half + 2]
    return [*first, *sorted(set(range(1, count + 1)).difference(first), reverse=True)]
