"""Crypto-key routing: which peer an inner address belongs to, in both directions (WireGuard's allowed IPs)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from ipaddress import IPv6Network

_CACHE_LIMIT = 4096


class PeerTable:
    """Allowed prefixes of each peer. Exact addresses are one dictionary look-up; others are remembered (bounded)."""

    def __init__(self) -> None:
        self._allowed: dict[Hashable, tuple[IPv6Network, ...]] = {}
        self._exact: dict[bytes, Hashable] = {}
        self._prefixes: list[tuple[int, int, Hashable]] = []
        self._cache: dict[bytes, Hashable] = {}

    def set(self, peer: Hashable, allowed: Sequence[IPv6Network]) -> None:
        """Give `peer` exactly these prefixes; a prefix another peer had moves to it, as in WireGuard."""
        wanted = tuple(allowed)
        for other, networks in list(self._allowed.items()):
            if other != peer and any(network in wanted for network in networks):
                self._allowed[other] = tuple(network for network in networks if network not in wanted)
        self._allowed[peer] = wanted
        self._rebuild()

    def remove(self, peer: Hashable) -> None:
        """Forget a peer; unknown ones are no error."""
        self._allowed.pop(peer, None)
        self._rebuild()

    def find(self, address: bytes) -> Hashable | None:
        """The peer with the longest prefix that covers the 16-byte `address`."""
        peer = self._exact.get(address)
        if peer is not None or not self._prefixes:
            return peer
        if address in self._cache:
            return self._cache[address]
        number = int.from_bytes(address, "big")
        peer = next((peer for mask, base, peer in self._prefixes if number & mask == base), None)
        if len(self._cache) >= _CACHE_LIMIT:
            self._cache.clear()
        self._cache[address] = peer
        return peer

    def _rebuild(self) -> None:
        entries = [(network, peer) for peer, networks in self._allowed.items() for network in networks]
        entries.sort(key=lambda entry: -entry[0].prefixlen)
        self._exact = {n.network_address.packed: peer for n, peer in entries if n.prefixlen == 128}
        self._prefixes = [(int(n.netmask), int(n.network_address), peer) for n, peer in entries if n.prefixlen < 128]
        self._cache.clear()
