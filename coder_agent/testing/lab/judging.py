"""What two nodes of the laboratory know of each other, as `verdict.judge` wants it."""

from __future__ import annotations

from ...explain import attempts_of, reports_of
from ...verdict.situation import Region, RelayFacts, Situation
from .host import SimHost
from .laboratory import Lab
from .topology import Topology

FIRST_LOOK = 1.5
"""Seconds for the first round of STUN, before anybody is introduced."""
SEARCH = 25.0
"""Seconds that a search may take: birthday probing included."""
SEND_INTERVAL = 0.25


def search(topology: Topology, seed: int = 1, seconds: float = SEARCH) -> tuple[Lab, SimHost, SimHost]:
    """Let the first two hosts look for a direct path to each other, until both have one or `seconds` have passed."""
    lab = Lab(topology, seed)
    a, b = lab.hosts[:2]
    lab.start()
    lab.run(FIRST_LOOK)
    lab.introduce()
    a.send_each(b, SEND_INTERVAL, lab.now + seconds)
    b.send_each(a, SEND_INTERVAL, lab.now + seconds)
    lab.run(seconds, until=lambda: a.is_direct(b) and b.is_direct(a))
    return lab, a, b


def situation_of(here: SimHost, there: SimHost) -> Situation:
    """The situation as `here` sees it, with the report that `there` would send."""
    topology = here.lab.network.topology
    status = here.path(there)
    local, _ = reports_of(status, here.facts)
    remote, _ = reports_of(there.path(here), there.facts)
    return Situation(
        local=local,
        remote=remote,
        kind=status.kind,
        addr=status.addr,
        socket=status.local,
        region=status.region,
        latency=status.latency,
        wire_mtu=status.wire_mtu,
        attempts=attempts_of(status),
        published=there.endpoints,
        own=here.endpoints,
        relay=RelayFacts(
            has_stun=bool(topology.stun),
            regions=tuple(Region(one.number, f"region {one.number}", 2 * one.latency) for one in topology.regions),
            home_here=here.home,
            home_there=there.home,
            connected=True,
        ),
        rules_here=status.rules,
        rules_there=there.path(here).rules,
    )
