"""Which networks are direct: the rules of NAT traversal as one function of two ends, unknowns counted as adverse.

A fix is promised only if the network with the fix is direct whatever the unknowns are. So this model errs on one side:
what it calls direct is direct; what it does not may be, with luck (birthday probing, a forgotten port forward).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import ip_network

from ..base.addresses import AddrPort
from ..base.nat_facts import NatFacts, PathReport
from ..base.path_rules import DirectRule, PathRules
from .fixes import FixCode, Where
from .situation import Situation

FULL_PACKET = 1338
"""Bytes on the wire of the smallest packet that a direct path must carry: a padded ping of 1310 bytes over IPv4."""
FULL_PACKET_V6 = 1358
"""The same over IPv6."""

_PRIVATE = tuple(
    map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"))
)  # RFC 1918, RFC 6598 (between customers and a carrier's NAT), RFC 4193


@dataclass(frozen=True, slots=True)
class End:
    """One end. None = not known.

    `varies`: the NAT gives each destination another port. `mapped`: its router opened a port for it. `reachable`: a UDP
    port of it is open to everybody, also to those behind the same router. `fits`: its interface carries full-size
    packets.
    """

    allowed: bool = True
    udp: bool | None = None
    fits: bool | None = True
    v4: bool = True
    v6: bool = False
    v6_allowed: bool = True
    varies: bool | None = None
    mapped: bool = False
    reachable: bool = False
    nat_layers: int = 0


@dataclass(frozen=True, slots=True)
class Net:
    """Both ends and what lies between.

    `behind_one_nat`: packets between them must be turned back by a common router (`hairpin`: it does). `fits`: the path
    carries full-size packets. `passes`: nothing drops what is sent to peers.
    """

    here: End
    there: End
    stun: bool = True
    behind_one_nat: bool | None = False
    hairpin: bool = False
    fits: bool = True
    passes: bool = True

    def end(self, where: Where) -> End:
        """One of the ends."""
        return self.here if where is Where.HERE else self.there

    def with_end(self, where: Where, end: End) -> Net:
        """This network with one end exchanged."""
        return replace(self, here=end) if where is Where.HERE else replace(self, there=end)


def is_direct(net: Net) -> bool:
    """Will there be a direct path, whatever is not known?"""
    ends = (net.here, net.there)
    if not all(end.allowed and end.udp and end.fits for end in ends) or not net.fits or not net.passes:
        return False
    if all(end.v6 and end.v6_allowed for end in ends):
        return True  # stateful firewalls open to each other's pings; addresses need no STUN
    if not all(end.v4 for end in ends) or not net.stun:
        return False
    if any(end.reachable for end in ends):
        return True
    if net.behind_one_nat is not False and not net.hairpin:
        return False
    if any(end.mapped for end in ends):
        return True
    return all(end.varies is False for end in ends)


def apply(net: Net, code: FixCode, where: Where) -> Net:
    """The network after a fix; unchanged where the fix has no effect."""
    match code:
        case FixCode.ADD_STUN:
            return replace(net, stun=True)
        case FixCode.ENABLE_HAIRPIN:
            return replace(net, hairpin=True)
        case FixCode.RAISE_MTU if where is Where.PATH:
            return replace(net, fits=True)
        case FixCode.ALLOW_UDP if where is Where.PATH:
            return replace(net, passes=True)
        case FixCode.ALLOW_DIRECT if where is Where.DEPLOYMENT:
            return replace(net, here=replace(net.here, allowed=True), there=replace(net.there, allowed=True))
    return net.with_end(where, _mended(net.end(where), code))


def _mended(end: End, code: FixCode) -> End:
    match code:
        case FixCode.ALLOW_DIRECT:
            return replace(end, allowed=True)
        case FixCode.ALLOW_UDP:
            return replace(end, udp=True)
        case FixCode.RAISE_MTU:
            return replace(end, fits=True)
        case FixCode.OPEN_PORT:
            return replace(end, reachable=True)
        case FixCode.ENABLE_PORT_MAPPING:
            return replace(end, mapped=True) if end.nat_layers == 1 else end
        case FixCode.ENABLE_IPV6:
            return replace(end, v6=True)
        case FixCode.ALLOW_IPV6:
            return replace(end, v6_allowed=True)
    return end


# ------------------------------------------------------------ from a situation


def net_of(situation: Situation) -> Net:
    """What the evidence says about the network, for a path that is not direct."""
    net = _net_before_search(situation)
    if not all(end.allowed and end.udp and end.fits for end in (net.here, net.there)) or not net.fits:
        return net  # nothing could be tried, so nothing is refuted
    return replace(net, passes=not is_direct(net))


def would_be_direct(situation: Situation) -> bool:
    """Do both ends' networks let one expect a direct path, before anybody searched?"""
    return is_direct(_net_before_search(situation))


