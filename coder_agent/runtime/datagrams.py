"""UDP inside the tunnel: who gets which datagram, and datagram streams as anyio has them.

`UdpFlow` is the fast form, callbacks and no tasks; `TunnelDatagrams` and `TunnelUdpSocket` are the comfortable ones.
Datagrams that find no room are dropped and counted, as on any network; nothing ever waits for them.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable
from ipaddress import IPv6Address
from typing import Any, NamedTuple

import anyio
import anyio.abc
import anyio.lowlevel

from ..errors import LocalProtocolError, TransportBroken
from ..protocols.netstack.messages import MAX_DATAGRAM
from ..protocols.netstack.stack import Stack
from .streams import TunnelAttribute

QUEUED_BYTES = 1 << 20
"""Bytes of received datagrams that wait for one reader: 160 ms at 50 Mbit/s."""
_EPHEMERAL_FIRST, _EPHEMERAL_COUNT = 49_152, 16_384
"""RFC 6335 §6."""


class Origin(NamedTuple):
    """Where a datagram came from, and which address and port of ours it was for."""

    address: IPv6Address
    port: int
    local: IPv6Address
    local_port: int


FlowHandler = Callable[[memoryview], None]
"""The data of one datagram (borrowed: copy what is kept)."""
PortHandler = Callable[[Origin, memoryview], bool]
"""A datagram to a port of ours (borrowed). False: nobody listens, the sender is told."""


class UdpFlow:
    """One local port talking to one remote one. Made by `UdpPorts.open`; close it."""

    __slots__ = ("origin", "on_datagram", "on_refused", "_ports")

    def __init__(
        self, ports: UdpPorts, origin: Origin, on_datagram: FlowHandler, on_refused: Callable[[], None] | None
    ) -> None:
        self._ports = ports
        self.origin = origin
        self.on_datagram = on_datagram
        self.on_refused = on_refused

    def send(self, data: bytes) -> bool:
        """Send a datagram. False if it was dropped: too large, no way to that address, or too much waits already."""
        return self._ports.send(self.origin, data)

    def close(self) -> None:
        """Give the port back."""
        self._ports.close(self)


class UdpPorts:
    """The UDP half of a node: flows that we opened, ports that we listen on, and everything else."""

    def __init__(self, stack: Stack, kick: Callable[[], None], now: Callable[[], float]) -> None:
        self.unclaimed: PortHandler | None = None
        """Gets what is for no flow and no port that is listened on."""
        self._stack = stack
        self._kick = kick
        self._now = now
        self._flows: dict[tuple[IPv6Address, int, int], UdpFlow] = {}
        self._listeners: dict[int, PortHandler] = {}
        stack.on_udp = self._receive
        stack.on_udp_error = self._refused

    def open(
        self,
        local: IPv6Address,
        address: IPv6Address,
        port: int,
        on_datagram: FlowHandler,
        on_refused: Callable[[], None] | None = None,
    ) -> UdpFlow:
        """A flow to `address`:`port` from a free port. Raises LocalProtocolError if there is none."""
        start = secrets.randbelow(_EPHEMERAL_COUNT)
        for step in range(_EPHEMERAL_COUNT):
            own = _EPHEMERAL_FIRST + (start + step) % _EPHEMERAL_COUNT
            if (address, port, own) not in self._flows and own not in self._listeners:
                flow = UdpFlow(self, Origin(address, port, local, own), on_datagram, on_refused)
                self._flows[address, port, own] = flow
                return flow
        raise LocalProtocolError("no free UDP port")

    def listen(self, port: int, handler: PortHandler) -> None:
        """Have datagrams to `port` handled. Raises LocalProtocolError if the port is taken."""
        if port in self._listeners:
            raise LocalProtocolError(f"UDP port {port} is listened on already")
        self._listeners[port] = handler

    def unlisten(self, port: int) -> None:
        """Nobody handles `port` any more."""
        self._listeners.pop(port, None)

    def send(self, to: Origin, data: bytes) -> bool:
        """Send to where `to` came from; see `UdpFlow.send`."""
        sent = self._stack.send_udp(to.local, to.local_port, to.address, to.port, data, self._now())
        self._kick()
        return sent

    def close(self, flow: UdpFlow) -> None:
        """See `UdpFlow.close`."""
        origin = flow.origin
        self._flows.pop((origin.address, origin.port, origin.local_port), None)

    def _receive(self, source: IPv6Address, port: int, local: IPv6Address, local_port: int, data: memoryview) -> bool:
        flow = self._flows.get((source, port, local_port))
        if flow is not None:
            flow.on_datagram(data)
            return True
        handler = self._listeners.get(local_port, self.unclaimed)
        return handler is not None and handler(Origin(source, port, local, local_port), data)

    def _refused(self, address: IPv6Address, port: int, local_port: int) -> None:
        flow = self._flows.get((address, port, local_port))
        if flow is not None and flow.on_refused is not None:
            flow.on_refused()


class _Inbox:
    """Received datagrams that wait for a reader; bounded."""

    def __init__(self) -> None:
        self.dropped = 0
        self._items: deque[tuple[Origin | None, bytes]] = deque()
        self._size = 0
        self._changed = anyio.Event()
        self._closed = False
        self._refused = False

    def put(self, origin: Origin | None, data: memoryview) -> None:
        if self._size + len(data) > QUEUED_BYTES:
            self.dropped += 1
            return
        self._items.append((origin, bytes(data)))
        self._size += len(data) + 64  # empty datagrams cost memory, too
        self._changed.set()

    def close(self) -> None:
        self._closed = True
        self._changed.set()

    def check(self) -> None:
        if self._closed:
            raise anyio.ClosedResourceError

    def refuse(self) -> None:
        """The next reader that finds nothing is told that nobody listens at the other end."""
        self._refused = True
        self._changed.set()

    async def get(self) -> tuple[Origin | None, bytes]:
        await anyio.lowlevel.checkpoint_if_cancelled()
        while not self._items:
            self.check()
            if self._refused:
                self._refused = False
                raise anyio.BrokenResourceError from TransportBroken("nobody listens on that UDP port")
            if self._changed.is_set():
                self._changed = anyio.Event()
            await self._changed.wait()
        self.check()
        item = self._items.popleft()
        self._size -= len(item[1]) + 64
        return item


class TunnelDatagrams(anyio.abc.UnreliableObjectStream[bytes]):
    """Datagrams to and from one UDP port of a peer.

    `receive` raises `anyio.BrokenResourceError` if the peer says that nobody listens there (once for each time), and
    `anyio.ClosedResourceError` after `aclose`. `send` raises ValueError for more than 65 527 bytes. What finds no
    room is counted in `dropped`.
    """

    def __init__(self, open_flow: Callable[[FlowHandler, Callable[[], None]], UdpFlow]) -> None:
        self._inbox = _Inbox()
        self._sends_dropped = 0
        self.flow = open_flow(lambda data: self._inbox.put(None, data), self._inbox.refuse)

    @property
    def dropped(self) -> int:
        """Datagrams dropped for want of room, in either direction."""
        return self._inbox.dropped + self._sends_dropped

    @property
    def extra_attributes(self) -> Any:
        origin = self.flow.origin
        return {
            TunnelAttribute.remote_address: lambda: (str(origin.address), origin.port),
            TunnelAttribute.local_address: lambda: (str(origin.local), origin.local_port),
        }

    async def receive(self) -> bytes:
        return (await self._inbox.get())[1]

    async def send(self, item: bytes) -> None:
        self._inbox.check()
        if len(item) > MAX_DATAGRAM:
            raise ValueError(f"a UDP datagram holds {MAX_DATAGRAM} bytes at most, not {len(item)}")
        await anyio.lowlevel.checkpoint()  # what waits leaves at the end of the loop's turn
        self._sends_dropped += not self.flow.send(item)

    async def aclose(self) -> None:
        self.flow.close()
        self._inbox.close()


class TunnelUdpSocket(anyio.abc.UnreliableObjectStream[tuple[bytes, Origin]]):
    """A UDP port of ours: each datagram comes with its origin, and is answered by sending to that."""

    def __init__(self, ports: UdpPorts, port: int) -> None:
        self._ports = ports
        self._inbox = _Inbox()
        self.port = port
        ports.listen(port, self._put)

    @property
    def dropped(self) -> int:
        """Received datagrams that were dropped because nobody read them."""
        return self._inbox.dropped

    def _put(self, origin: Origin, data: memoryview) -> bool:
        self._inbox.put(origin, data)
        return True

    async def receive(self) -> tuple[bytes, Origin]:
        origin, data = await self._inbox.get()
        assert origin is not None
        return data, origin

    async def send(self, item: tuple[bytes, Origin]) -> None:
        self._inbox.check()
        data, origin = item
        if len(data) > MAX_DATAGRAM:
            raise ValueError(f"a UDP datagram holds {MAX_DATAGRAM} bytes at most, not {len(data)}")
        await anyio.lowlevel.checkpoint()
        self._ports.send(origin, data)

    async def aclose(self) -> None:
        self._ports.unlisten(self.port)
        self._inbox.close()
