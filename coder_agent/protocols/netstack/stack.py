"""The userspace IPv6 stack: packets of all peers in, packets for all peers out. No I/O, no clock.

One turn of a driver: `receive` for every burst that has arrived, `woken` and the application's reads and writes, then
`transmit`; acknowledgements are only marked by `receive` and leave with `transmit`, one per connection and turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Hashable, Iterator, Sequence
from ipaddress import IPv6Address, IPv6Network

from ...base.burst import Burst
from ...base.flow import Flow
from ...base.optional_numpy import has_numpy
from ...errors import LocalProtocolError
from . import icmp, ip, segments
from .allocator import keep_freed_memory
from .arrival import arrive, reset_for
from .checksums import make_verifier
from .config import StackConfig
from .ledger import Ledger
from .listening import Backlog, SynRequest
from .merger import make_merger, payload_size
from .messages import Messenger
from .segmenter import Segmenters
from .segments import RST, SYN, Segment
from .states import OPENING, State
from .tcp import TcpConnection
from .timers import TimerQueue

_EPHEMERAL_FIRST = 49_152
"""RFC 6335 §6."""
_EPHEMERAL_COUNT = 65_536 - _EPHEMERAL_FIRST

_GATHERED = 64
"""Small packets of different connections that leave together: more do not fit a burst. Source: the kernel's limit for
UDP_SEGMENT."""

_SEND_BYTES = 1 << 16
"""What counts as one burst in the bounds of a turn: as much as one UDP send takes."""

_LATELY = 2.0
"""Seconds since a connection was heard within which an acknowledgement of ours may have been lost with a path."""


class Stack(Messenger):
    """IPv6 hosts of our own (usually one address) and everything they talk to.

    `rng` gives random bytes; `vector` chooses the numpy back end (None = if numpy is installed).
    Not guaranteed: thread safety.
    """

    def __init__(self, config: StackConfig, *, rng: Callable[[int], bytes], vector: bool | None = None) -> None:
        use_numpy = has_numpy() if vector is None else vector
        keep_freed_memory()
        super().__init__(config.mtu, rng, verify_checksums=config.verify_checksums)
        self.config = config
        self.on_syn: Callable[[SynRequest], None] | None = None
        """Called for each new incoming connection; it may decide at once or later. None = all are refused."""
        self._segmenters = Segmenters(config.mtu, vector=use_numpy)
        self._mtus: dict[Hashable, int] = {}
        self._merger = make_merger(vector=use_numpy)
        self._verify_run = make_verifier(vector=use_numpy)
        self._flows: dict[bytes, TcpConnection] = {}
        self._backlog = Backlog(config.syn_backlog, config.syn_timeout)
        self._timers = TimerQueue()
        self._ledger = Ledger()
        self._ready: deque[TcpConnection] = deque()
        self._woken: list[TcpConnection] = []

    # -- peers --------------------------------------------------------------------------------------------------------

    def set_peer(self, peer: Hashable, allowed: Sequence[IPv6Network]) -> None:
        """Packets from and to these prefixes belong to `peer`; idempotent. Connections follow their addresses."""
        self.peers.set(peer, allowed)
        self._reroute()

    def remove_peer(self, peer: Hashable, gone: str = "") -> None:
        """Forget a peer. Its connections wait for another peer with their address, and time out without one; or, if it
        is known to be `gone` for good, fail at once with that word."""
        if gone:
            for connection in [one for one in self._flows.values() if one.peer == peer]:
                connection.fail(gone)
        self.peers.remove(peer)
        self.outbox.forget(peer)
        self._ledger.forget(peer)
        self._mtus.pop(peer, None)
        self._reroute()

    def set_mtu(self, peer: Hashable, mtu: int, now: float) -> None:
        """Packets of up to `mtu` bytes get through to `peer` and are welcome there; never below `StackConfig.mtu`.

        At once, and for what is queued and lost, too: segments are cut when they are sent.
        """
        mtu = max(mtu, self.config.mtu)
        if mtu == self._mtu_of(peer):
            return
        self._mtus[peer] = mtu
        for connection in self._flows.values():
            if connection.peer == peer and connection.resize(mtu) and connection.sender.shrunk(now):
                self.ready(connection)

    def _mtu_of(self, peer: Hashable) -> int:
        return self._mtus.get(peer, self.config.mtu)

    def path_changed(self, peer: Hashable, now: float) -> None:
        """Packets to `peer` may get through again: retransmissions do not wait for a backed-off time-out."""
        for connection in self._flows.values():
            if connection.peer == peer and connection.sender.path_changed(now):
                self.ready(connection)

    def path_doubted(self, peer: Hashable, now: float) -> None:
        """Packets to `peer` may be getting lost, and go by a second path too from now on: send the oldest again, and
        acknowledge again what came lately, for the peer may be resending what it does not know to have arrived."""
        for connection in self._flows.values():
            if connection.peer != peer:
                continue
            if now - connection.heard_at < _LATELY and connection.state not in OPENING:
                connection.ack_due = True
                self.ready(connection)
            if connection.sender.path_doubted(now):
                self.ready(connection)

    def slept(self, now: float) -> None:
        """The clock jumped, for we were stopped or asleep: no time-out ran meanwhile."""
        for connection in self._flows.values():
            connection.slept(now)
            self.schedule(connection)

    def path_replaced(self, peer: Hashable) -> None:
        """Another path carries packets to `peer`: its capacity has to be found out anew."""
        for connection in self._flows.values():
            if connection.peer == peer:
                connection.sender.path_replaced()
                self.ready(connection)

    def flow(self, peer: Hashable) -> Flow:
        """How the conversation with `peer` goes. Looks at every connection: for some times a second, not for bursts."""
        return self._ledger.flow(peer, self._flows.values())

    def _reroute(self) -> None:
        for flow, connection in self._flows.items():
            before, connection.peer = connection.peer, self.peers.find(flow[:16])
            if connection.peer not in (None, before) and connection.state not in OPENING:
                connection.ack_due = True  # a program that was started again answers what it does not know by a reset
            connection.resize(self._mtu_of(connection.peer))
            self.ready(connection)

    # -- in -----------------------------------------------------------------------------------------------------------

    def receive(self, peer: Hashable, burst: Burst, now: float) -> None:
        """Inner packets from `peer`, possibly padded at the end. The burst is borrowed."""
        buffer, index = burst.buffer, 0
        flows, counters = self._flows, self.counters
        while index < burst.count:
            at = burst.base + index * burst.stride
            size = payload_size(burst, index)
            if size < 0 or buffer[at] >> 4 != 6:
                counters["malformed"] += 1
                index += 1
                continue
            if buffer[at + 6] != ip.TCP or size < segments.HEADER_SIZE:
                self._receive_other(peer, burst, index, size, now)
                index += 1
                continue
            flow = bytes(buffer[at + 8 : at + 44])  # addresses and ports, as no extension header comes between
            connection = flows.get(flow)
            parsed = segments.parse(buffer, at + ip.HEADER_SIZE, size)
            if parsed is None:
                counters["malformed"] += 1
                index += 1
                continue
            segment, head = parsed
            if connection is None or (connection.peer is not peer and connection.peer != peer):
                if self._verified(burst, index, 1):
                    segment.size = size - head
                    self._receive_stray(peer, flow, segment, now)
                index += 1
                continue
            taken = self._merger.take(burst, index, segment, head)
            if self._verified(burst, index, taken):
                self._arrive(connection, segment, now)
            elif taken > 1:
                self._arrive_singly(connection, burst, index, taken, now)
            index += taken

    def _arrive(self, connection: TcpConnection, segment: Segment, now: float) -> None:
        opens = connection.state is State.TIME_WAIT and segment.flags & (SYN | RST) == SYN
        if opens and (segment.seq - connection.receiver.next) & 0xFFFFFFFF < 1 << 31:
            connection.fail(None)  # the peer uses the port again (RFC 9293 §3.6.1)
            self._receive_stray(connection.peer, connection.flow, segment, now)
        else:
            arrive(connection, segment, now)

    def _receive_error(self, quote: icmp.Quote, now: float) -> None:
        """An ICMPv6 error about a TCP segment that is in flight; one about anything else could be forged."""
        connection = self._flows.get(quote.destination + quote.source + quote.ports[2:] + quote.ports[:2])
        if quote.protocol != ip.TCP or connection is None:
            return
        if quote.type == icmp.PACKET_TOO_BIG:
            board = connection.sender.board
            if (quote.sequence - board.una) & 0xFFFFFFFF < board.nxt - board.una:
                connection.reduce_mss(quote.info)
        elif connection.state is State.SYN_SENT and quote.sequence == connection.iss:
            connection.fail("unreachable")  # established connections ride out an error (RFC 5461)

    def _arrive_singly(self, connection: TcpConnection, burst: Burst, first: int, count: int, now: float) -> None:
        """A run with a wrong checksum in it: what is right still counts."""
        for index in range(first, first + count):
            if self._verified(burst, index, 1):
                single = Burst.of(burst.row(index))
                parsed = segments.parse(single.buffer, ip.HEADER_SIZE, payload_size(single, 0))
                if parsed is not None:
                    self._merger.take(single, 0, *parsed)
                    arrive(connection, parsed[0], now)

    def _verified(self, burst: Burst, index: int, count: int) -> bool:
        """True if checksums need not be, or are, right; wrong ones of single packets are counted."""
        if not self.config.verify_checksums or self._verify_run(burst, index, count):
            return True
        self.counters["bad-checksum"] += count == 1
        return False

    def _receive_stray(self, peer: Hashable, flow: bytes, segment: Segment, now: float) -> None:
        """A segment of no connection: a new one, a withdrawn one, or nonsense."""
        if not self._is_allowed(peer, flow[:16], flow[16:32]):
            return
        pending = self._backlog.get(flow)
        if segment.flags & RST:
            if pending is not None and segment.seq == (pending.syn.seq + 1) & 0xFFFFFFFF:
                self._backlog.cancel(flow, "reset")
            return
        if segment.flags & (SYN | segments.ACK) == SYN:
            if pending is not None:
                if pending.syn.seq == segment.seq:
                    return  # sent again while we decide
                self._backlog.cancel(flow, "reset")
            self._receive_syn(peer, flow, segment, now)
        elif pending is None:
            self.counters["no-connection"] += 1
            self.control(peer, reset_for(flow, segment))

    def _receive_syn(self, peer: Hashable, flow: bytes, segment: Segment, now: float) -> None:
        if self.on_syn is None:
            self.control(peer, reset_for(flow, segment))
        elif self._backlog.is_full or not self._has_room():
            self.counters["backlog-full"] += 1  # silently: the peer repeats its SYN
        else:
            request = SynRequest(self, flow, peer, segment, now)
            self._backlog.add(request)
            self.on_syn(request)

    # -- connections --------------------------------------------------------------------------------------------------

    def connect(self, remote: IPv6Address, port: int, now: float, *, local: IPv6Address | None = None) -> TcpConnection:
        """A new connection to `remote`; its SYN leaves with the next `transmit`.

        Raises LocalProtocolError if there is no address of ours, or too many connections.
        """
        if not self._has_room():
            raise LocalProtocolError("too many connections")
        source = local.packed if local is not None else self._default_source()
        prefix = remote.packed + source + port.to_bytes(2, "big")
        flow = prefix + self._free_port(prefix).to_bytes(2, "big")
        connection = self._make(flow, self.peers.find(remote.packed), now)
        connection.open()
        self.ready(connection)
        self.schedule(connection)
        return connection

    def accept_syn(self, request: SynRequest, now: float) -> TcpConnection:
        """See SynRequest.accept."""
        flow = request.flow
        if not self._backlog.take(request) or flow in self._flows:
            connection = TcpConnection(self, flow, request.peer, 0, self.config.mtu, now)
            connection.error = request.cancelled or "reset"
            self.woke(connection)
            return connection
        connection = self._make(flow, request.peer, now)
        connection.answer(request.syn, now)
        self.ready(connection)
        return connection

    def reject_syn(self, request: SynRequest) -> None:
        """See SynRequest.reject."""
        if self._backlog.take(request):
            self.control(request.peer, reset_for(request.flow, request.syn))

    def drop_syn(self, request: SynRequest) -> None:
        """See SynRequest.drop."""
        self._backlog.take(request)

    def woken(self) -> list[TcpConnection]:
        """Connections with news for the application since the last call: established, readable, writable again, end
        of data, closed."""
        woken, self._woken = self._woken, []
        for connection in woken:
            connection.woken = False
        return woken

    def connections(self) -> list[TcpConnection]:
        """All that are not closed."""
        return list(self._flows.values())

    # -- out ----------------------------------------------------------------------------------------------------------

    def has_output(self, blocked: Container[Hashable] = ()) -> bool:
        """True if `transmit` would have something, peers in `blocked` apart."""
        if not blocked:
            return bool(self._ready) or bool(self.outbox)
        return self.outbox.has_for_others(blocked) or any(c.peer not in blocked for c in self._ready)

    def transmit(
        self, now: float, budget: int = 16, blocked: Container[Hashable] = ()
    ) -> Iterator[tuple[Hashable, Burst]]:
        """What to send now, at most about `budget` bursts: (peer, burst). Each is valid until the iterator advances.

        Connections take turns, a burst each.
        """
        held: list[TcpConnection] = []
        seen: dict[TcpConnection, int] = {}
        ready = self._ready
        try:
            while ready and budget > 0:
                connection = ready.popleft()
                peer, sent = connection.peer, seen.get(connection, 0)
                seen[connection] = sent
                if peer in blocked or sent >= self.config.bursts_per_turn:
                    held.append(connection)
                    continue
                connection.queued = False
                out = connection.emit(now, self._segmenters.of(connection.packet_mtu))
                if out is None:
                    continue
                self.ready(connection)
                if peer is None:
                    self.counters["no-route"] += 1
                elif isinstance(out, bytes):
                    self.outbox.put(peer, out)
                elif out.count == 1 and len(ready) > 1 and self.outbox.waiting(peer) < _GATHERED:
                    self.outbox.put(peer, bytes(out.row(0)))  # small requests of many connections leave as one burst
                    seen[connection] = sent + 1
                else:
                    yield from self.outbox.drain(blocked)
                    sends = -(-out.size_bytes // _SEND_BYTES)
                    seen[connection] = sent + sends
                    budget -= sends
                    yield peer, out
            yield from self.outbox.drain(blocked)
        finally:
            ready.extend(held)
            for connection in seen:
                self.schedule(connection)

    # -- time ---------------------------------------------------------------------------------------------------------

    def deadline(self) -> float | None:
        """When `on_timer` should be called next; 5–10 ms later is early enough."""
        at = min(self._timers.deadline(), self._backlog.deadline())
        return None if at == float("inf") else at

    def on_timer(self, now: float) -> None:
        """Do what is due: retransmissions, probes, expiry."""
        self._backlog.expire(now)
        for connection in self._timers.due(now):
            connection.on_timer(now)
            self.schedule(connection)

    # -- what connections need (tcp.Owner) ----------------------------------------------------------------------------

    def ready(self, connection: TcpConnection) -> None:
        """Queue a connection for `transmit`."""
        if not connection.queued:
            connection.queued = True
            self._ready.append(connection)

    def woke(self, connection: TcpConnection) -> None:
        """Note news for the application."""
        if not connection.woken:
            connection.woken = True
            self._woken.append(connection)

    def schedule(self, connection: TcpConnection) -> None:
        """See TimerQueue.schedule."""
        self._timers.schedule(connection)

    def forget(self, connection: TcpConnection) -> None:
        """A connection closed."""
        if self._flows.get(connection.flow) is connection:
            del self._flows[connection.flow]
            self._ledger.close(connection)
        self._timers.cancel(connection)

    # -- details ------------------------------------------------------------------------------------------------------

    def _has_room(self) -> bool:
        """True if one more connection is allowed; one in TIME-WAIT makes room if need be."""
        if len(self._flows) + len(self._backlog) < self.config.max_connections:
            return True
        oldest = next((c for c in self._flows.values() if c.state is State.TIME_WAIT), None)
        if oldest is not None:
            oldest.fail(None)
        return oldest is not None

    def _make(self, flow: bytes, peer: Hashable, now: float) -> TcpConnection:
        iss = int.from_bytes(self._rng(4), "big")
        connection = TcpConnection(self, flow, peer, iss, self._mtu_of(peer), now)
        self._flows[flow] = connection
        return connection

    def _free_port(self, prefix: bytes) -> int:
        start = int.from_bytes(self._rng(2), "big")
        for step in range(_EPHEMERAL_COUNT):
            port = _EPHEMERAL_FIRST + (start + step) % _EPHEMERAL_COUNT
            flow = prefix + port.to_bytes(2, "big")
            if flow not in self._flows and self._backlog.get(flow) is None:
                return port
        raise LocalProtocolError("no free port")
