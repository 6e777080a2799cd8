"""Who is who: peers by node key, by disco key and by the address that their packets come from.

Source: tailscale wgengine/magicsock/peermap.go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from ..base.addresses import AddrPort
from ..base.keys import DiscoPrivate, DiscoPublic, NodePublic
from ..protocols import disco
from . import constants as c
from .peer import Peer


@dataclass(slots=True)
class DiscoIdentity:
    """A disco key that some peer uses (several, for shared nodes), with the key material computed once."""

    shared: bytes
    peers: list[Peer] = field(default_factory=list)


Reach = Callable[[AddrPort, NodePublic], bool]
"""May an address that a peer (or somebody about it) named be talked to at all? Asked when the address is learnt."""


class PeerMap:
    """The indexes over all peers. Bounded by the peers that the coordinator names."""

    def __init__(self, private: DiscoPrivate, reach: Reach = lambda addr, peer: True) -> None:
        self._private = private
        self.reach = reach
        self._by_key: dict[NodePublic, Peer] = {}
        self._by_disco: dict[bytes, DiscoIdentity] = {}
        self._by_source: dict[AddrPort, Peer] = {}
        self.get = self._by_key.get
        """The peer with a node key, or None. (Bound once: this is on the data path.)"""
        self.source = self._by_source.get
        """The peer whose packets come from an address, or None."""

    def __iter__(self) -> Iterator[Peer]:
        return iter(self._by_key.values())

    def __len__(self) -> int:
        return len(self._by_key)

    def add(self, peer: Peer) -> None:
        """A new peer, with no disco key yet."""
        self._by_key[peer.key] = peer

    def remove(self, key: NodePublic) -> Peer | None:
        """Forget a peer and everything that points to it."""
        peer = self._by_key.pop(key, None)
        if peer is None:
            return None
        peer.removed = True
        for raw in {peer.disco_control, peer.disco_advertised} - {None}:
            self._release(peer, raw)
        for addr in peer.sources:
            del self._by_source[addr]
        peer.sources.clear()
        return peer

    def reachable(self, endpoints: Iterable[AddrPort], peer: NodePublic) -> list[AddrPort]:
        """Those of a peer's endpoints that may be talked to."""
        return [addr for addr in endpoints if self.reach(addr, peer)]

    # ------------------------------------------------------------ disco keys

    def identity(self, raw: bytes) -> DiscoIdentity | None:
        """Who uses this disco key?"""
        return self._by_disco.get(raw)

    def set_disco(self, peer: Peer, public: DiscoPublic, *, advertised: bool) -> bool:
        """A disco key of `peer` from the coordinator, or in-band (`advertised`). True if it is the one in use now and
        was not before.

        One of each origin is kept, because the two race after a restart; what the peer seals with decides
        (`prefer`). The coordinator repeating itself does not undo what was learnt in-band.
        """
        raw = public.raw
        old = peer.disco_advertised if advertised else peer.disco_control
        if old == raw and peer.disco:
            return False
        identity = self._by_disco.get(raw)
        if identity is None:
            shared = disco.precompute(self._private, public)
            if shared is None:
                return False
            identity = self._by_disco[raw] = DiscoIdentity(shared)
        if peer not in identity.peers:
            identity.peers.append(peer)
        if advertised:
            peer.disco_advertised = raw
        else:
            peer.disco_control = raw
        if old is not None and old not in (peer.disco_control, peer.disco_advertised):
            self._release(peer, old)
        changed = peer.disco != raw
        peer.disco = raw
        return changed

    def prefer(self, peer: Peer, raw: bytes) -> None:
        """`peer` sealed a message with this one of its keys: answer with it."""
        peer.disco = raw

    def _release(self, peer: Peer, raw: bytes | None) -> None:
        identity = self._by_disco.get(raw) if raw is not None else None
        if identity is None or raw is None:
            return
        identity.peers.remove(peer)
        if not identity.peers:
            del self._by_disco[raw]

    # ------------------------------------------------------------ sources

    def learn_source(self, addr: AddrPort, peer: Peer, *, proven: bool) -> None:
        """Packets from `addr` come from `peer`. `proven`: a WireGuard packet from there was decrypted; a ping is less,
        for it could be a replay from a forged address, and must not take an address that another peer lives at."""
        owner = self._by_source.get(addr)
        if owner is peer:
            return
        if owner is not None:
            if not proven and owner.best is not None and owner.best.addr == addr:
                return
            del owner.sources[addr]
        if len(peer.sources) >= c.MAX_SOURCES:
            oldest = next(one for one in peer.sources if peer.best is None or one != peer.best.addr)
            del peer.sources[oldest], self._by_source[oldest]
        peer.sources[addr] = None
        self._by_source[addr] = peer
