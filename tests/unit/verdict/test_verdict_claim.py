"""The claim: over generated networks whose truth is known, the primary cause is right in 95 of 100, and every fix that
a verdict names makes the path direct when the laboratory applies it.

The truth is computed here from the topology alone, with none of the judge's code: who shares a network, what every NAT
and firewall on the way does. The verdicts are made from what the real path cores report after a real search.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import pytest

from coder_agent.testing.lab.generated import LOW_MTU, generated
from coder_agent.testing.lab.judging import search, situation_of, with_fix
from coder_agent.testing.lab.topology import INTERNET, Filtering, Host, Mapping, Ports, Router, Topology
from coder_agent.verdict.causes import Cause
from coder_agent.verdict.judge import judge
from coder_agent.verdict.situation import Verdict

CHUNKS, PER_CHUNK = 4, 100
"""400 networks, in pieces that run beside each other."""
RIGHT = 0.95
TESTED = {
    Cause.DIRECT_LAN,
    Cause.DIRECT_IPV6,
    Cause.DIRECT_PUBLIC,
    Cause.DIRECT_PUNCHED,
    Cause.DIRECT_PORT_MAPPED,
    Cause.BLOCKED_BY_RULE_HERE,
    Cause.BLOCKED_BY_RULE_THERE,
    Cause.UDP_BLOCKED_HERE,
    Cause.UDP_BLOCKED_THERE,
    Cause.UDP_BLOCKED_BOTH,
    Cause.NO_COMMON_FAMILY,
    Cause.LOW_MTU_HERE,
    Cause.LOW_MTU_THERE,
    Cause.LOW_MTU_PATH,
    Cause.NO_STUN,
    Cause.SAME_NAT_NO_HAIRPIN,
    Cause.HARD_NAT_BOTH,
    Cause.HARD_NAT_HERE_STRICT_THERE,
    Cause.HARD_NAT_THERE_STRICT_HERE,
    Cause.UDP_FILTERED_BETWEEN,
}


# ------------------------------------------------------------ the truth, from the topology


@dataclass(frozen=True)
class Side:
    """One end of a topology, and the routers before it."""

    host: Host
    chain: tuple[Router, ...]

    def has(self, family: int) -> bool:
        return any((":" in address) == (family == 6) for address in self.host.addresses)

    @property
    def lets_udp(self) -> bool:
        return self.host.firewall.udp and all(router.firewall4.udp for router in self.chain)

    @property
    def lets_udp_to_peers(self) -> bool:
        return not self.host.firewall.to_ports

    @property
    def varies(self) -> bool:
        return any(one.nat is not None and one.nat.mapping is not Mapping.ENDPOINT_INDEPENDENT for one in self.chain)

    @property
    def is_orderly(self) -> bool:
        """No NAT that varies does so at random."""
        nats = [one.nat for one in self.chain if one.nat is not None]
        return all(one.mapping is Mapping.ENDPOINT_INDEPENDENT or one.ports is not Ports.RANDOM for one in nats)

    @property
    def admits_strangers_ports(self) -> bool:
        """Lets packets of a host in that was sent to, from whatever port."""
        strict = Filtering.ADDRESS_AND_PORT_DEPENDENT
        nats = [one.nat for one in self.chain if one.nat is not None]
        return self.host.firewall.unsolicited and all(nat.filtering is not strict for nat in nats)

    @property
    def is_mapped(self) -> bool:
        return len(self.chain) == 1 and bool(self.chain[0].port_mapping)

    @property
    def fits(self) -> bool:
        return all(foot.link.mtu > LOW_MTU for foot in self.host.interfaces)

    @property
    def segment(self) -> str:
        return self.host.interfaces[0].segment


def truth(topology: Topology) -> Cause:
    """Why the first two hosts are direct, or what keeps them from it, in the order of the documentation."""
    here, there = (Side(host, topology.chain(host.name)) for host in topology.hosts)
    if not here.host.allow_direct:
        return Cause.BLOCKED_BY_RULE_HERE
    if not there.host.allow_direct:
        return Cause.BLOCKED_BY_RULE_THERE
    near = here.segment == there.segment != INTERNET and here.segment not in topology.isolated
    common = [family for family in (4, 6) if here.has(family) and there.has(family)]
    hosts_let = all(side.host.firewall.udp and side.lets_udp_to_peers for side in (here, there))
    if near and common and hosts_let:
        return Cause.DIRECT_LAN if here.fits and there.fits else _low_mtu(here)
    return _obstacle(topology, here, there, common) or _means(topology, here, there, common)


def _obstacle(topology: Topology, here: Side, there: Side, common: list[int]) -> Cause | None:
    """What keeps them apart; None = nothing."""
    if not topology.stun and _needs_stun(here, there, common):
        return Cause.NO_STUN
    blocked = (not here.lets_udp, not there.lets_udp)
    if any(blocked):
        both, first = all(blocked), blocked[0]
        return Cause.UDP_BLOCKED_BOTH if both else Cause.UDP_BLOCKED_HERE if first else Cause.UDP_BLOCKED_THERE
    if not here.fits or not there.fits:
        return _low_mtu(here)
    if not common:
        return Cause.NO_COMMON_FAMILY
    if not here.lets_udp_to_peers or not there.lets_udp_to_peers:
        return Cause.UDP_FILTERED_BETWEEN
    if topology.core.mtu <= LOW_MTU or any(one.link.mtu <= LOW_MTU for one in (*here.chain, *there.chain)):
        return Cause.LOW_MTU_PATH
    return None if 6 in common else _nat_obstacle(here, there)


def _low_mtu(here: Side) -> Cause:
    return Cause.LOW_MTU_THERE if here.fits else Cause.LOW_MTU_HERE


def _needs_stun(here: Side, there: Side, common: list[int]) -> bool:
    """Without STUN: IPv6 addresses, mapped ports and open public hosts are known; all else is not."""
    if 6 in common or _in_one_carrier(here, there):
        return False
    known = [side for side in (here, there) if side.is_mapped or (not side.chain and side.host.firewall.unsolicited)]
    return not known and bool(here.chain or there.chain)


def _in_one_carrier(here: Side, there: Side) -> bool:
    """Two homes in one carrier's network, where a port that one home's router opened can be reached."""
    ends = (here, there)
    return (
        all(len(side.chain) == 2 for side in ends)
        and here.chain[1] == there.chain[1]
        and any(side.chain[0].port_mapping for side in ends)
    )


def _nat_obstacle(here: Side, there: Side) -> Cause | None:
    if _in_one_carrier(here, there):
        return None
    shared = [one for one in here.chain if one in there.chain]
    if shared and not any(one.nat is not None and one.nat.hairpin for one in shared):
        return Cause.SAME_NAT_NO_HAIRPIN
    if here.is_mapped or there.is_mapped or not (here.varies or there.varies):
        return None
    if here.varies and there.varies:
        return Cause.HARD_NAT_BOTH
    if _is_guessed(here, there):
        return None
    if here.varies:
        return None if there.admits_strangers_ports else Cause.HARD_NAT_HERE_STRICT_THERE
    return None if here.admits_strangers_ports else Cause.HARD_NAT_THERE_STRICT_HERE


def _is_guessed(here: Side, there: Side) -> bool:
    """Where one end has one port for all, the next port of an orderly NAT is foreseen, and a random one is found by
    birthday probing, which takes both ends."""
    hard = here if here.varies else there
    return here.varies != there.varies and (hard.is_orderly or (here.host.birthday and there.host.birthday))


def _means(topology: Topology, here: Side, there: Side, common: list[int]) -> Cause:
    if _in_one_carrier(here, there) and 6 not in common:
        return Cause.DIRECT_LAN
    if 6 in common:
        return Cause.DIRECT_IPV6
    if here.is_mapped or there.is_mapped:
        return Cause.DIRECT_PORT_MAPPED
    if here.varies != there.varies and not (there if here.varies else here).admits_strangers_ports:
        return Cause.DIRECT_BIRTHDAY
    return Cause.DIRECT_PUNCHED if here.chain and there.chain else Cause.DIRECT_PUBLIC


# ------------------------------------------------------------ the verdicts


@cache
def verdict_of(seed: int) -> Verdict:
    _, a, b = search(generated(seed), seed)
    return judge(situation_of(a, b))


def fixed_networks(seed: int) -> Iterator[tuple[str, Topology]]:
    """Every network that a remedy of the verdict makes, with the remedy's words."""
    for remedy in verdict_of(seed).fixes:
        topology = generated(seed)
        for fix in remedy.all_of:
            topology = with_fix(topology, fix)
        yield remedy.text, topology


