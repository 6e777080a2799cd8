"""What one end knows about its own network, and its account of the search for a direct path to a peer.

Measured by candidate sources, told to the peer (disco `Facts`, relay only), and joined with the peer's by `verdict`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from .addresses import AddrPort

SAFE_MTU = 1378
"""Bytes that an interface must carry for a full-size tunnel packet (1280 inside, and all headers around it) to fit with
room. Source: coder cli/cliui/agent.go, coderd/healthcheck/health/model.go (EIF01)."""


@dataclass(frozen=True, slots=True)
class NatFacts:
    """One end's network. None (and 0 for numbers) = not known; a later measurement overrides only what it knows.

    `udp`: some STUN server answered. `mapping_varies`: the NAT gives each destination another outside port (RFC 4787
    §4.1: not endpoint-independent). `port_step`: how far consecutive mappings of a varying NAT are apart, if that can
    be predicted. `public_v4`/`public_v6`: how the outside sees the data socket. `port_mapping`: protocols that the
    gateway answers, of ``pmp pcp upnp``. `port_mapped`: one of them opened a port for us. `gateway_asked`: the gateway
    was probed, so that an empty `port_mapping` means "none". `mtu`: bytes, the smallest interface in use.
    `direct_allowed` False: a rule forbids direct paths at this end; `direct_rule` says which, in words.
    `listen_port`: the fixed UDP port that was asked for, 0 = any. `nat_layers`: how many NATs lie between us and the
    Internet, 0 = not known: behind more than one, a port mapping of the nearest router is of no use.
    """

    udp: bool | None = None
    ipv4: bool | None = None
    ipv6: bool | None = None
    mapping_varies: bool | None = None
    port_step: int = 0
    public_v4: AddrPort | None = None
    public_v6: AddrPort | None = None
    port_mapping: frozenset[str] = frozenset()
    port_mapped: bool | None = None
    gateway_asked: bool | None = None
    captive_portal: bool | None = None
    mtu: int = 0
    direct_allowed: bool | None = None
    direct_rule: str = ""
    listen_port: int = 0
    nat_layers: int = 0

    def updated(self, newer: NatFacts) -> NatFacts:
        """These facts, with everything that `newer` knows taken from there."""
        known = {}
        for field in fields(self):
            new, old = getattr(newer, field.name), getattr(self, field.name)
            known[field.name] = old if new is None or (new in (0, "", frozenset()) and new is not False) else new
        if newer.mapping_varies is not None:  # a pattern belongs to the mappings that it was seen in
            known["port_step"] = newer.port_step
        if newer.gateway_asked is not None:  # another router, or one that was reconfigured, may speak less
            known["port_mapping"] = newer.port_mapping
        return NatFacts(**known)


@dataclass(frozen=True, slots=True)
class PathReport:
    """One end's account of its search for a direct path to one peer. Counts are since the session with it began.

    `sent`: pings it sent to the peer over UDP. `answered`: pongs to those. `seen`: valid pings of the peer that arrived
    over UDP. `tried`: addresses it pinged. `seen_from`: sources of the pings it saw (the newest 8). `is_direct`: a
    direct path carries its packets now. `too_small`: some address answers small packets but not full-size ones.
    """

    facts: NatFacts = NatFacts()
    sent: int = 0
    answered: int = 0
    seen: int = 0
    tried: tuple[AddrPort, ...] = ()
    seen_from: tuple[AddrPort, ...] = ()
    is_direct: bool = False
    too_small: bool = False
