"""The coordinator in memory.

The rules in one place:
 * a new node goes to everybody with a tunnel from or to its owner; a new tunnel shows both ends to each other;
 * a tunnel to somebody who is not there yet is remembered and works as soon as they come;
 * a stream that just ends makes its peer LOST, `disconnect` makes it DISCONNECTED; its own tunnels are forgotten;
 * the same peer again (a reconnect that overtook the old stream's end) takes over its tunnels and is told everything;
 * whoever does not read their updates is removed (others: DISCONNECTED "failed update").

Source: coder/coder tailnet/coordinator.go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from uuid import UUID

from ..base.coordinate import PeerRequest, PeerResponse, PeerUpdate, UpdateKind
from ..base.node import Node
from ..errors import CoordinationError, Forbidden
from .interface import PeerState, Role
from .mailbox import CAPACITY, Mailbox
from .tunnels import Tunnels

READY_FOR_HANDSHAKE_ERROR = "ready for handshake error"
"""How the one error starts that does not end the stream: the tunnel may have gone while the agent was answering."""
MAX_TUNNELS = 4096
"""Tunnels that one peer may ask for: more than any user has agents, and little memory."""


class Session:
    """One peer's stream at an InMemoryCoordinator; see interface.CoordinatorSession."""

    def __init__(
        self, core: InMemoryCoordinator, peer: UUID, role: Role, name: str, wake: Callable[[], None], capacity: int
    ) -> None:
        self.peer = peer
        self.name = name
        self.node: Node | None = None
        self.overwrites = 0
        self.mailbox = Mailbox(capacity)
        self._core = core
        self._role = role
        self._wake = wake
        self._ended = False

    @property
    def ended(self) -> bool:
        """No more responses will come after those that wait."""
        return self._ended

    def request(self, request: PeerRequest) -> None:
        """Carry out one request."""
        if self._ended:
            return
        try:
            self._role.check(request)
            self._core.handle(self, request)
        except (Forbidden, CoordinationError) as exc:
            self.reject(exc.message)

    def reject(self, reason: str) -> None:
        """Tell the peer what is wrong and end its session; the others hear LOST."""
        if not self._ended:
            self._core.leave(self, UpdateKind.LOST, "lost", error=reason)

    def take(self) -> list[PeerResponse]:
        """The responses that wait."""
        return self.mailbox.take()

    def close(self, reason: str = "lost") -> None:
        """The stream is over."""
        if not self._ended:
            self._core.leave(self, UpdateKind.LOST, reason)

    def end(self, error: str = "") -> None:
        """Accept nothing more; `error` becomes the last response. For the coordinator only."""
        self._ended = True
        if error:
            self.mailbox.put_last(error)
        self._wake()

    def wake(self) -> None:
        """Something is waiting. For the coordinator only."""
        self._wake()


