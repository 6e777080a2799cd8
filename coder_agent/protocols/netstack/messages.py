"""Everything a stack does that is not TCP: ICMPv6 echo and errors, TSMP, UDP (in fragments, where it must be)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from ipaddress import IPv6Address

from ...base.burst import Burst
from ...errors import LocalProtocolError
from . import icmp, ip, tsmp, udp
from .fragments import FRAGMENT, Reassembler, fragments
from .outbox import LIMIT, Outbox
from .routing import PeerTable

UdpHandler = Callable[[IPv6Address, int, IPv6Address, int, memoryview], bool]
"""Source, source port, destination, destination port, payload (borrowed). False: nobody listens there."""
UdpErrorHandler = Callable[[IPv6Address, int, int], None]
"""Remote address, remote port, our port: nobody listens there."""
PongHandler = Callable[[IPv6Address, int, int, bytes], None]
"""Source, identifier, sequence, data."""
TsmpPongHandler = Callable[[IPv6Address, bytes, int], None]
"""Source, the 8 bytes of the ping, the peer's PeerAPI port (0 = none)."""
DiscoKeyHandler = Callable[[Hashable, bytes], None]
"""Peer, its 32-byte disco key."""

MAX_DATAGRAM = 65_527
"""Bytes of data that a UDP datagram can hold: its length field counts its own header, too (RFC 768)."""
_UDP_SHARE = LIMIT * 3 // 4
"""Packets of the outbox that datagrams may fill: acknowledgements and pings keep the rest."""
_ERRORS_PER_SECOND = 50
"""RFC 4443 §2.4 (f) wants a limit, and suggests 10 a second on average for small devices."""


