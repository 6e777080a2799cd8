"""NATs and firewalls as pure tables: what leaves as which address, and what may come in.

The two axes of RFC 4787 are independent: *mapping* says whether a new destination gets a new outside port, *filtering*
says who may answer. The usual home router is endpoint-independent mapping with address-and-port-dependent filtering.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from ..base.addresses import AddrPort

FIRST_PORT = 20000
"""Where outside ports are taken from, in order: a run is reproducible."""


class Mapping(Enum):
    """What an outside port is chosen for (RFC 4787 §4.1)."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"


class Filtering(Enum):
    """Who may send to a mapping (RFC 4787 §5)."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"


def _scope(axis: str, remote: AddrPort) -> object:
    """What of the remote end counts, on either axis."""
    if axis == "endpoint-independent":
        return None
    return remote.host if axis == "address-dependent" else remote


@dataclass(slots=True)
class _Binding:
    inside: AddrPort
    outside: AddrPort
    used_at: float
    remotes: dict[object, float] = field(default_factory=dict)


class Nat:
    """One NAT with one outside address. `lifetime` in seconds is refreshed by outbound packets only (RFC 4787 §4.3)."""

    def __init__(self, outside: str, mapping: Mapping, filtering: Filtering, *, lifetime: float = 120.0) -> None:
        self.outside = outside
        self.mapping = mapping
        self.filtering = filtering
        self.lifetime = lifetime
        self._by_inside: dict[object, _Binding] = {}
        self._by_port: dict[int, _Binding] = {}
        self._next_port = FIRST_PORT

    def outbound(self, source: AddrPort, target: AddrPort, now: float) -> AddrPort:
        """A packet leaves: its source as the outside sees it."""
        key = (source, _scope(self.mapping.value, target))
        binding = self._by_inside.get(key)
        if binding is None or now - binding.used_at > self.lifetime:
            binding = _Binding(source, AddrPort(self.outside, self._next_port), now)
            self._next_port += 1
            self._by_inside[key] = self._by_port[binding.outside.port] = binding
        binding.used_at = now
        binding.remotes[_scope(self.filtering.value, target)] = now
        return binding.outside

    def inbound(self, source: AddrPort, target: AddrPort, now: float) -> AddrPort | None:
        """A packet arrives at `target`, an address of ours: where it goes inside; None = dropped."""
        binding = self._by_port.get(target.port)
        if binding is None or now - binding.used_at > self.lifetime:
            return None
        sent_at = binding.remotes.get(_scope(self.filtering.value, source))
        return binding.inside if sent_at is not None and now - sent_at <= self.lifetime else None


def easy(outside: str) -> Nat:
    """The usual home router."""
    return Nat(outside, Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT)


def hard(outside: str) -> Nat:
    """A symmetric NAT, as in offices and mobile networks."""
    return Nat(outside, Mapping.ADDRESS_AND_PORT_DEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT)


def full_cone(outside: str) -> Nat:
    """A NAT that lets anybody in to a port that was once used."""
    return Nat(outside, Mapping.ENDPOINT_INDEPENDENT, Filtering.ENDPOINT_INDEPENDENT)