def _net_before_search(situation: Situation) -> Net:
    here = _end(situation.local, situation.rules_here, situation.rules_deployment, situation.own)
    there = _end(situation.remote, situation.rules_there, situation.rules_deployment, situation.published)
    return Net(
        here,
        there,
        stun=situation.relay.has_stun,
        behind_one_nat=shares_nat(situation),
        fits=not only_small_packets_pass(situation) or not (here.fits and there.fits),
    )


def _end(report: PathReport | None, rules: PathRules, deployment: PathRules, published: tuple[AddrPort, ...]) -> End:
    ruled = rules.under(deployment)
    facts = report.facts if report is not None else guessed_facts(published)
    smallest = FULL_PACKET if facts.ipv4 is not False else FULL_PACKET_V6
    udp = udp_works(report, facts)
    return End(
        allowed=ruled.direct is not DirectRule.NEVER and facts.direct_allowed is not False,
        udp=udp,
        fits=None if report is None and not facts.mtu else not 0 < facts.mtu < smallest,
        v4=facts.ipv4 if udp and facts.ipv4 is not None else not published or not all(a.is_ipv6 for a in published),
        v6=facts.ipv6 is True or (facts.ipv6 is None and any(addr.is_ipv6 for addr in published)),
        v6_allowed=ruled.ipv6,
        varies=facts.mapping_varies,
        mapped=bool(facts.port_mapped) and facts.nat_layers < 2,
        nat_layers=facts.nat_layers,
    )


def udp_works(report: PathReport | None, facts: NatFacts) -> bool | None:
    """Packets of the peer that came, or its answers, prove more than STUN servers that are silent."""
    proven = report is not None and (report.seen > 0 or report.answered > 0)
    return True if proven else facts.udp


def guessed_facts(published: tuple[AddrPort, ...]) -> NatFacts:
    """What a peer that tells nothing gives away by the endpoints that it publishes: those of STUN are among them."""
    outside = [addr for addr in published if not addr.is_ipv6 and not is_private(addr)]
    ports = {addr.host: {one.port for one in outside if one.host == addr.host} for addr in outside}
    return NatFacts(
        udp=True if outside else None,
        mapping_varies=True if any(len(seen) > 1 for seen in ports.values()) else None,
        public_v4=outside[0] if outside else None,
    )


def is_private(addr: AddrPort) -> bool:
    """Can only neighbours reach this address? Not ipaddress.is_private: that counts examples' networks too."""
    ip = addr.ip
    return ip.is_loopback or ip.is_link_local or any(ip in net for net in _PRIVATE if net.version == ip.version)


def shares_nat(situation: Situation) -> bool | None:
    """Do both ends look the same from outside? None where one of them does not know how it looks."""
    facts = situation.remote.facts if situation.remote is not None else guessed_facts(situation.published)
    mine, theirs = situation.local.facts.public_v4, facts.public_v4
    if mine is not None and theirs is not None:
        return mine.host == theirs.host
    return False if is_public(situation.own) or is_public(situation.published) else None


def is_public(endpoints: tuple[AddrPort, ...]) -> bool:
    """Does a node that publishes these have a public IPv4 address of its own? Behind a NAT it publishes its private
    one, too."""
    v4 = [addr for addr in endpoints if not addr.is_ipv6]
    return bool(v4) and not any(map(is_private, v4))


def only_small_packets_pass(situation: Situation) -> bool:
    """Did some address of either end answer small pings, and no full-size ones?"""
    remote = situation.remote
    return situation.local.too_small or (remote is not None and remote.too_small)