class Messenger:
    """The connectionless half of a Stack, and what both halves stand on: addresses, routes, outbox, counters."""

    def __init__(self, mtu: int, rng: Callable[[int], bytes], *, verify_checksums: bool = False) -> None:
        self.counters: Counter[str] = Counter()
        """What was dropped or refused, by reason."""
        self.peers = PeerTable()
        self.outbox = Outbox()
        self.on_udp: UdpHandler | None = None
        """Called for each datagram to an address of ours. None = "port unreachable"."""
        self.on_udp_error: UdpErrorHandler | None = None
        """Called when a peer says that a datagram of ours found no listener."""
        self.on_pong: PongHandler | None = None
        self.on_tsmp_pong: TsmpPongHandler | None = None
        self.on_disco_key: DiscoKeyHandler | None = None
        self._mtu = mtu
        self._rng = rng
        self._verify = verify_checksums
        self._local: dict[bytes, IPv6Address] = {}
        self._errors = 0
        self._errors_at = 0.0
        self._reassembler = Reassembler()
        self._fragmented = -1

    def add_address(self, address: IPv6Address) -> None:
        """An address of our own; the first one is the default source."""
        self._local[address.packed] = address

    def control(self, peer: Hashable, packet: bytes) -> None:
        """Queue a packet that belongs to no stream. A connection may have outlived its peer: then it is for nobody."""
        if peer is None:
            self.counters["no-route"] += 1
        else:
            self.outbox.put(peer, packet)

    # -- sending ------------------------------------------------------------------------------------------------------

    def send_udp(
        self, local: IPv6Address, local_port: int, remote: IPv6Address, remote_port: int, data: bytes, now: float
    ) -> bool:
        """Send a datagram of up to MAX_DATAGRAM bytes, in fragments if one packet cannot hold it.

        False if it is too large, nobody has that address, or too much waits for that peer already (then counted).
        """
        if len(data) > MAX_DATAGRAM:
            return False
        peer = self.peers.find(remote.packed)
        if peer is None:
            self.counters["no-route"] += 1
            return False
        packet = udp.build(local.packed, local_port, remote.packed, remote_port, data)
        mtu = self._mtu_of(peer)
        packets = [packet] if len(packet) <= mtu else fragments(packet, mtu, self._identification())
        if self.outbox.waiting(peer) + len(packets) > _UDP_SHARE:
            self.counters["udp-queue-full"] += 1
            return False
        for packet in packets:
            self.outbox.put(peer, packet)
        return True

    def ping(self, remote: IPv6Address, identifier: int, sequence: int, now: float, *, data: bytes = b"") -> bool:
        """Send an echo request; `on_pong` tells of the answer. False if nobody has that address."""
        message = icmp.Echo(identifier, sequence, data)
        return self._send(remote, icmp.echo(icmp.ECHO_REQUEST, self._default_source(), remote.packed, message))

    def tsmp_ping(self, remote: IPv6Address, data: bytes, now: float) -> bool:
        """Send a TSMP ping with 8 bytes of data; `on_tsmp_pong` tells of the answer."""
        message = tsmp.Message(tsmp.PING, data[: tsmp.DATA_SIZE].ljust(tsmp.DATA_SIZE, b"\0"))
        return self._send(remote, tsmp.build(self._default_source(), remote.packed, message))

    def _send(self, remote: IPv6Address, packet: bytes) -> bool:
        peer = self.peers.find(remote.packed)
        if peer is None:
            self.counters["no-route"] += 1
            return False
        self.control(peer, packet)
        return True

    def _identification(self) -> int:
        """A number for the next datagram in fragments. The first is random: a node that restarts keeps its address."""
        if self._fragmented < 0:
            self._fragmented = int.from_bytes(self._rng(4), "big")
        self._fragmented = self._fragmented + 1 & 0xFFFFFFFF
        return self._fragmented

    def _mtu_of(self, peer: Hashable) -> int:
        """The largest packet that gets through to `peer`; a stack that learns more knows better."""
        return self._mtu

    def _default_source(self) -> bytes:
        for packed in self._local:
            return packed
        raise LocalProtocolError("the stack has no address yet")

    # -- receiving ----------------------------------------------------------------------------------------------------

    def _is_allowed(self, peer: Hashable, source: bytes, destination: bytes) -> bool:
        """True if `peer` may use this source, and the destination is us; otherwise counted."""
        if destination not in self._local:
            self.counters["not-for-us"] += 1
            return False
        owner = self.peers.find(source)
        if owner is None or (owner is not peer and owner != peer):
            self.counters["source-not-allowed"] += 1
            return False
        return True

    def _receive_other(self, peer: Hashable, burst: Burst, index: int, size: int, now: float) -> None:
        """An IPv6 packet that is not TCP."""
        row = burst.row(index)[: ip.HEADER_SIZE + size]
        protocol = row[6]
        source, destination = bytes(row[8:24]), bytes(row[24:40])
        if not self._is_allowed(peer, source, destination):
            return
        payload = row[ip.HEADER_SIZE :]
        if self._verify and protocol in (ip.UDP, ip.ICMPV6) and not ip.verify(row, size, protocol):
            self.counters["bad-checksum"] += 1
        elif protocol == ip.ICMPV6:
            self._receive_icmp(peer, source, destination, payload, now)
        elif protocol == ip.UDP:
            self._receive_udp(peer, source, destination, payload, row, now)
        elif protocol == FRAGMENT:
            self._receive_fragment(peer, source, destination, payload, now)
        elif protocol == ip.TSMP:
            self._receive_tsmp(peer, source, destination, payload)
        else:
            self.counters["unknown-protocol"] += 1

    def _receive_icmp(self, peer: Hashable, source: bytes, destination: bytes, payload: memoryview, now: float) -> None:
        kind = payload[0] if payload else -1
        if kind in (icmp.ECHO_REQUEST, icmp.ECHO_REPLY):
            message = icmp.parse_echo(payload)
            if message is None:
                self.counters["malformed"] += 1
            elif kind == icmp.ECHO_REQUEST:
                self.control(peer, icmp.echo(icmp.ECHO_REPLY, destination, source, message))
            elif self.on_pong is not None:
                self.on_pong(IPv6Address(source), *message)
        elif kind in (icmp.DESTINATION_UNREACHABLE, icmp.PACKET_TOO_BIG):
            quote = icmp.parse_error(payload)
            if quote is None or quote.source not in self._local:
                return
            if quote.protocol == ip.UDP and quote.type == icmp.DESTINATION_UNREACHABLE:
                if self.on_udp_error is not None:
                    remote_port = int.from_bytes(quote.ports[2:], "big")
                    self.on_udp_error(
                        IPv6Address(quote.destination), remote_port, int.from_bytes(quote.ports[:2], "big")
                    )
            else:
                self._receive_error(quote, now)
        else:
            self.counters["unknown-icmp"] += 1

    def _receive_error(self, quote: icmp.Quote, now: float) -> None:
        """An error about a packet of ours; a stack with connections looks closer."""

    def _receive_fragment(
        self, peer: Hashable, source: bytes, destination: bytes, payload: memoryview, now: float
    ) -> None:
        whole = self._reassembler.add(source, destination, payload, now)
        if isinstance(whole, str):
            self.counters[whole] += 1
        elif whole is not None:
            packet = memoryview(ip.header(len(whole), ip.UDP, source, destination) + whole)
            if self._verify and not ip.verify(packet, len(whole), ip.UDP):
                self.counters["bad-checksum"] += 1
            else:
                self._receive_udp(peer, source, destination, packet[ip.HEADER_SIZE :], packet, now)

    def _receive_udp(
        self, peer: Hashable, source: bytes, destination: bytes, payload: memoryview, row: memoryview, now: float
    ) -> None:
        datagram = udp.parse(payload)
        if datagram is None:
            self.counters["malformed"] += 1
            return
        taken = self.on_udp is not None and self.on_udp(
            IPv6Address(source),
            datagram.source_port,
            self._local[destination],
            datagram.destination_port,
            datagram.data,
        )
        if not taken and self._may_complain(now):
            self.control(peer, icmp.unreachable(icmp.PORT_UNREACHABLE, destination, source, row))

    def _receive_tsmp(self, peer: Hashable, source: bytes, destination: bytes, payload: memoryview) -> None:
        message = tsmp.parse(payload)
        if message is None:
            self.counters["unknown-tsmp"] += 1
        elif message.kind == tsmp.PING:
            self.control(peer, tsmp.build(destination, source, tsmp.Message(tsmp.PONG, message.data)))
        elif message.kind == tsmp.PONG:
            if self.on_tsmp_pong is not None:
                self.on_tsmp_pong(IPv6Address(source), message.data, message.port)
        elif self.on_disco_key is not None:
            self.on_disco_key(peer, message.data)

    def _may_complain(self, now: float) -> bool:
        if now - self._errors_at >= 1.0:
            self._errors_at, self._errors = now, 0
        self._errors += 1
        return self._errors <= _ERRORS_PER_SECOND
