"""Kinds of NAT as data, and the nftables rules that make a kernel behave so.

The words are RFC 4787's: *mapping* (§4.1) says whether a new destination gets a new outside port, *filtering* (§5) who
may send to a mapping. A router has the devices ``wan`` and ``lan0``, ``lan1`` …; the rules name no others.

The kernel's own masquerade keeps the inside port while it is free, and lets in only what answers: the usual home
router. Everything more open is built on it with maps that the packets themselves fill (``update @…``), everything more
closed by other outside ports. `tests/natlab/test_nat_kinds.py` measures each kind with plain sockets.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

MAPPING_LIFE = "2m"
"""How long an idle mapping of the open kinds lasts; RFC 4787 §4.3 asks for at least that."""
SEQUENCE = range(20000, 24000)
"""Outside ports of the sequential kind, in order."""


class Mapping(StrEnum):
    """What outside port a new destination gets."""

    INDEPENDENT = "endpoint-independent"
    """The same for all destinations: the inside port, while it is free."""
    RANDOM = "random per destination"
    """Address-and-port-dependent, and nobody can guess it."""
    PRESERVING = "the inside port for the first destination, random for others"
    """Address-and-port-dependent: the port is kept as long as no other mapping has it."""
    SEQUENTIAL = "the next port per destination"
    """Address-and-port-dependent, and everybody can guess it."""


class Filtering(StrEnum):
    """Who may send to a mapping."""

    INDEPENDENT = "endpoint-independent"
    ADDRESS = "address-dependent"
    ADDRESS_AND_PORT = "address-and-port-dependent"


@dataclass(frozen=True, slots=True)
class NatKind:
    """One kind of router.

    `forwards`: outside UDP ports that always lead to the same port of the first host. `tcp_ports`: the only TCP ports
    that may be reached outside, None = all. `udp` False: none passes. `hairpin`: hosts inside reach each other's
    outside addresses (RFC 4787 §6, with the outside address as source). `upnp`: with what miniupnpd needs.
    """

    name: str
    mapping: Mapping = Mapping.INDEPENDENT
    filtering: Filtering = Filtering.ADDRESS_AND_PORT
    hairpin: bool = False
    forwards: tuple[int, ...] = ()
    udp: bool = True
    tcp_ports: tuple[int, ...] | None = None
    upnp: bool = False

    def __post_init__(self) -> None:
        if self.mapping is not Mapping.INDEPENDENT and (self.hairpin or self.filtering is not _STRICT):
            raise ValueError(f"{self.name}: only endpoint-independent mappings can be found again from outside")


_STRICT = Filtering.ADDRESS_AND_PORT
EASY = NatKind("easy")
FULL_CONE = NatKind("full-cone", filtering=Filtering.INDEPENDENT)
RESTRICTED = NatKind("restricted-cone", filtering=Filtering.ADDRESS)
SYMMETRIC = NatKind("symmetric", Mapping.RANDOM)
PRESERVING = NatKind("symmetric-preserving", Mapping.PRESERVING)
SEQUENTIAL = NatKind("symmetric-sequential", Mapping.SEQUENTIAL)
HAIRPIN = NatKind("easy-hairpin", hairpin=True)
UDP_BLOCKED = NatKind("udp-blocked", udp=False)
HTTPS_ONLY = NatKind("https-only", udp=False, tcp_ports=(443,))
KINDS = (EASY, FULL_CONE, RESTRICTED, SYMMETRIC, PRESERVING, SEQUENTIAL, HAIRPIN, UDP_BLOCKED, HTTPS_ONLY)


def ruleset(kind: NatKind, outside: str, first_host: str) -> str:
    """The rules of a router of this kind, for ``nft -f -``. `outside` is its IPv4 address, `first_host` an inside one.

    IPv6 is not translated, only guarded: what comes unasked from outside is dropped, as home routers do.
    """
    return "\n".join(
        [
            "table inet nat",
            "delete table inet nat",
            "table inet nat {",
            f"  map hosts {{ type inet_service : ipv4_addr; {_FILLED} }}",
            f"  map spoken {{ type ipv4_addr . inet_service : ipv4_addr; {_FILLED} }}",
            f"  set taken {{ type inet_service; {_FILLED} }}",
            *_chain("arriving", "nat hook prerouting priority dstnat", _arriving(kind, outside, first_host)),
            *_chain("own", "filter hook input priority 0", _OWN),
            *_chain("passing", "filter hook forward priority 0; policy drop", _passing(kind)),
            *_chain("leaving", "nat hook postrouting priority srcnat", _leaving(kind, outside)),
            "}",
            *(_UPNP if kind.upnp else []),
        ]
    )


_FILLED = f"flags dynamic,timeout; timeout {MAPPING_LIFE}; size 65535;"
_OWN = ['iifname "wan" ct state established,related accept', 'iifname "wan" meta nfproto ipv4 drop']
"""Not decoration: a peer's early packet, let in to the router itself, would be confirmed as a conversation of its own
and force the inside host's mapping onto another port, which makes hole punching fail as on no real router."""
_UPNP = [
    "table inet filter {",
    "  chain miniupnpd { }",
    "  chain prerouting_miniupnpd { }",
    "  chain postrouting_miniupnpd { }",
    "  chain mapped { type nat hook prerouting priority dstnat; jump prerouting_miniupnpd; }",
    "}",
]
"""The chains that miniupnpd fills. What it maps comes in by its prerouting chain, and passes ours as `ct status dnat`
is accepted."""
_REMEMBER = 'iifname "lan*" oifname "wan" meta nfproto ipv4 meta l4proto udp update'


