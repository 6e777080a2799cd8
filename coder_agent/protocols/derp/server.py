"""A DERP relay without I/O: who is connected, who may be, and what goes where.

The shell makes a `RelaySession` per connection, puts received bytes into its `room()` and calls `received`; everything
that leaves goes through the session's `Wire`, at once if the connection takes it. Packets are forwarded out of the
receive buffer: SendPacket and RecvPacket have the same size, so only type and key are overwritten.

Source: tailscale derp/derpserver/derpserver.go @de9ec7ee
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from ...base.addresses import AddrPort
from ...base.burst import Burst
from ...base.keys import NodePrivate, NodePublic
from . import frames
from .frames import GoneReason
from .login import ClientInfo, ServerInfo, same_mesh_key
from .outbox import Wire
from .registry import Registry
from .session import RelaySession
from .stream import Arena

KEEP_ALIVE_INTERVAL = 60.0
"""Seconds between keepalives; clients give up after 120 without any frame (derp.go, KeepAlive)."""
KEEP_ALIVE_JITTER = 5.0
"""Seconds, drawn once per connection, so that thousands that came back together do not stay in step."""
LOGIN_TIMEOUT = 10.0
"""Seconds from the connection to a complete ClientInfo (derpserver.go, accept)."""

Admission = Callable[[NodePublic, ClientInfo, AddrPort | None], bool | None]
"""Decides whether a client that proved its key may use the relay; None = somebody else must be asked first, see
`RelayCore.on_undecided`. Mesh peers are not asked about."""
Undecided = Callable[[RelaySession, NodePublic, ClientInfo], None]
"""Asks somebody else; `RelaySession.decide` takes the answer. The login time-out still runs."""


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """What an operator may set. Units: bytes per second, bytes; 0 = no limit.

    `announce_rate` asks clients to limit themselves; `client_rate` is enforced by not reading from them.
    """

    max_clients: int = 10_000
    client_rate: int = 0
    client_burst: int = 0
    announce_rate: int = 0
    announce_burst: int = 0
    mesh_key: bytes | None = None


class Forwarder(Protocol):
    """A link to another relay of the region, on which packets for its clients leave (mesh.py)."""

    def forward(self, source: bytes, destination: bytes, burst: Burst) -> None:
        """Packets of our client `source` for its client `destination`. `burst` is borrowed."""
        ...


class RelayCore:
    """All connections of one relay, and what the region's other relays say about theirs."""

    def __init__(
        self,
        key: NodePrivate,
        *,
        rng: Callable[[int], bytes],
        settings: RelaySettings | None = None,
        admit: Admission | None = None,
    ) -> None:
        self.key = key
        self.public = key.public()
        self.rng = rng
        self.settings = settings or RelaySettings()
        self.admit = admit
        self.registry: Registry[RelaySession] = Registry()
        self.sessions: set[RelaySession] = set()
        self.mesh_watchers: set[RelaySession] = set()
        self.on_undecided: Undecided = lambda session, key, info: session.close()
        self.forwarders: dict[bytes, list[Forwarder]] = {}
        """Clients of other relays: the links by which they can be reached, the oldest first."""
        self.drops: Counter[str] = Counter()
        self.counters: Counter[str] = Counter()

    def connect(
        self, wire: Wire, remote: AddrPort | None, now: float, arena: Arena | None = None
    ) -> RelaySession | None:
        """A connection whose HTTP part is over. None: the relay is full, close it."""
        if len(self.sessions) >= self.settings.max_clients:
            self.counters["refused_full"] += 1
            return None
        self.counters["accepts"] += 1
        session = RelaySession(self, wire, remote, now + LOGIN_TIMEOUT, arena)
        self.sessions.add(session)
        session.outbox.control(frames.server_key(self.public.raw))
        return session

    def may_enter(self, key: NodePublic, info: ClientInfo, remote: AddrPort | None) -> bool | None:
        """Is this client welcome? A mesh peer always is. None = it will be said later."""
        return self.admit is None or self.is_mesh_peer(info) or self.admit(key, info, remote)

    def undecided(self, session: RelaySession, key: NodePublic, info: ClientInfo) -> None:
        """`may_enter` did not know."""
        self.on_undecided(session, key, info)

    def is_mesh_peer(self, info: ClientInfo) -> bool:
        """Did the client show the region's mesh key?"""
        return same_mesh_key(self.settings.mesh_key, info.mesh_key)

    def rate_limit(self) -> tuple[int, int]:
        """What every client may send: bytes per second and at once; 0 = as it likes."""
        return self.settings.client_rate, self.settings.client_burst

    def server_info(self) -> ServerInfo:
        """What every client is told."""
        return ServerInfo(bucket_rate=self.settings.announce_rate, bucket_burst=self.settings.announce_burst)

    def entered(self, session: RelaySession, key: bytes, now: float) -> None:
        """`session` proved that it is `key`."""
        self.registry.add(key, session)
        session.deadline = now + KEEP_ALIVE_INTERVAL + self.rng(1)[0] / 255 * KEEP_ALIVE_JITTER
        present = frames.peer_present(key, session.remote, session.present_flags)
        for watcher in self.mesh_watchers:
            watcher.outbox.control(present)

    def left(self, session: RelaySession) -> None:
        """`session` is over, for whatever reason. Idempotent."""
        if session not in self.sessions:
            return
        self.sessions.discard(session)
        self.mesh_watchers.discard(session)
        session.outbox.close()
        if session.key is None:
            return
        for source in session.heard:
            self.registry.unwatch(source, session)
        interested = self.registry.remove(session.key, session)
        if interested is None:
            return
        gone = frames.peer_gone(session.key, GoneReason.DISCONNECTED)
        for watcher in interested:
            watcher.heard.discard(session.key)
            watcher.outbox.control(gone)
        for watcher in self.mesh_watchers - interested:
            watcher.outbox.control(gone)

    def forward(self, source: bytes, destination: bytes, burst: Burst) -> bool:
        """Hand packets to the relay where `destination` is connected. False: no relay of the region knows it."""
        links = self.forwarders.get(destination)
        if not links:
            return False
        self.counters["frames_forwarded"] += burst.count
        links[0].forward(source, destination, burst)
        return True

    def add_forwarder(self, key: bytes, link: Forwarder) -> None:
        """Another relay says that `key` is connected there. It repeats that for each connection of `key`."""
        links = self.forwarders.setdefault(key, [])
        if link not in links:
            links.append(link)

    def remove_forwarder(self, key: bytes, link: Forwarder) -> None:
        """The last connection of `key` there is gone, or the link to that relay broke."""
        links = self.forwarders.get(key, [])
        if link in links:
            links.remove(link)
        if not links:
            self.forwarders.pop(key, None)

    def watch_all(self, session: RelaySession) -> None:
        """A mesh peer wants to know who is here, now and from now on."""
        self.mesh_watchers.add(session)
        if session.key == self.public.raw:
            return  # we dialled ourselves: nothing to learn
        for key in list(self.registry):
            for client in self.registry.all(key):
                if client is not session:
                    session.outbox.control(frames.peer_present(key, client.remote, client.present_flags))

    def close_peer(self, key: bytes) -> None:
        """Close every connection of `key`, as a mesh peer asked."""
        for session in self.registry.all(key):
            session.close()

    def on_timer(self, now: float) -> None:
        """Once a second or so: keepalives, and logins that never came."""
        for session in [s for s in self.sessions if now >= s.deadline]:
            if session.key is None:
                self.counters["login_timeout"] += 1
                session.close()
            else:
                session.deadline = now + KEEP_ALIVE_INTERVAL
                session.keep_alive()

    def announce_restart(self, reconnect_in: float, try_for: float) -> None:
        """Tell every client that the relay goes: to come back in `reconnect_in` seconds, drawn anew for each up to
        twice that so that they do not all come at once, and to keep trying for `try_for` seconds."""
        for session in self.sessions:
            if session.key is not None:
                spread = reconnect_in * (1 + self.rng(1)[0] / 255)
                session.outbox.control(frames.restarting(round(spread * 1e3), round(try_for * 1e3)))

    def close(self) -> None:
        """Close every connection. Nobody is told that somebody else went: they all reconnect."""
        for session in self.sessions:
            session.outbox.close()
        for session in list(self.sessions):
            session.close()

    def metrics(self) -> Mapping[str, int]:
        """Gauges (clients, connections, duplicates, homes) and counters; drops by reason as ``drop_<reason>``."""
        gauges = {
            "clients": len(self.registry),
            "connections": len(self.sessions),
            "duplicate_keys": self.registry.duplicates,
            "home_clients": sum(1 for session in self.sessions if session.home),
            "mesh_clients": len(self.forwarders),
            "mesh_watchers": len(self.mesh_watchers),
        }
        return gauges | dict(self.counters) | {f"drop_{reason}": count for reason, count in self.drops.items() if count}