class InMemoryCoordinator:
    """All peers of one server process; see interface.Coordinator."""

    def __init__(self, *, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._sessions: dict[UUID, Session] = {}
        self._tunnels = Tunnels()
        self._overflowed: list[Session] = []
        self._closed = False

    # ------------------------------------------------------------ the server's side

    def connect(self, peer: UUID, role: Role, *, name: str, wake: Callable[[], None]) -> Session:
        """Begin a session. Raises CoordinationError when the coordinator is closed."""
        if self._closed:
            raise CoordinationError("the coordinator is closed")
        session = Session(self, peer, role, name, wake, self._capacity)
        old = self._sessions.get(peer)
        self._sessions[peer] = session
        if old is not None:
            session.overwrites = old.overwrites + 1
            old.end()
        for other in self._tunnels.peers(peer):
            if (node := self.node(other)) is not None:
                self._put(session, PeerUpdate(other, UpdateKind.NODE, node, "init"))
        self._drop_overflowed()
        return session

    def remove(self, peer: UUID, reason: str) -> None:
        """End a peer's session; the others hear DISCONNECTED."""
        session = self._sessions.get(peer)
        if session is not None:
            self.leave(session, UpdateKind.DISCONNECTED, reason)

    def node(self, peer: UUID) -> Node | None:
        """The node that a connected peer last published."""
        session = self._sessions.get(peer)
        return None if session is None else session.node

    def peers(self) -> Sequence[PeerState]:
        """Everybody who is connected."""
        return [
            PeerState(s.peer, s.name, s.node, s.overwrites, self._tunnels.destinations(s.peer))
            for s in self._sessions.values()
        ]

    def close(self) -> None:
        """End all sessions; everybody hears LOST about everybody they had a tunnel with."""
        self._closed = True
        sessions = list(self._sessions.values())
        for session in sessions:
            self._tell(self._tunnels.peers(session.peer), PeerUpdate(session.peer, UpdateKind.LOST, reason="closed"))
        self._overflowed.clear()
        self._sessions.clear()
        self._tunnels = Tunnels()
        for session in sessions:
            session.end()

    # ------------------------------------------------------------ the sessions' side

    def handle(self, session: Session, request: PeerRequest) -> None:
        """Carry out an allowed request, in the order in which stock coordinators look at its fields."""
        if request.update_self is not None:
            self._update(session, request.update_self)
        if request.add_tunnel is not None:
            self._add_tunnel(session, request.add_tunnel)
        if request.remove_tunnel is not None:
            self._remove_tunnel(session, request.remove_tunnel)
        if request.ready_for_handshake:
            self._ready(session, request.ready_for_handshake)
        self._drop_overflowed()
        if request.disconnect and not session.ended:
            self.leave(session, UpdateKind.DISCONNECTED, "graceful disconnect")

    def leave(self, session: Session, kind: UpdateKind, reason: str, *, error: str = "") -> None:
        """A session ends: tell the others, forget its tunnels."""
        if self._sessions.get(session.peer) is session:
            del self._sessions[session.peer]
            self._tell(self._tunnels.peers(session.peer), PeerUpdate(session.peer, kind, reason=reason))
            self._tunnels.remove_from(session.peer)
        session.end(error)
        self._drop_overflowed()

    # ------------------------------------------------------------ details

    def _update(self, session: Session, node: Node) -> None:
        session.node = node
        self._tell(self._tunnels.peers(session.peer), PeerUpdate(session.peer, UpdateKind.NODE, node, "node update"))

    def _add_tunnel(self, session: Session, destination: UUID) -> None:
        if self._tunnels.count_from(session.peer) >= MAX_TUNNELS:
            raise CoordinationError(f"more than {MAX_TUNNELS} tunnels")
        self._tunnels.add(session.peer, destination)
        if session.node is not None:
            self._tell((destination,), PeerUpdate(session.peer, UpdateKind.NODE, session.node, "add tunnel"))
        if (node := self.node(destination)) is not None:
            self._put(session, PeerUpdate(destination, UpdateKind.NODE, node, "add tunnel"))

    def _remove_tunnel(self, session: Session, destination: UUID) -> None:
        if not self._tunnels.remove(session.peer, destination) or self._tunnels.linked(session.peer, destination):
            return
        self._put(session, PeerUpdate(destination, UpdateKind.DISCONNECTED, reason="remove tunnel"))
        self._tell((destination,), PeerUpdate(session.peer, UpdateKind.DISCONNECTED, reason="remove tunnel"))

    def _ready(self, session: Session, peers: Iterable[UUID]) -> None:
        for peer in peers:
            if self._tunnels.linked(session.peer, peer):
                self._tell((peer,), PeerUpdate(session.peer, UpdateKind.READY_FOR_HANDSHAKE))
            elif session.mailbox.put_error(f"{READY_FOR_HANDSHAKE_ERROR}: you do not share a tunnel with {peer}"):
                session.wake()
            else:
                self._overflowed.append(session)

    def _tell(self, peers: Iterable[UUID], update: PeerUpdate) -> None:
        for peer in peers:
            if (session := self._sessions.get(peer)) is not None:
                self._put(session, update)

    def _put(self, session: Session, update: PeerUpdate) -> None:
        if session.mailbox.put(update):
            session.wake()
        else:
            self._overflowed.append(session)

    def _drop_overflowed(self) -> None:
        """Remove peers that do not read. Telling the others about one may reveal the next: a list, not a recursion."""
        while self._overflowed:
            session = self._overflowed.pop()
            if not session.ended and self._sessions.get(session.peer) is session:
                self.leave(session, UpdateKind.DISCONNECTED, "failed update", error="you do not read your updates")
