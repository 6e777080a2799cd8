"""What we say to peers: pings that look for paths and keep them warm, call-me-maybes, pongs.

Source: tailscale wgengine/magicsock/endpoint.go (sendDiscoPingsLocked, heartbeat, discoPingTimeout, cliPing) and
magicsock.go (enqueueCallMeMaybe).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from ..base.addresses import AddrPort
from ..base.keys import DiscoPrivate, NodePublic
from ..base.nat_facts import NatFacts
from ..base.paths import Path, UdpPath
from ..protocols import disco
from ..protocols.effects import SendRaw
from . import constants as c
from .candidates import NEVER, is_usable
from .effects import Effect, EndpointsWanted, PingLost
from .peer import FOREVER, NOTHING, Peer, Purpose, SentPing, wire_mtu_of
from .peer_map import PeerMap
from .prediction import next_mappings

Via = Literal["direct", "derp", "best"]
"""Which way a user's ping goes."""


class Prober:
    """Composes and seals what is sent. One per core."""

    def __init__(
        self, node_key: NodePublic, private: DiscoPrivate, peers: PeerMap, rng: Callable[[int], bytes]
    ) -> None:
        self._node_key = node_key
        self._public = private.public()
        self._peers = peers
        self._rng = rng
        self.facts = NatFacts()
        """What is known about our network."""
        self.accepted = 0
        """The largest inner packet that we take, in bytes; 0 = nobody is to know (mtu.py)."""
        self._endpoints: tuple[AddrPort, ...] = ()
        self._endpoints_at = NEVER
        self._refresh_asked_at = NEVER

    @property
    def endpoints(self) -> tuple[AddrPort, ...]:
        """Our own."""
        return self._endpoints

    # ------------------------------------------------------------ single messages

    def say(self, peer: Peer, path: Path, plaintext: bytes, *, whole: bool = False) -> list[Effect]:
        """Seal `plaintext` for `peer`, with the key it uses now, and send it by `path`, `whole` or not at all."""
        identity = self._peers.identity(peer.disco)
        if identity is None:
            return []
        sealed = disco.seal(self._public, identity.shared, self._rng(disco.NONCE_SIZE), plaintext)
        return [SendRaw(path, sealed, whole)]

    def ping(self, peer: Peer, path: Path, purpose: Purpose, now: float, size: int) -> tuple[bytes, list[Effect]]:
        """Send one ping of `size` bytes (never less than unpadded) and remember it until its pong or 5 s later."""
        txid = self._rng(disco.TXID_SIZE)
        padding = max(size - c.UNPADDED_PING_SIZE, 0)
        version = c.PADDED_VERSION if padding else 0
        if len(peer.sent) >= c.MAX_PINGS_IN_FLIGHT:
            del peer.sent[next(iter(peer.sent))]
        peer.sent[txid] = SentPing(path, now, purpose, c.UNPADDED_PING_SIZE + padding)
        if isinstance(path, UdpPath):
            peer.account.sent += 1
            candidate = peer.candidates.get(path)
            if candidate is not None:
                candidate.sent += 1
                if purpose is Purpose.DISCOVERY:
                    # Upstream notes heartbeats here too; then, after a cut, the search waits for their interval.
                    candidate.ping_at = now
        plaintext = disco.Ping(txid, self._node_key, version, padding).encode()
        return txid, self.say(peer, path, plaintext, whole=purpose is Purpose.MTU)

    def pong(self, peer: Peer, path: Path, ping: disco.Ping) -> list[Effect]:
        """Answer a ping. As large as a padded ping, so that it proves our direction too; never larger than the ping. It
        says which inner packets we take.

        Tailscale's pings (version 0, even when padded for MTU probing) get the unpadded pong that it sends itself.
        """
        src = path.addr if isinstance(path, UdpPath) else AddrPort(c.DERP_MAGIC_IP, path.region)
        pong = disco.Pong(ping.txid, src)
        size = c.UNPADDED_PING_SIZE + ping.padding
        if not self.accepted:
            size = min(size, c.PADDED_PING_SIZE)
        if ping.version >= c.PADDED_VERSION and size >= c.PADDED_PING_SIZE:
            unpadded = disco.OVERHEAD + len(pong.encode())
            pong = disco.Pong(ping.txid, src, c.PADDED_VERSION, size - unpadded, self.accepted)
        return self.say(peer, path, pong.encode(), whole=size > c.PADDED_PING_SIZE)

    # ------------------------------------------------------------ looking for paths

    def full_ping(self, peer: Peer, now: float, *, call: bool) -> list[Effect]:
        """Ping all candidates (each at most every 5 s); then, with `call`, ask the peer to do the same.

        Beyond the budget the rest follows in slices, those that once answered first.
        """
        if not peer.can_probe:
            return []
        peer.last_full_ping = now
        peer.candidates.drop_stale(now)
        effects: list[Effect] = []
        if peer.drop_lost_best():
            effects += peer.announce(now, "candidate-gone")
        pinged = False
        peer.search_at = FOREVER
        for candidate in sorted(peer.candidates, key=lambda one: (not one.pongs, one.ping_at)):
            if now - candidate.ping_at < c.MIN_PING_INTERVAL or not peer.rules.permits(candidate.addr):
                continue
            if not peer.probes.take(now):
                peer.search_at = peer.probes.next_at(now) + c.PROBE_SLICE
                break
            pinged = True
            effects += self.ping(peer, candidate.path, Purpose.DISCOVERY, now, candidate.probe_size)[1]
        # A peer without any candidate is called too (ours: upstream waits for the control plane to name some).
        lonely = not len(peer.candidates) and now - peer.called_at >= c.MIN_PING_INTERVAL
        if call and (pinged or lonely):
            effects += self.call_me_maybe(peer, now)
        peer.fast_until = NEVER
        return effects

    def ping_back(self, peer: Peer, path: UdpPath, now: float) -> list[Effect]:
        """A ping came in while we have packets for the peer but no direct path: the way is open just now, so try it.

        Ours: upstream waits for the next search. Through two home routers the caller's own pings are always lost (they
        leave before the peer's router is open), so its path would be up to 5 s late.
        """
        if peer.heartbeat_at is None or peer.is_trusted(now) or not peer.can_probe:
            return []
        if peer.candidates.get(path) is None or not peer.ping_backs.take(now):
            return []
        return self.ping(peer, path, Purpose.DISCOVERY, now, c.PADDED_PING_SIZE)[1]

    def prove(self, peer: Peer, path: UdpPath, now: float) -> list[Effect]:
        """A small ping was answered: does the path carry full-size packets, too?"""
        return self.ping(peer, path, Purpose.DISCOVERY, now, c.PADDED_PING_SIZE)[1]

    def probe_mtu(self, peer: Peer, now: float) -> list[Effect]:
        """Every few minutes: how large may packets on the direct path be? Only our direction is measured."""
        best = peer.best
        if best is None or not peer.is_trusted(now) or now - peer.mtu_probed_at < c.MTU_PROBE_INTERVAL:
            return []
        if self.accepted and peer.mtu.accepted:
            return []  # mtu.py does it, in both directions
        peer.mtu_probed_at = now
        overhead = wire_mtu_of(best.addr, 0)
        candidate = peer.candidates.get(best.path)
        if candidate is not None:
            candidate.wire_mtu = min(candidate.wire_mtu, c.PADDED_PING_SIZE + overhead)
        effects: list[Effect] = []
        for size in c.WIRE_MTU_PROBES:
            if c.PADDED_PING_SIZE + overhead < size <= (self.facts.mtu or c.USUAL_MTU):
                effects += self.ping(peer, best.path, Purpose.MTU, now, size - overhead)[1]
        return effects

    def expire_search(self, peer: Peer, now: float) -> list[Effect]:
        """The rest of a search that went over the budget."""
        return self.full_ping(peer, now, call=False) if now >= peer.search_at else []

    def repeat(self, peer: Peer, now: float) -> list[Effect]:
        """Some time after a call: ping again whoever has not answered. What a search has left over goes first."""
        if now < peer.repeat_at:
            return []
        began = peer.repeat_at - c.CALL_REPEATS[peer.repeats]
        peer.repeats += 1
        peer.repeat_at = began + c.CALL_REPEATS[peer.repeats] if peer.repeats < len(c.CALL_REPEATS) else FOREVER
        effects: list[Effect] = []
        if peer.is_trusted(now) or not peer.can_probe or peer.search_at != FOREVER:
            return effects
        for candidate in peer.candidates:
            waits = candidate.ping_at > max(candidate.small_at, candidate.full_at)
            if not waits or now - candidate.ping_at < c.CALL_REPEATS[0] / 2 or not peer.rules.permits(candidate.addr):
                continue
            if not peer.probes.take(now):
                break
            searched_at = candidate.ping_at
            effects += self.ping(peer, candidate.path, Purpose.DISCOVERY, now, candidate.probe_size)[1]
            candidate.ping_at = searched_at  # the next search is as far away as without this
        return effects

    def heartbeat(self, peer: Peer, now: float) -> list[Effect]:
        """Every 3 s while active: ping the best path, and look for others when it is time.

        Heartbeats are padded like all pings (Coder's rule): a route whose MTU has shrunk must lose our trust, not go on
        swallowing full-size packets.
        """
        peer.fast_until = NEVER
        if not peer.is_active(now) or not peer.can_probe:
            peer.heartbeat_at = None
            return []
        resting = peer.doubt.is_resting(now) and peer.best is not None
        peer.heartbeat_at = now + (c.RESTING_HEARTBEAT if resting else c.HEARTBEAT_INTERVAL)
        effects: list[Effect] = []
        if peer.best is not None:
            effects += self.ping(peer, peer.best.path, Purpose.HEARTBEAT, now, c.PADDED_PING_SIZE)[1]
        effects += self.probe_mtu(peer, now)
        if peer.wants_full_ping(now):
            effects += self.full_ping(peer, now, call=True)
        return effects + peer.announce(now, "no-pong")

    def expire_pings(self, peer: Peer, now: float, lost: Callable[[Peer, SentPing, float], None]) -> list[Effect]:
        """Forget pings older than 5 s; if the best path was pinged in vain and is not trusted any more, give it up.
        `lost` hears of those that were for the MTU's sake."""
        effects: list[Effect] = []
        while peer.sent:
            txid, ping = next(iter(peer.sent.items()))
            if now < ping.at + c.PING_TIMEOUT:
                break
            del peer.sent[txid]
            peer.note_ping(ping, answered=False)
            if ping.purpose is Purpose.MTU:
                lost(peer, ping, now)
                continue
            candidate = peer.candidates.get(ping.path) if isinstance(ping.path, UdpPath) else None
            if candidate is not None and ping.size >= c.PADDED_PING_SIZE:
                candidate.full_lost += 1
            if ping.purpose is Purpose.USER:
                effects.append(PingLost(peer.key, txid, ping.path))
            if peer.best is not None and ping.path == peer.best.path and now > peer.trusted_until:
                peer.clear_best()
                effects += peer.announce(now, "ping-timeout")
        return effects

    def user_ping(self, peer: Peer, now: float, via: Via, size: int) -> tuple[bytes | None, list[Effect]]:
        """A ping that somebody asked for. The session counts as active from now on, as if something had been sent."""
        effects = self.wake(peer, now)
        direct = peer.best if peer.allow_direct and via != "derp" else None
        if direct is not None and (via == "direct" or peer.is_trusted(now)):
            txid, more = self.ping(peer, direct.path, Purpose.USER, now, size or c.PADDED_PING_SIZE)
            return txid, effects + more
        relay = peer.relay_path()
        if via == "direct" or relay is None or not peer.disco:
            return None, effects
        txid, more = self.ping(peer, relay, Purpose.USER, now, size)
        return txid, effects + more

    def wake(self, peer: Peer, now: float) -> list[Effect]:
        """Something is being sent to `peer`: arm its heartbeat, and search if the direct path is not trusted."""
        peer.last_send = now
        if peer.relay_ping_at == FOREVER and peer.wants_relay(now):
            peer.relay_ping_at = now + c.HEARTBEAT_INTERVAL
        if not peer.can_probe:
            return []
        if peer.heartbeat_at is None:
            peer.heartbeat_at = now + c.HEARTBEAT_INTERVAL
            peer.searching_since = now
        if peer.is_trusted(now) or now < peer.next_search_at():
            return []
        return self.full_ping(peer, now, call=True)

    # ------------------------------------------------------------ call-me-maybe

    def call_me_maybe(self, peer: Peer, now: float) -> list[Effect]:
        """Ask `peer`, through its relay, to ping us; but not with a list of our own endpoints older than 27 s."""
        if peer.relay_path() is None:
            return []
        if now - self._endpoints_at <= c.ENDPOINTS_FRESH:
            return self._call_now(peer, now)
        if peer.call_due is None:
            peer.call_due = now + c.ENDPOINTS_WAIT
            peer.called_at = now
        if now - self._refresh_asked_at < c.ENDPOINTS_WAIT:
            return []
        self._refresh_asked_at = now
        return [EndpointsWanted("call-me-maybe")]

    def call_back(self, peer: Peer, now: float) -> list[Effect]:
        """Answer a call with one of ours, only if our NAT counts: nobody but us knows which ports it has just opened.

        Otherwise nobody calls back, or two nodes would call each other for ever; here the interval forbids it.
        """
        if not next_mappings(self.facts) or peer.is_trusted(now) or now - peer.called_at < c.MIN_PING_INTERVAL:
            return []
        return self.call_me_maybe(peer, now)

    def _call_now(self, peer: Peer, now: float) -> list[Effect]:
        peer.call_due = None
        relay = peer.relay_path()
        if relay is None or not peer.can_probe:
            return []
        peer.called_at = now
        peer.called(now)
        predicted = next_mappings(self.facts, crossing=self._node_key.raw > peer.key.raw)
        endpoints = dict.fromkeys(filter(peer.rules.permits, (*self._endpoints, *predicted)))
        return self.say(peer, relay, disco.CallMeMaybe(tuple(endpoints)[: c.MAX_LISTED_ENDPOINTS]).encode())

    def expire_call(self, peer: Peer, now: float) -> list[Effect]:
        """The fresh endpoints did not come in time: call with what we have. Even an empty list makes the peer ping."""
        if peer.call_due is None or now < peer.call_due:
            return []
        return self._call_now(peer, now)

    def set_endpoints(self, endpoints: Sequence[AddrPort], now: float) -> list[Effect]:
        """Our own endpoints, fresh. Send the calls that waited; tell active relayed peers if there is a new one."""
        usable = [addr for addr in dict.fromkeys(endpoints) if is_usable(addr)]
        news = not set(usable) <= set(self._endpoints)
        self._endpoints, self._endpoints_at = tuple(usable[: c.MAX_LISTED_ENDPOINTS]), now
        self._refresh_asked_at = NEVER
        effects: list[Effect] = []
        for peer in self._peers:
            if peer.call_due is not None:
                effects += self._call_now(peer, now)
            elif news and peer.heartbeat_at is not None and not peer.is_trusted(now):
                effects += self.full_ping(peer, now, call=False)
                effects += self._call_now(peer, now)
        return effects or NOTHING

    def invalidate_endpoints(self, now: float) -> None:
        """Our sockets moved: the list must be refreshed before it is sent again. The caller asks for that."""
        self._endpoints_at, self._refresh_asked_at = NEVER, now
