"""Through a NAT that gives each destination an unpredictable port: many doors, many knocks (the birthday paradox).

The *hard* end (its mapping varies) opens 256 sockets and sends one ping from each to the *easy* end's public address.
That makes 256 doors in its NAT, each of which lets the easy end in, on ports that nobody knows. The easy end (one
outside port for all destinations) then knocks at random ports of the hard end's public address until one opens: a
ping that gets in is answered from the same socket, by the same door. constants.py has the arithmetic.

Guessing ports is what a port scan looks like, so it is bounded on all sides: one attempt per peer and two per node at a
time, 1,280 small packets each at 64 a second, pauses of 1, 5 and 30 minutes, only towards the public IPv4 address that
the authenticated peer reported as its own, only while packets go to the peer by relay, and not at all if switched off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network
from math import gcd

from ..base.addresses import AddrPort
from ..base.paths import UdpPath
from ..protocols import disco
from ..protocols.effects import Dropped
from . import constants as c
from .effects import CloseSockets, Effect, OpenSockets
from .peer import FOREVER, Peer, Purpose
from .peer_map import PeerMap
from .prober import Prober
from .reports import Reporter

_PORTS = c.HIGHEST_PORT - c.LOWEST_PORT + 1
_NOT_PUBLIC = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
            "192.168.0.0/16", "224.0.0.0/3",
        ),
    )
)  # fmt: skip
"""Never guessed at: this network, private, carrier's, loopback, link-local, multicast and above (RFC 6890). Not
`ipaddress.is_global`, which excludes the documentation ranges that laboratories use for the Internet."""


def is_guessable(addr: AddrPort | None) -> bool:
    """Is this an address in the public IPv4 Internet?"""
    if addr is None or addr.is_ipv6 or not addr.port:
        return False
    ip = IPv4Address(addr.host)
    return not any(ip in network for network in _NOT_PUBLIC)


class Birthday:
    """Attempts at both ends. One per core. `enabled` False: none is begun, and none of a peer's is joined."""

    def __init__(self, peers: PeerMap, prober: Prober, reporter: Reporter, rng: Callable[[int], bytes]) -> None:
        self._peers = peers
        self._prober = prober
        self._reporter = reporter
        self._rng = rng
        self.enabled = True

    # ------------------------------------------------------------ the hard end

    def consider(self, peer: Peer, now: float) -> list[Effect]:
        """The search went on for another 3 s without success: is this a case for guessing, and the time for it?"""
        hunt, mine, remote = peer.hunt, self._prober.facts, peer.account.remote
        if hunt.is_on or now < hunt.not_before or remote is None or not self._may(peer, now):
            return []
        theirs = remote.facts
        if not mine.mapping_varies or mine.udp is False or theirs.mapping_varies is not False:
            return []
        if not is_guessable(mine.public_v4) or not self._is_target(peer, theirs.public_v4):
            return []
        if now < peer.searching_since + c.BIRTHDAY_PATIENCE or self._busy() >= c.BIRTHDAYS_AT_ONCE:
            return []
        self._begin(peer, now)
        hunt.is_guessing, hunt.target = False, theirs.public_v4
        # The peer guesses at the address that we reported: it must have the present one.
        effects = self._reporter.tell(peer, now)
        return effects + self._open_more(peer, now)

    def sockets_opened(self, peer: Peer, names: Sequence[int], now: float) -> list[Effect]:
        """The shell opened sockets: make a door with each, or close them if the attempt is over."""
        hunt = peer.hunt
        if not hunt.is_on or hunt.is_guessing or hunt.target is None:
            return [CloseSockets(tuple(names))] if names else []
        hunt.sockets += names
        effects: list[Effect] = []
        for name in names:
            path = UdpPath(hunt.target, name)
            effects += self._prober.ping(peer, path, Purpose.GUESS, now, c.UNPADDED_PING_SIZE)[1]
        if not hunt.sockets:  # the system has none to spare
            return effects + self._end(peer, won=False)
        first = hunt.done <= c.BIRTHDAY_OPENED_PER_TICK
        relay = peer.relay_path()
        if relay is not None and (first or hunt.done >= c.BIRTHDAY_SOCKETS):
            # Told with the first doors, and again with the last, in case that the first message was lost.
            effects += self._prober.say(peer, relay, disco.GuessMyPort(hunt.attempt, len(hunt.sockets)).encode())
        return effects

    def _open_more(self, peer: Peer, now: float) -> list[Effect]:
        hunt = peer.hunt
        count = min(c.BIRTHDAY_OPENED_PER_TICK, c.BIRTHDAY_SOCKETS - hunt.done)
        hunt.done += count
        hunt.due = now + c.BIRTHDAY_TICK if hunt.done < c.BIRTHDAY_SOCKETS else hunt.ends_at
        return [OpenSockets(peer.key, count)]

    # ------------------------------------------------------------ the easy end

    def asked(self, peer: Peer, message: disco.GuessMyPort, now: float) -> list[Effect]:
        """The peer has made doors: knock."""
        hunt, mine, remote = peer.hunt, self._prober.facts, peer.account.remote
        if hunt.is_on:
            if hunt.is_guessing and message.stop:
                return self._end(peer, won=peer.is_trusted(now))
            return []
        if message.stop or not message.sockets:
            return []
        target = remote.facts.public_v4 if remote is not None else None
        if not self.enabled:
            return [Dropped("birthday-off")]
        if target is None or not self._is_target(peer, target) or mine.mapping_varies:
            return [Dropped("birthday-refused")]
        if now < hunt.not_before or self._busy() >= c.BIRTHDAYS_AT_ONCE or not self._may(peer, now):
            return [Dropped("birthday-not-now")]
        self._begin(peer, now)
        # The asker waits as long between its attempts; a little less here, for messages that take their time.
        hunt.not_before -= c.BIRTHDAY_PATIENCE
        hunt.is_guessing, hunt.target = True, target
        # Each port once, in an order that nobody knows: a random start, and a random stride without a common divisor.
        hunt.start = self._random()
        hunt.stride = self._random() | 1
        while gcd(hunt.stride, _PORTS) != 1:
            hunt.stride += 2
        return self._guess(peer, now)

    def _guess(self, peer: Peer, now: float) -> list[Effect]:
        hunt = peer.hunt
        assert hunt.target is not None
        effects: list[Effect] = []
        for number in range(hunt.done, min(hunt.done + c.BIRTHDAY_GUESSES_PER_TICK, c.BIRTHDAY_GUESSES)):
            port = c.LOWEST_PORT + (hunt.start + number * hunt.stride) % _PORTS
            path = UdpPath(AddrPort(hunt.target.host, port))
            effects += self._prober.ping(peer, path, Purpose.GUESS, now, c.UNPADDED_PING_SIZE)[1]
        hunt.done += c.BIRTHDAY_GUESSES_PER_TICK
        hunt.due = now + c.BIRTHDAY_TICK if hunt.done < c.BIRTHDAY_GUESSES else hunt.ends_at
        return effects

    # ------------------------------------------------------------ both

    def on_timer(self, peer: Peer, now: float) -> list[Effect]:
        """The next guesses, the next sockets, or the end."""
        hunt = peer.hunt
        if not hunt.is_on or now < min(hunt.due, hunt.ends_at):
            return []
        if peer.is_trusted(now):
            return self._end(peer, won=True)
        if now >= hunt.ends_at or not self._may(peer, now):
            return self._end(peer, won=False)
        return self._guess(peer, now) if hunt.is_guessing else self._open_more(peer, now)

    def note_path(self, peer: Peer, now: float) -> list[Effect]:
        """A path answered full-size packets: an attempt ends, and sockets that carry nothing are closed."""
        if peer.hunt.is_on and peer.is_trusted(now):
            return self._end(peer, won=True)
        return []

    def note_door(self, peer: Peer) -> None:
        """A guess was right: no more of them. Whether the path carries full-size packets shows next."""
        if peer.hunt.is_on and peer.hunt.is_guessing:
            peer.hunt.done = c.BIRTHDAY_GUESSES
            peer.hunt.due = peer.hunt.ends_at

    def stop(self, peer: Peer) -> list[Effect]:
        """Rules changed, or the peer is gone: end what is on and close all sockets."""
        if peer.hunt.is_on:
            peer.hunt.ends_at = peer.hunt.due = FOREVER
        return self._close(peer, keep=())

    def rebound(self, peer: Peer) -> None:
        """Our sockets were reopened, which closed the extra ones; the network may be another: no pause counts."""
        hunt = peer.hunt
        hunt.sockets.clear()
        hunt.ends_at = hunt.due = FOREVER
        hunt.not_before, hunt.failures = float("-inf"), 0

    def sweep(self, peer: Peer) -> list[Effect]:
        """Close sockets that carry no path any more (every heartbeat)."""
        hunt = peer.hunt
        if hunt.is_on or not hunt.sockets:
            return []
        return self._close(peer, keep={one.path.local for one in peer.candidates})

    def _may(self, peer: Peer, now: float) -> bool:
        is_used = peer.heartbeat_at is not None or now - peer.last_received <= c.SESSION_ACTIVE_TIMEOUT
        return self.enabled and peer.can_probe and is_used and not peer.is_trusted(now)

    def _is_target(self, peer: Peer, addr: AddrPort | None) -> bool:
        """A public address, permitted, and not our own: nobody can make us knock at our own network."""
        if addr is None or not is_guessable(addr) or not peer.rules.permits(addr):
            return False
        public = self._prober.facts.public_v4
        ours = {public.host} if public is not None else set()
        if addr.host in ours | {one.host for one in self._prober.endpoints}:
            return False
        return self._peers.reach(addr, peer.key)

    def _busy(self) -> int:
        return sum(peer.hunt.is_on for peer in self._peers)

    def _begin(self, peer: Peer, now: float) -> None:
        hunt = peer.hunt
        hunt.attempt = (hunt.attempt + 1) & 0xFF
        hunt.done = 0
        hunt.ends_at = now + c.BIRTHDAY_DURATION
        pauses = c.BIRTHDAY_PAUSES
        hunt.not_before = now + pauses[min(hunt.failures, len(pauses) - 1)]

    def _end(self, peer: Peer, *, won: bool) -> list[Effect]:
        hunt = peer.hunt
        hunt.ends_at = hunt.due = FOREVER
        hunt.failures = 0 if won else hunt.failures + 1
        if hunt.is_guessing:
            return []
        # Two doors may have been found at once, and the peer may prefer the other one: who was reached stays for now.
        effects = self._close(peer, keep={one.path.local for one in peer.candidates})
        relay = peer.relay_path()
        if relay is not None:
            effects += self._prober.say(peer, relay, disco.GuessMyPort(hunt.attempt, 0, stop=True).encode())
        return effects

    def _close(self, peer: Peer, keep: Sequence[int] | set[int]) -> list[Effect]:
        hunt = peer.hunt
        closing = tuple(name for name in hunt.sockets if name not in keep)
        if not closing:
            return []
        hunt.sockets = [name for name in hunt.sockets if name in keep]
        peer.candidates.drop_locals(closing)
        peer.drop_lost_best()
        return [CloseSockets(closing)]

    def _random(self) -> int:
        return int.from_bytes(self._rng(4), "big") % _PORTS
