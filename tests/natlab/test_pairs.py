"""Fifteen pairs of places, in real kernels with real processes: direct by what means, or relayed because of what.

The id of a case says the pair: where the agent is, and where the user is. How long each took stands in
build/natlab.json and at the end of a run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from coder_agent.testing import netns_nat as nat
from coder_agent.testing.netns_deployment import Cell, Found, OutsideDeployment
from coder_agent.testing.netns_nat import Mapping, NatKind
from coder_agent.testing.netns_places import Home, Visitors
from coder_agent.testing.netns_upnp import find_miniupnpd, serve_port_mapping
from coder_agent.verdict.causes import Cause

pytestmark = pytest.mark.netns
LISTEN_PORT = 41641
FORWARD = NatKind("symmetric-forward", Mapping.RANDOM, forwards=(LISTEN_PORT,))
UPNP = NatKind("symmetric-upnp", Mapping.RANDOM, upnp=True)
SOON = 5.0
"""Seconds in which a path that needs no luck is found; usually a fraction of one."""
LUCKY = 30.0
"""Seconds in which ports are guessed."""
LONG = 6.0
"""Seconds without a direct path after which a pair counts as relayed: more than one round of tries (5 s)."""

Places = tuple[Home, Home]
Recorder = Callable[[str, str, Found], None]


@dataclass(frozen=True)
class Pair:
    """Where agent and user are, and what comes of it. `within`: seconds for a direct path to be found."""

    name: str
    build: Callable[[Visitors], Places]
    outcome: Cause
    within: float = SOON
    run_flags: tuple[str, ...] = ()


def apart(agent: NatKind | None, user: NatKind | None, *, ipv6: bool = False) -> Callable[[Visitors], Places]:
    """Each behind a router of its own; None = on the internet itself."""

    def build(guests: Visitors) -> Places:
        homes = [
            guests.public(name) if kind is None else guests.home(name, kind, ipv6=ipv6)
            for name, kind in (("agent", agent), ("user", user))
        ]
        return homes[0], homes[1]

    return build


def together(kind: NatKind, *, isolated: bool) -> Callable[[Visitors], Places]:
    """Both behind one router."""

    def build(guests: Visitors) -> Places:
        one, two = guests.family("host", kind, isolated=isolated)
        return one, two

    return build


def double(guests: Visitors) -> Places:
    """A home router behind a carrier's, and another home."""
    return guests.home("agent", nat.EASY, nat.EASY), guests.home("user", nat.EASY)


PAIRS = [
    Pair("easy – easy", apart(nat.EASY, nat.EASY), Cause.DIRECT_PUNCHED),
    Pair("easy – symmetric", apart(nat.EASY, nat.SYMMETRIC), Cause.DIRECT_BIRTHDAY, LUCKY),
    Pair("symmetric-sequential – easy", apart(nat.SEQUENTIAL, nat.EASY), Cause.DIRECT_BIRTHDAY, LUCKY),
    Pair("symmetric-preserving – restricted-cone", apart(nat.PRESERVING, nat.RESTRICTED), Cause.DIRECT_PUNCHED),
    Pair("symmetric – symmetric", apart(nat.SYMMETRIC, nat.SYMMETRIC), Cause.HARD_NAT_BOTH, LONG),
    Pair("open – symmetric", apart(None, nat.SYMMETRIC), Cause.DIRECT_PUBLIC),
    Pair("full-cone – symmetric", apart(nat.FULL_CONE, nat.SYMMETRIC), Cause.DIRECT_PUNCHED),
    Pair("symmetric – restricted-cone", apart(nat.SYMMETRIC, nat.RESTRICTED), Cause.DIRECT_PUNCHED),
    Pair("double NAT – easy", double, Cause.DIRECT_PUNCHED),
    Pair("same LAN", together(nat.SYMMETRIC, isolated=False), Cause.DIRECT_LAN),
    Pair("same NAT with hairpin, LANs apart", together(nat.HAIRPIN, isolated=True), Cause.DIRECT_PUNCHED),
    Pair("same NAT without hairpin, LANs apart", together(nat.EASY, isolated=True), Cause.SAME_NAT_NO_HAIRPIN, LONG),
    Pair("IPv6 firewalls", apart(nat.SYMMETRIC, nat.SYMMETRIC, ipv6=True), Cause.DIRECT_IPV6),
    Pair("open – UDP blocked", apart(None, nat.UDP_BLOCKED), Cause.UDP_BLOCKED_HERE, LONG),
    Pair("HTTPS only – easy", apart(nat.HTTPS_ONLY, nat.EASY), Cause.UDP_BLOCKED_THERE, LONG),
    Pair(
        "symmetric with port forward – symmetric",
        apart(FORWARD, nat.SYMMETRIC),
        Cause.DIRECT_PORT_MAPPED,
        run_flags=("--tailnet-listen-port", str(LISTEN_PORT)),
    ),
]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name.replace(" ", "_"))
def test_pair(pair: Pair, guests: Visitors, deployment: OutsideDeployment, record_pair: Recorder) -> None:
    agent, user = pair.build(guests)
    with deployment.cell(agent, user, run_flags=pair.run_flags) as cell:
        judge(pair.name, pair.outcome, cell, pair.within, record_pair)


@pytest.mark.skipif(find_miniupnpd() is None, reason="miniupnpd is not installed")
def test_pair_symmetric_with_upnp_and_symmetric(
    guests: Visitors, deployment: OutsideDeployment, record_pair: Recorder, tmp_path: Path
) -> None:
    agent, user = guests.home("agent", UPNP), guests.home("user", nat.SYMMETRIC)
    serve_port_mapping(agent.routers[0], tmp_path)
    with deployment.cell(agent, user) as cell:
        judge("symmetric with UPnP – symmetric", Cause.DIRECT_PORT_MAPPED, cell, SOON, record_pair)


def judge(name: str, outcome: Cause, cell: Cell, within: float, record: Recorder) -> None:
    """The path that is there, by its address; what was tried, by the counts; and what the product says of it."""
    cell.connected()
    found = cell.wait_direct(within)
    record(name, outcome.value, found)
    assert found.kind == ("direct" if outcome.is_direct else "relayed"), cell.evidence()
    if outcome.is_direct:
        assert means(cell, found) == place_of(outcome), found
    else:
        assert not any(candidate["answered"] for candidate in cell.evidence()["candidates"])


def place_of(outcome: Cause) -> str:
    """Where the agent's address must lie for this outcome to be true."""
    if outcome is Cause.DIRECT_LAN:
        return "LAN"
    if outcome is Cause.DIRECT_IPV6:
        return "IPv6"
    return "itself" if outcome is Cause.DIRECT_PUBLIC else "router"


def means(cell: Cell, found: Found) -> str:
    """What the address that the user sends to is."""
    agent = cell.agent_home
    if found.host == agent.host.address4:
        return "LAN" if agent.routers else "itself"
    if found.host == agent.host.address6:
        return "IPv6"
    return "router" if found.host == agent.outside else "nowhere"
