"""One agent in the server's tailnet: is it there, may it be dialled now, what is open to it."""

from __future__ import annotations

from ipaddress import IPv6Address
from uuid import UUID

import anyio

from coder_agent.base.addresses import TAILSCALE_PREFIX, overlay_address
from coder_agent.errors import TransportBroken
from coder_agent.node import TunnelStream

from .connection import Connection
from .standing import Standing

MAX_CONNECTIONS = 4096
"""Open connections to one agent; whoever wants more waits for one to close. More than a browser tab of every developer
of a large company needs, and less than ports and memory allow."""


class Member:
    """The state of one agent. `ready`: its node is known and it knows ours; until then dials wait.

    `away`: it is not there (it left, or it is lost and does not answer); its node's next coming ends that. `certain`:
    set unless it is lost and nobody knows yet whether it still answers. `stale`: rules may have changed meanwhile.
    """

    def __init__(self, agent_id: UUID, standing: Standing, now: float) -> None:
        self.agent_id = agent_id
        self.standing = standing
        self.address: IPv6Address = overlay_address(TAILSCALE_PREFIX, agent_id)
        self.used_at = now
        self.away = False
        self.ready = anyio.Event()
        self.certain = anyio.Event()
        self.certain.set()
        self.stale = False
        self.dials: set[anyio.CancelScope] = set()
        """Those that go on; cancelled when it leaves."""
        self.probing: anyio.CancelScope | None = None
        self._connections: set[Connection] = set()
        self._waiting = 0  # who waits for one to close
        self._pending = 0  # dials that are going on
        self._freed = anyio.Event()

    @property
    def label(self) -> str:
        """owner/workspace.agent, for people."""
        return self.standing.label

    @property
    def open(self) -> int:
        """Connections that are open or being made."""
        return len(self._connections) + self._pending

    @property
    def full(self) -> bool:
        """No more connections at once."""
        return self.open >= MAX_CONNECTIONS

    async def take_place(self) -> None:
        """Wait until there may be one more connection; `start` or `give_place` must follow."""
        while self.full:
            self._waiting += 1
            try:
                await self._freed.wait()
            finally:
                self._waiting -= 1
        self._pending += 1

    def give_place(self) -> None:
        """No connection came of it."""
        self._pending -= 1
        self._tell_waiting()

    def start(self, stream: TunnelStream) -> Connection:
        """The connection for which a place was taken."""
        self._pending -= 1
        connection = Connection(stream, self._ended)
        self._connections.add(connection)
        return connection

    def leave(self, reason: str) -> None:
        """It is not there any more, or is another incarnation: nothing that was open exists there."""
        self.away = True
        self.certain.set()
        if self.ready.is_set():
            self.ready = anyio.Event()
        self.break_all(reason)

    def break_all(self, reason: str) -> None:
        """End what is open or being dialled, with a reason for those who read or write."""
        for scope in self.dials:
            scope.cancel()
        for connection in list(self._connections):
            connection.break_off(f"workspace {self.label}: {reason}")

    def _ended(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._tell_waiting()

    def _tell_waiting(self) -> None:
        if self._waiting:
            self._freed.set()
            self._freed = anyio.Event()


def refused(member: Member, port: int, error: TransportBroken) -> TransportBroken:
    """A dial's failure, in words about workspace and port instead of overlay addresses."""
    reason = error.message.rpartition(": ")[2]
    return TransportBroken(f"workspace {member.label}: port {port}: {reason}")
