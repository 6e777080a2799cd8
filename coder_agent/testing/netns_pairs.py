"""The most telling pairs of places in real kernels, as data: where agent and user are, and what must come of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..verdict.causes import Cause
from . import netns_nat as nat
from .netns_nat import Mapping, NatKind
from .netns_places import Home, Visitors
from .netns_upnp import serve_port_mapping
from .processes import PATIENCE

LISTEN_PORT = 41641
FORWARD = NatKind("symmetric-forward", Mapping.RANDOM, forwards=(LISTEN_PORT,))
UPNP = NatKind("symmetric-upnp", Mapping.RANDOM, upnp=True)
SOON = 5.0
"""Seconds in which a path that needs no luck is found; usually a fraction of one."""
LUCKY = 30.0
"""Seconds in which ports are guessed."""
SETTLED = 13.0
"""Seconds after which the product calls a search without success settled (verdict.judge, SEARCH_TIME)."""
LONG = 6.0
"""Seconds without a direct path after which a pair counts as relayed: more than one round of tries (5 s)."""

Places = tuple[Home, Home]
Builder = Callable[[Visitors, Path], Places]
"""Builds both places; the folder is for what programs on routers need."""


@dataclass(frozen=True)
class Pair:
    """Where agent and user are, and what comes of it.

    `within`: seconds in which a direct path is found on a machine with nothing else to do, or after which there is
    none. `run_flags`: of ``coder-agent run``.
    `upnp`: needs miniupnpd.
    """

    name: str
    build: Builder
    outcome: Cause
    within: float = SOON
    run_flags: tuple[str, ...] = ()
    upnp: bool = False
    says: Cause | None = None
    """What the product says, where it cannot know better: a forwarded port, or a foreseen one, looks punched to a user
    whose ping was answered at once."""

    @property
    def patience(self) -> float:
        """Seconds to wait for a direct path: for one that must come, on however busy a machine."""
        return PATIENCE if self.outcome.is_direct else self.within


def apart(agent: NatKind | None, user: NatKind | None, *, ipv6: bool = False) -> Builder:
    """Each behind a router of its own; None = on the internet itself."""

    def build(guests: Visitors, folder: Path) -> Places:
        homes = [
            guests.public(name) if kind is None else guests.home(name, kind, ipv6=ipv6)
            for name, kind in (("agent", agent), ("user", user))
        ]
        return homes[0], homes[1]

    return build


def together(kind: NatKind, *, isolated: bool) -> Builder:
    """Both behind one router."""

    def build(guests: Visitors, folder: Path) -> Places:
        one, two = guests.family("host", kind, isolated=isolated)
        return one, two

    return build


def double(guests: Visitors, folder: Path) -> Places:
    """A home router behind a carrier's, and another home."""
    return guests.home("agent", nat.EASY, nat.EASY), guests.home("user", nat.EASY)


def asking(guests: Visitors, folder: Path) -> Places:
    """A router that opens ports when asked, for the agent."""
    agent = guests.home("agent", UPNP)
    serve_port_mapping(agent.routers[0], folder)
    return agent, guests.home("user", nat.SYMMETRIC)


PAIRS = [
    Pair("easy – easy", apart(nat.EASY, nat.EASY), Cause.DIRECT_PUNCHED),
    Pair("easy – symmetric", apart(nat.EASY, nat.SYMMETRIC), Cause.DIRECT_BIRTHDAY, LUCKY),
    Pair(
        "symmetric-sequential – easy",
        apart(nat.SEQUENTIAL, nat.EASY),
        Cause.DIRECT_BIRTHDAY,
        LUCKY,
        says=Cause.DIRECT_PUNCHED,
    ),
    Pair("symmetric-preserving – restricted-cone", apart(nat.PRESERVING, nat.RESTRICTED), Cause.DIRECT_PUNCHED),
    Pair("symmetric – symmetric", apart(nat.SYMMETRIC, nat.SYMMETRIC), Cause.HARD_NAT_BOTH, SETTLED),
    Pair("open – symmetric", apart(None, nat.SYMMETRIC), Cause.DIRECT_PUBLIC),
    Pair("full-cone – symmetric", apart(nat.FULL_CONE, nat.SYMMETRIC), Cause.DIRECT_PUNCHED),
    Pair("symmetric – restricted-cone", apart(nat.SYMMETRIC, nat.RESTRICTED), Cause.DIRECT_PUNCHED),
    Pair("double NAT – easy", double, Cause.DIRECT_PUNCHED),
    Pair("same LAN", together(nat.SYMMETRIC, isolated=False), Cause.DIRECT_LAN),
    Pair("same NAT with hairpin, LANs apart", together(nat.HAIRPIN, isolated=True), Cause.DIRECT_PUNCHED),
    Pair("same NAT without hairpin, LANs apart", together(nat.EASY, isolated=True), Cause.SAME_NAT_NO_HAIRPIN, SETTLED),
    Pair("IPv6 firewalls", apart(nat.SYMMETRIC, nat.SYMMETRIC, ipv6=True), Cause.DIRECT_IPV6),
    Pair("open – UDP blocked", apart(None, nat.UDP_BLOCKED), Cause.UDP_BLOCKED_HERE, LONG),
    Pair("HTTPS only – easy", apart(nat.HTTPS_ONLY, nat.EASY), Cause.UDP_BLOCKED_THERE, LONG),
    Pair(
        "symmetric with port forward – symmetric",
        apart(FORWARD, nat.SYMMETRIC),
        Cause.DIRECT_PORT_MAPPED,
        run_flags=("--tailnet-listen-port", str(LISTEN_PORT)),
        says=Cause.DIRECT_PUNCHED,
    ),
    Pair("symmetric with UPnP – symmetric", asking, Cause.DIRECT_PORT_MAPPED, upnp=True),
]
