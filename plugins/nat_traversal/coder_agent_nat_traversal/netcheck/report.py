"""The result of a network check, and what follows from it. Pure.

Source: tailscale net/netcheck/netcheck.go (Report); the relay and interface parts are coder's health report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from coder_agent.base.addresses import AddrPort
from coder_agent.base.derp_map import DerpMap, DerpNode
from coder_agent.base.nat_facts import NatFacts

from .interface import Interface


@dataclass(frozen=True, slots=True)
class RelayCheck:
    """A relay node asked over HTTPS. `latency`: of one small request; `exchanged`: two clients reached one another
    through it, `round_trip` from one to the relay and back. Units: seconds. `error` is one line, `hint` what to do,
    `logs` what each client did.
    """

    latency: float | None = None
    family: str = "v4"
    exchanged: bool = False
    round_trip: float | None = None
    uses_websocket: bool = False
    error: str = ""
    hint: str = ""
    logs: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class NodeReport:
    """One host of the relay map. Latencies over STUN and ICMP in seconds; `stun_error` says why there is none."""

    node: DerpNode
    v4: float | None = None
    v6: float | None = None
    icmp: float | None = None
    stun_error: str = ""
    relay: RelayCheck | None = None

    @property
    def best(self) -> float | None:
        """The lowest UDP latency; without any, that of HTTPS or ICMP."""
        udp = [latency for latency in (self.v4, self.v6) if latency is not None]
        https = self.relay.latency if self.relay is not None else None
        other = [latency for latency in (https, self.icmp) if latency is not None]
        return min(udp or other, default=None)


@dataclass(frozen=True, slots=True)
class NetcheckReport:
    """Everything that one check found. None = not known.

    `facts`: what concerns the NAT, as nodes tell it to one another. `ipv4_can_send`/`ipv6_can_send`: the system took a
    packet. `os_has_ipv6`: an IPv6 socket can be had at all. `home`: the region that would be home, 0 = none.
    `seen`: outside addresses and how many servers saw them. `dropped`: answers that were not believed, by reason.
    `seconds`: how long the check took.
    """

    facts: NatFacts = field(default_factory=NatFacts)
    ipv4_can_send: bool = False
    ipv6_can_send: bool = False
    os_has_ipv6: bool = False
    icmp_v4: bool = False
    home: int = 0
    nodes: tuple[NodeReport, ...] = ()
    seen: Mapping[AddrPort, int] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    interfaces: tuple[Interface, ...] = ()
    derp_map: DerpMap = field(default_factory=DerpMap)
    seconds: float = 0.0

    def of_region(self, region: int) -> tuple[NodeReport, ...]:
        """The nodes of one region."""
        return tuple(node for node in self.nodes if node.node.region_id == region)

    def latency(self, region: int, family: str = "") -> float | None:
        """Seconds to a region over STUN in `family` (``v4``, ``v6``); without it, the best of all ways."""
        if family:
            known = [n.v4 if family == "v4" else n.v6 for n in self.of_region(region)]
        else:
            known = [node.best for node in self.of_region(region)]
        return min((latency for latency in known if latency is not None), default=None)

    def latencies(self, family: str = "") -> dict[int, float]:
        """`latency` of every region that has one."""
        found = {region: self.latency(region, family) for region in self.derp_map.regions}
        return {region: latency for region, latency in found.items() if latency is not None}

    @property
    def reachable(self) -> bool:
        """True if any relay or STUN server answered in any way."""
        return any(node.best is not None or (node.relay and node.relay.exchanged) for node in self.nodes)

    @property
    def relayed(self) -> bool:
        """True if some relay carries packets: the least that a tunnel needs."""
        return any(node.relay is not None and node.relay.exchanged for node in self.nodes)


def preferred_region(derp_map: DerpMap, latency: Mapping[int, float]) -> int:
    """The region that a node without a history would make its home; 0 if nothing was measured."""
    candidates = {
        region_id: latency[region_id] * derp_map.region_score.get(region_id, 1.0)
        for region_id, region in derp_map.regions.items()
        if region_id in latency and region.may_be_home
    }
    return min(candidates, key=lambda region_id: (candidates[region_id], region_id), default=0)
