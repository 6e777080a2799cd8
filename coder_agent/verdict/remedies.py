"""Which changes would make a network direct: the smallest sets that suffice, whatever is not known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations

from ..base.nat_facts import SAFE_MTU
from .fixes import Fix, FixCode, Remedy, Where
from .model import Net, apply, is_direct

MAX_REMEDIES = 4
"""More choices than this help nobody."""
MAX_ENABLERS = 3
"""Changes beside the indispensable ones that are combined: opening a port, hairpinning and a STUN server at most."""
LISTEN_PORT = 41641
"""The port that is proposed to be opened (magicsock's usual one)."""

Step = tuple[FixCode, Where]


@dataclass(frozen=True, slots=True)
class Words:
    """How fixes speak of both ends: "your router", "the workspace's router"."""

    there: str = "the workspace"
    rule_here: str = ""
    rule_there: str = ""
    rule_deployment: str = ""
    port_here: int = 0
    port_there: int = 0
    outside_here: str = ""
    outside_there: str = ""
    fits: int = SAFE_MTU

    def of(self, where: Where, thing: str) -> str:
        """``your thing`` or ``the workspace's thing``."""
        return f"your {thing}" if where is Where.HERE else f"{self.there}'s {thing}"

    def on(self, where: Where) -> str:
        """``this machine`` or ``the workspace``."""
        return "this machine" if where is Where.HERE else self.there


def indispensable(net: Net) -> list[Step]:
    """What stands in the way of any direct path at all, the gravest first."""
    steps: list[Step] = []
    for where in (Where.HERE, Where.THERE):
        if not net.end(where).allowed:
            steps.append((FixCode.ALLOW_DIRECT, where))
    steps += [(FixCode.ALLOW_UDP, where) for where in (Where.HERE, Where.THERE) if not net.end(where).udp]
    if not net.passes:
        steps.append((FixCode.ALLOW_UDP, Where.PATH))
    steps += [(FixCode.RAISE_MTU, where) for where in (Where.HERE, Where.THERE) if net.end(where).fits is False]
    if not net.fits:
        steps.append((FixCode.RAISE_MTU, Where.PATH))
    return steps


def _enablers(net: Net) -> list[Step]:
    """What may be added, the easiest first."""
    ends = (Where.HERE, Where.THERE)
    steps: list[Step] = []
    if not net.stun:
        steps.append((FixCode.ADD_STUN, Where.DEPLOYMENT))
    steps += [(FixCode.ALLOW_IPV6, where) for where in ends if net.end(where).v6 and not net.end(where).v6_allowed]
    steps += [(FixCode.OPEN_PORT, where) for where in (Where.THERE, Where.HERE)]
    steps += [(FixCode.ENABLE_PORT_MAPPING, where) for where in ends if net.end(where).nat_layers == 1]
    if net.behind_one_nat and not net.hairpin:
        steps.append((FixCode.ENABLE_HAIRPIN, Where.PATH))
    steps += [(FixCode.ENABLE_IPV6, where) for where in ends if not net.end(where).v6]
    return steps


def sufficient(net: Net) -> Iterator[tuple[Step, ...]]:
    """The smallest sets of steps that make `net` direct, fewest steps first."""
    needed = indispensable(net)
    base = net
    for code, where in needed:
        base = apply(base, code, where)
    enablers = _enablers(net)
    accepted: list[frozenset[Step]] = []
    for size in range(MAX_ENABLERS + 1):
        for chosen in combinations(enablers, size):
            if any(smaller <= set(chosen) for smaller in accepted):
                continue
            mended = base
            for code, where in chosen:
                mended = apply(mended, code, where)
            if is_direct(mended):
                accepted.append(frozenset(chosen))
                yield (*needed, *chosen)


def remedies_for(net: Net, words: Words) -> tuple[Remedy, ...]:
    """What to propose, at most `MAX_REMEDIES`. Longer sets are left out where shorter ones exist: nobody does more than
    needed; only the both-ends IPv6 stands beside single fixes, for where nobody may touch the routers."""
    found: list[Remedy] = []
    shortest = 0
    for steps in sufficient(net):
        shortest = shortest or len(steps)
        if len(steps) > shortest and not (_is_ipv6(steps) and len(steps) == shortest + 1):
            continue
        found.append(Remedy(tuple(fix_of(step, words) for step in _one_rule(steps, words))))
        if len(found) == MAX_REMEDIES:
            break
    return tuple(found)


def _one_rule(steps: tuple[Step, ...], words: Words) -> tuple[Step, ...]:
    """A rule of the server forbids at both ends; taking it away is one change."""
    both = ((FixCode.ALLOW_DIRECT, Where.HERE), (FixCode.ALLOW_DIRECT, Where.THERE))
    if not words.rule_deployment or not all(step in steps for step in both):
        return steps
    return ((FixCode.ALLOW_DIRECT, Where.DEPLOYMENT), *(step for step in steps if step not in both))


def _is_ipv6(steps: tuple[Step, ...]) -> bool:
    return any(code is FixCode.ENABLE_IPV6 for code, _ in steps)


# ------------------------------------------------------------ words


def fix_of(step: Step, words: Words) -> Fix:
    """A step in words."""
    code, where = step
    return Fix(code, where, _TEXTS[code](where, words))


def _allow_direct(where: Where, words: Words) -> str:
    workspace = words.rule_deployment.partition("'s rule for ")[2]  # as the server names a workspace's own rules
    if workspace:
        return f"allow direct connections to this workspace (`coder path-rules {workspace} --direct auto`)"
    if words.rule_deployment:
        return f"allow direct connections ({words.rule_deployment}'s rule, --block-direct-connections of its server)"
    rule = {Where.HERE: words.rule_here, Where.THERE: words.rule_there}.get(where, "")
    if rule.startswith("--"):
        return f"remove {rule}"
    setter = f" ({rule})" if rule else ""
    return f"allow direct connections {'here' if where is Where.HERE else 'there'}{setter}"


def _allow_udp(where: Where, words: Words) -> str:
    if where is Where.PATH:
        return f"allow UDP to any port, not only to STUN servers, out of your network and {words.there}'s"
    return f"allow outgoing UDP in {words.of(where, 'network')}"


def _open_port(where: Where, words: Words) -> str:
    port = (words.port_here if where is Where.HERE else words.port_there) or LISTEN_PORT
    return f"open UDP {port} on {words.on(where)}"


def _enable_port_mapping(where: Where, words: Words) -> str:
    return f"enable UPnP, NAT-PMP or PCP on {words.of(where, 'router')}"


def _raise_mtu(where: Where, words: Words) -> str:
    if where is Where.PATH:
        return f"let packets of {words.fits} bytes pass between both networks (a tunnel or VPN in between has less)"
    return f"raise the MTU of {words.of(where, 'network interface')} to at least {words.fits}"


def _enable_hairpin(where: Where, words: Words) -> str:
    router = f" {words.outside_here}" if words.outside_here else ""
    return f"enable hairpinning (NAT loopback) on the router{router} that both ends are behind"


_TEXTS: dict[FixCode, Callable[[Where, Words], str]] = {
    FixCode.ALLOW_DIRECT: _allow_direct,
    FixCode.ALLOW_UDP: _allow_udp,
    FixCode.OPEN_PORT: _open_port,
    FixCode.ENABLE_PORT_MAPPING: _enable_port_mapping,
    FixCode.ENABLE_IPV6: lambda where, words: f"enable IPv6 in {words.of(where, 'network')}",
    FixCode.ALLOW_IPV6: lambda where, words: f"take the rule away that forbids IPv6 on {words.on(where)}",
    FixCode.ADD_STUN: lambda where, words: "add a STUN server to the deployment (--derp-server-stun-addresses)",
    FixCode.ENABLE_HAIRPIN: _enable_hairpin,
    FixCode.RAISE_MTU: _raise_mtu,
}