def seeds(chunk: int) -> range:
    return range(chunk * PER_CHUNK, (chunk + 1) * PER_CHUNK)


def is_right(seed: int) -> bool:
    """A port that was guessed looks, from the end that guessed it, like one that its owner opened."""
    told, true = verdict_of(seed).code, truth(generated(seed))
    guessed = true is Cause.DIRECT_BIRTHDAY and told in (Cause.DIRECT_PUNCHED, Cause.DIRECT_PUBLIC)
    return told is true or guessed


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_the_primary_cause_is_right_in_95_of_100(chunk: int) -> None:
    wrong = [
        f"{seed}: {verdict_of(seed).code}, in truth {truth(generated(seed))}"
        for seed in seeds(chunk)
        if not is_right(seed)
    ]
    assert len(wrong) <= PER_CHUNK * (1 - RIGHT), wrong


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_fix_that_is_named_makes_the_path_direct(chunk: int) -> None:
    failed = []
    for seed in seeds(chunk):
        for words, topology in fixed_networks(seed):
            _, a, b = search(topology, seed)
            if not (a.is_direct(b) and b.is_direct(a)):
                failed.append(f"{seed} ({verdict_of(seed).code}): {words}")
    assert not failed


def test_the_networks_are_of_all_kinds_and_relayed_ones_are_told_what_to_do() -> None:
    """Or the claim would be about easy cases only, or about fixes that are never named."""
    verdicts = [verdict_of(seed) for chunk in range(CHUNKS) for seed in seeds(chunk)]
    relayed = [verdict for verdict in verdicts if not verdict.code.is_direct]
    assert {verdict.code for verdict in verdicts} >= TESTED
    assert len(relayed) > len(verdicts) / 3
    assert sum(bool(verdict.fixes) for verdict in relayed) >= RIGHT * len(relayed)
