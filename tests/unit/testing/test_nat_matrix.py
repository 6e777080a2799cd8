"""The NAT matrix: each pair of the ten places is direct if RFC 4787's rules leave a way, by the means that they leave.

What is expected is worked out here from two words per place (does its mapping vary with the destination? whom does its
filter admit?), by rules that know nothing of the laboratory or the path core.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from functools import cache

import pytest

from coder_agent.testing.lab import Pair, all_pairs, topology_of
from coder_agent.testing.lab.matrix import Cell, meet, run_cell
from coder_agent.testing.lab.means import Means, means_of

# ------------------------------------------------------------ what RFC 4787 permits


class Admits(Enum):
    """Whom a filter lets in to a mapping (RFC 4787 §5)."""

    ANYBODY = "anybody"
    ADDRESSES_SENT_TO = "addresses sent to"
    PORTS_SENT_TO = "addresses with ports sent to"


@dataclass(frozen=True)
class Behaviour:
    """A place in RFC 4787's words. `varies`: its mapping is not endpoint-independent. `counts`: the port of the next
    mapping follows from the last one's."""

    varies: bool
    admits: Admits
    counts: bool = False


BEHAVIOUR = {
    "open": Behaviour(False, Admits.ANYBODY),
    "full-cone": Behaviour(False, Admits.ANYBODY),
    "restricted-cone": Behaviour(False, Admits.ADDRESSES_SENT_TO),
    "easy": Behaviour(False, Admits.PORTS_SENT_TO),
    "symmetric-random": Behaviour(True, Admits.PORTS_SENT_TO),
    "symmetric-preserving": Behaviour(True, Admits.PORTS_SENT_TO, counts=True),
    "double-nat": Behaviour(False, Admits.PORTS_SENT_TO),
}


class Way(Enum):
    """How two ends can be joined."""

    LAN = "over their own network"
    IPV6 = "IPv6 through two stateful firewalls"
    HAIRPIN = "turned round by the common router"
    PUNCHING = "each sends to the address that STUN or a ping told"
    PREDICTION = "the port that one NAT will use next is worked out"
    BIRTHDAY = "ports are guessed from many sockets"
    NONE = "none"


def way_of(pair: Pair) -> Way:
    """The way that there is, the simplest first."""
    places = {pair.a, pair.b}
    if pair.hairpin is not None:
        return Way.HAIRPIN if pair.hairpin else Way.NONE
    if "same-nat" in places:
        return Way.LAN
    if "udp-blocked" in places:
        return Way.NONE
    return Way.IPV6 if "ipv6" in places else _across(BEHAVIOUR[pair.a], BEHAVIOUR[pair.b])


def _across(a: Behaviour, b: Behaviour) -> Way:
    """Through two NATs. The end with the stable port can be sent to; what comes from a port that varies has to pass its
    filter, for which it must have sent to that very port, unless it only looks at addresses."""
    if not (a.varies or b.varies):
        return Way.PUNCHING
    if a.varies and b.varies:  # both ports are unknown to the other
        return Way.PREDICTION if a.counts and b.counts else Way.NONE
    varying, stable = (a, b) if a.varies else (b, a)
    if stable.admits is not Admits.PORTS_SENT_TO:
        return Way.PUNCHING
    return Way.PREDICTION if varying.counts else Way.BIRTHDAY


MEANS = {
    Way.LAN: {Means.INTERFACE},
    Way.IPV6: {Means.IPV6},
    Way.HAIRPIN: {Means.HAIRPIN},
    Way.PUNCHING: {Means.INTERFACE, Means.STUN, Means.PING, Means.PREDICTION},
    Way.PREDICTION: {Means.STUN, Means.PREDICTION, Means.PING},
    Way.BIRTHDAY: {Means.BIRTHDAY},
}
"""What the two ends may say of a path by that way."""
SECONDS = {Way.LAN: 0.3, Way.IPV6: 1.0, Way.HAIRPIN: 1.0, Way.PUNCHING: 1.0, Way.PREDICTION: 5.0, Way.BIRTHDAY: 20.0}
"""From first contact, with 50 ms there and back."""
WHY_RELAYED = {
    "udp": "UDP is blocked",
    "hairpin": "the common router does not hairpin",
    "symmetric": "both NATs give each destination another port",
    "hard": "one NAT gives each destination another port",
}


@cache
def cell_of(pair: Pair) -> Cell:
    return run_cell(pair)


@pytest.mark.parametrize("pair", all_pairs(), ids=lambda pair: pair.name)
def test_cell(pair: Pair) -> None:
    cell = cell_of(pair)
    way = way_of(pair)
    if way is Way.NONE:
        assert not cell.is_direct
        assert not cell.means
        assert any(cell.why.startswith(why) for why in WHY_RELAYED.values()), cell.why
        return
    assert cell.seconds is not None, f"there is a way ({way.value}), but it was not found: {cell.why}"
    assert cell.seconds <= SECONDS[way]
    assert cell.means
    assert set(cell.means) <= MEANS[way]


def test_there_are_55_pairs_and_two_are_run_with_and_without_hairpin() -> None:
    pairs = all_pairs()
    assert len({frozenset((pair.a, pair.b)) for pair in pairs}) == 55
    assert len(pairs) == 57


@pytest.mark.parametrize("seed", range(2, 7))
def test_two_easy_nats_are_direct_within_a_second_of_first_contact(seed: int) -> None:
    cell = run_cell(Pair("easy", "easy"), seed=seed)
    assert cell.seconds is not None
    assert cell.seconds <= 1


@pytest.mark.parametrize("has_stun", [True, False], ids=["with STUN", "without STUN"])
def test_neighbours_are_direct_within_300_ms(has_stun: bool) -> None:
    topology = topology_of(Pair("easy", "same-nat"))
    met = meet(topology if has_stun else replace(topology, stun=()))
    assert met.seconds is not None
    assert met.seconds <= 0.3
    assert means_of(met.a, met.b) == (Means.INTERFACE,)


def test_the_reason_for_the_relay_is_the_right_one() -> None:
    expected = {
        Pair("open", "udp-blocked"): WHY_RELAYED["udp"],
        Pair("same-nat", "same-nat", False): WHY_RELAYED["hairpin"],
        Pair("symmetric-random", "symmetric-random"): WHY_RELAYED["symmetric"],
    }
    for pair, why in expected.items():
        assert cell_of(pair).why.startswith(why)