def _chain(name: str, hook: str, rules: list[str]) -> list[str]:
    return [f"  chain {name} {{ type {hook};", *(f"    {rule}" for rule in rules), "  }"]


def _arriving(kind: NatKind, outside: str, first_host: str) -> list[str]:
    rules = [f'iifname "wan" udp dport {port} dnat ip to {first_host}' for port in kind.forwards]
    if kind.filtering is Filtering.INDEPENDENT:
        rules.append('iifname "wan" meta nfproto ipv4 meta l4proto udp dnat ip to udp dport map @hosts')
    if kind.filtering is Filtering.ADDRESS:
        rules.append('iifname "wan" meta nfproto ipv4 meta l4proto udp dnat ip to ip saddr . udp dport map @spoken')
    if kind.hairpin:
        rules.append(f'iifname "lan*" ip daddr {outside} meta l4proto udp dnat ip to udp dport map @hosts')
    return rules


def _passing(kind: NatKind) -> list[str]:
    rules = [] if kind.udp else ["meta l4proto udp drop"]
    if kind.filtering is Filtering.INDEPENDENT or kind.hairpin:
        rules.append(f"{_REMEMBER} @hosts {{ udp sport : ip saddr }}")
    if kind.filtering is Filtering.ADDRESS:
        rules.append(f"{_REMEMBER} @spoken {{ ip daddr . udp sport : ip saddr }}")
    rules += ["ct state established,related accept", "ct status dnat accept"]
    if kind.tcp_ports is not None:
        ports = ", ".join(map(str, kind.tcp_ports))
        rules.append(f'iifname "lan*" oifname "wan" tcp dport {{ {ports} }} accept')
    else:
        rules.append('iifname "lan*" oifname "wan" accept')
    return rules


def _leaving(kind: NatKind, outside: str) -> list[str]:
    udp = 'oifname "wan" meta nfproto ipv4 meta l4proto udp'
    rules = [f'oifname "lan*" ct status dnat iifname "lan*" snat ip to {outside}'] if kind.hairpin else []
    if kind.mapping is Mapping.RANDOM:
        rules.append(f"{udp} masquerade fully-random")
    elif kind.mapping is Mapping.PRESERVING:
        rules += [f"{udp} udp sport @taken masquerade fully-random", f"{udp} add @taken {{ udp sport }}"]
    elif kind.mapping is Mapping.SEQUENTIAL:
        ports = ", ".join(f"{index} : {port}" for index, port in enumerate(SEQUENCE))
        rules.append(f"{udp} masquerade to :numgen inc mod {len(SEQUENCE)} map {{ {ports} }}")
    return [*rules, 'oifname "wan" meta nfproto ipv4 masquerade']
