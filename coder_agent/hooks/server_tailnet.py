"""The seams of a coder server's own tailnet node: streams into workspaces, and the relay in the same process.

Imported for annotations and by the server and its plugins; `coder --help` never pays for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..base.paths import PathKind

if TYPE_CHECKING:
    import asyncio
    from uuid import UUID

    from anyio.abc import ByteStream

    from ..base.addresses import AddrPort

DIAL_TIMEOUT = 15.0
"""Seconds for everything between "an agent" and "a connection to its port": as a client's dial (node.py)."""


@dataclass(frozen=True, slots=True)
class TunnelPath:
    """What carries the server's packets to an agent. `addr`: its direct address; `region` and `region_name`: its home
    relay (0, "" = none known). Units: `latency` in seconds, `loss` a share of the last pings, None = not measured;
    `tunnel_mtu` in bytes. `reason`: why it is not direct, in one sentence; "" if it is, or nothing is known yet."""

    kind: PathKind
    addr: AddrPort | None = None
    region: int = 0
    region_name: str = ""
    latency: float | None = None
    tunnel_mtu: int = 1280
    reason: str = ""
    loss: float | None = None


class ServerTailnet(Protocol):
    """The node that all web traffic of a server shares (`ServerContext.tailnet`).

    It exists from the first `dial` on; an agent joins it with its first connection and leaves when it is idle.
    """

    async def dial(self, agent_id: UUID, port: int, *, timeout: float = DIAL_TIMEOUT) -> ByteStream:
        """Connect to a TCP port of a workspace: its loopback, or a service of the agent below 9.

        The stream has `send_eof`, must be closed by the caller, and waits in `send` while the workspace reads slowly.
        Beside a ByteStream's methods it has ``abort()`` (reset instead of an orderly end).

        Raises: PeerUnreachable (the agent is not connected, which is said at once, or nobody answers within `timeout`
        seconds), TransportBroken (nothing listens there, or the connection was reset); each with a sentence for people.
        """
        ...

    def path(self, agent_id: UUID) -> TunnelPath | None:
        """What carries packets to this agent now; None = it is not in the tailnet (nobody dials it)."""
        ...


class LocalRelay(Protocol):
    """A relay in the same process, which a node reaches without a socket (`TransportContext.local_relay`)."""

    @property
    def region(self) -> int:
        """The region of the relay map that it is."""
        ...

    def connect(self, protocol: asyncio.BufferedProtocol) -> asyncio.Transport:
        """A fresh connection: bare DERP from the first byte on. `protocol.connection_made` is called before this
        returns. Raises TransportBroken if the relay takes nobody."""
        ...
