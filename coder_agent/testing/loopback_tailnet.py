"""A `ServerTailnet` for tests of server plugins: every agent's ports are this machine's own.

tailnet = LoopbackTailnet()
tailnet.gone[agent_id] = "workspace dev: its agent is not connected"
stream = await tailnet.dial(agent_id, 8080)
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, field
from uuid import UUID

import anyio
import anyio.abc

from ..base.paths import PathKind
from ..errors import PeerUnreachable, TransportBroken
from ..hooks.server_tailnet import DIAL_TIMEOUT, TunnelPath


class LoopbackStream(anyio.abc.ByteStream):
    """A socket with what a tunnel's stream has besides: `abort`."""

    def __init__(self, stream: anyio.abc.SocketStream) -> None:
        self._stream = stream

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await self._stream.receive(max_bytes)

    async def send(self, item: bytes) -> None:
        await self._stream.send(item)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()

    def abort(self) -> None:
        """Reset the connection (SO_LINGER of zero seconds)."""
        raw = self._stream.extra(anyio.abc.SocketAttribute.raw_socket)
        try:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raw.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # closed already


@dataclass(slots=True)
class LoopbackTailnet:
    """`gone`: agents that are not connected, and why; `dialled`: what was asked for; `paths`: what `path` answers."""

    gone: dict[UUID, str] = field(default_factory=dict)
    dialled: list[tuple[UUID, int]] = field(default_factory=list)
    paths: dict[UUID, TunnelPath] = field(default_factory=dict)

    async def dial(self, agent_id: UUID, port: int, *, timeout: float = DIAL_TIMEOUT) -> LoopbackStream:
        """Connect to `port` of 127.0.0.1."""
        self.dialled.append((agent_id, port))
        if (reason := self.gone.get(agent_id)) is not None:
            raise PeerUnreachable(reason)
        try:
            with anyio.fail_after(timeout):
                return LoopbackStream(await anyio.connect_tcp("127.0.0.1", port))
        except TimeoutError:
            raise PeerUnreachable(f"no answer from port {port} within {timeout:g} s") from None
        except OSError as exc:
            raise TransportBroken(f"port {port}: connection refused") from exc

    def path(self, agent_id: UUID) -> TunnelPath | None:
        """What `paths` says; direct, once the agent was dialled."""
        dialled = any(agent == agent_id for agent, _ in self.dialled)
        return self.paths.get(agent_id, TunnelPath(PathKind.DIRECT) if dialled else None)
