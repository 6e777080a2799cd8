"""The stack around its connections: routes, demultiplexing, turns, messages, junk."""

from __future__ import annotations

import random
from collections.abc import Hashable
from ipaddress import IPv6Address, IPv6Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coder_agent.base.burst import MAX_RUN, Burst
from coder_agent.errors import LocalProtocolError
from coder_agent.protocols.netstack import Stack, StackConfig, State, TcpConnection, icmp, ip, tsmp, udp
from coder_agent.protocols.netstack.outbox import LIMIT, Outbox
from coder_agent.protocols.netstack.routing import PeerTable
from coder_agent.testing.stack_link import LEFT, RIGHT, StackLink, Weather

A, B, C = (IPv6Address(f"fd7a:115c:a1e0::{n}") for n in (1, 2, 3))


def make_stack(**settings: object) -> Stack:
    stack = Stack(StackConfig(**settings), rng=random.Random(1).randbytes)  # type: ignore[arg-type]
    stack.add_address(A)
    stack.set_peer("b", [IPv6Network(B)])
    return stack


def sent(stack: Stack, now: float = 0.0, blocked: frozenset[Hashable] = frozenset()) -> list[tuple[Hashable, bytes]]:
    return [(peer, bytes(row)) for peer, burst in stack.transmit(now, blocked=blocked) for row in burst.rows()]


def deliver(stack: Stack, packet: bytes, peer: Hashable = "b", now: float = 0.0) -> None:
    stack.receive(peer, Burst.of(packet), now)


# -- routes -----------------------------------------------------------------------------------------------------------


def test_a_connection_whose_peer_is_gone_is_reset_for_nobody() -> None:
    """As when a program ends while one of its connections still waits for a peer that went."""
    link = StackLink()
    client, _ = link.connect()
    link.left.remove_peer("right")
    before = link.left.counters["no-route"]
    client.abort(link.now)
    assert sent(link.left, link.now) == []
    assert link.left.counters["no-route"] == before + 1


def test_longest_prefix_wins() -> None:
    table = PeerTable()
    table.set("wide", [IPv6Network("fd00::/8")])
    table.set("narrow", [IPv6Network("fd7a::/16")])
    table.set("one", [IPv6Network(B)])
    assert table.find(B.packed) == "one"
    assert table.find(C.packed) == "narrow"
    assert table.find(IPv6Address("fd00::1").packed) == "wide"
    assert table.find(IPv6Address("2001:db8::1").packed) is None


def test_a_prefix_moves_to_the_peer_that_gets_it_last() -> None:
    table = PeerTable()
    table.set("old", [IPv6Network(B), IPv6Network(C)])
    table.set("new", [IPv6Network(B)])
    assert (table.find(B.packed), table.find(C.packed)) == ("new", "old")
    table.remove("new")
    table.remove("new")
    assert table.find(B.packed) is None


def test_look_ups_are_remembered_within_bounds_and_forgotten_on_change() -> None:
    table = PeerTable()
    table.set("net", [IPv6Network("fd7a::/16")])
    for n in range(10_000):
        assert table.find(IPv6Address(f"fd7a::{n:x}").packed) == "net"
    assert len(table._cache) <= 4096
    table.set("net", [])
    assert table.find(B.packed) is None


def test_source_of_another_peer_is_dropped() -> None:
    stack = make_stack()
    stack.set_peer("c", [IPv6Network(C)])
    deliver(stack, icmp.echo(icmp.ECHO_REQUEST, B.packed, A.packed, icmp.Echo(1, 1, b"")), peer="c")
    deliver(stack, icmp.echo(icmp.ECHO_REQUEST, IPv6Address("::9").packed, A.packed, icmp.Echo(1, 1, b"")), peer="c")
    assert sent(stack) == []
    assert stack.counters["source-not-allowed"] == 2


def test_another_peer_cannot_speak_in_a_connection() -> None:
    link = StackLink()
    connection, _ = link.connect()
    link.left.set_peer("evil", [IPv6Network(C)])
    reset = bytearray(60)
    other = link.right.connections()[0]
    packet = other.control_packet(4, other.sender.board.nxt, link.now)
    assert len(packet) == len(reset)
    link.left.receive("evil", Burst.of(packet), link.now)
    assert connection.state == "established"
    assert link.left.counters["source-not-allowed"] == 1
    link.left.receive("right", Burst.of(packet), link.now)
    assert connection.state == "closed"


def test_packets_for_others_are_dropped() -> None:
    stack = make_stack()
    deliver(stack, udp.build(B.packed, 1, C.packed, 2, b"x"))
    assert sent(stack) == []
    assert stack.counters["not-for-us"] == 1


def test_connection_follows_its_address_to_another_peer() -> None:
    link = StackLink()
    connection, _ = link.connect()
    link.left.remove_peer("right")
    assert connection.write(b"lost") == 4
    assert sent(link.left, link.now) == []
    assert link.left.counters["no-route"] > 0
    link.left.set_peer("right again", [IPv6Network(RIGHT)])
    connection.write(b"more")
    assert {peer for peer, _ in sent(link.left, link.now)} == {"right again"}


def test_connections_of_a_peer_that_is_gone_for_good_break_at_once() -> None:
    link = StackLink()
    connection, _ = link.connect()
    link.left.remove_peer("right", "it ended")
    assert (connection.state, connection.error) == (State.CLOSED, "it ended")
    assert link.left.connections() == []
    link.left.set_peer("right again", [IPv6Network(RIGHT)])  # nothing is left that it could be told
    assert sent(link.left, link.now) == []


def test_connecting_needs_an_address() -> None:
    with pytest.raises(LocalProtocolError):
        Stack(StackConfig(), rng=random.Random(1).randbytes).connect(B, 1, 0.0)


def test_connections_are_bounded_and_time_wait_makes_room() -> None:
    link = StackLink(config=StackConfig(max_connections=2, keepalive_idle=0))
    one, peer = link.connect()
    link.connect()
    with pytest.raises(LocalProtocolError):
        link.left.connect(RIGHT, 9, link.now)
    one.close(link.now)
    peer.close(link.now)
    link.run(lambda: one.state is State.TIME_WAIT)
    link.left.connect(RIGHT, 9, link.now)
    assert one.state == "closed"


def test_own_address_can_be_chosen() -> None:
    stack = make_stack()
    stack.add_address(C)
    connection = stack.connect(B, 9, 0.0, local=C)
    assert connection.local[0] == C
    [(_, packet)] = sent(stack)
    assert packet[8:24] == C.packed


# -- turns ------------------------------------------------------------------------------------------------------------


def established(count: int) -> tuple[StackLink, list[TcpConnection]]:
    link = StackLink()
    pairs = [link.connect() for _ in range(count)]
    for one, _ in pairs:
        one.sender.cubic.cwnd = 1 << 30
        one.sender.window = 1 << 30
    return link, [one for one, _ in pairs]


def test_connections_take_turns() -> None:
    link, connections = established(3)
    for connection in connections:
        connection.write(bytes(1 << 20))
    sends_a_burst = -(-215 * 1280 // 65_536)
    ports = [bytes(burst.row(0)[40:42]) for _, burst in link.left.transmit(link.now, budget=9 * sends_a_burst)]
    assert len(ports) == 9
    assert ports[:3] == ports[3:6] == ports[6:]
    assert len(set(ports)) == 3


def test_one_connection_sends_a_bounded_number_of_bursts_per_turn() -> None:
    link, [connection] = established(1)
    connection.write(bytes(8 << 20))
    sent = sum(burst.size_bytes for _, burst in link.left.transmit(link.now, budget=1000))
    assert link.left.config.bursts_per_turn <= sent / 65_536 < link.left.config.bursts_per_turn + 5
    assert link.left.has_output()


def test_bursts_are_within_the_common_bound() -> None:
    link, [connection] = established(1)
    connection.write(bytes(1 << 20))
    for _, burst in link.left.transmit(link.now):
        assert burst.count <= MAX_RUN
        assert burst.length == 1280


def test_blocked_peers_wait_and_others_do_not() -> None:
    stack = make_stack()
    stack.set_peer("c", [IPv6Network(C)])
    for address in (B, C):
        stack.connect(address, 9, 0.0)
        stack.ping(address, 1, 1, 0.0)
    blocked = frozenset({"b"})
    assert {peer for peer, _ in sent(stack, blocked=blocked)} == {"c"}
    assert not stack.has_output(blocked)
    assert stack.has_output()
    assert {peer for peer, _ in sent(stack)} == {"b"}
    assert not stack.has_output()


def test_peer_that_becomes_blocked_within_a_turn_gets_no_more() -> None:
    link, [connection] = established(1)
    connection.write(bytes(1 << 20))
    blocked: set[Hashable] = set()
    bursts = 0
    for peer, _ in link.left.transmit(link.now, blocked=blocked):
        bursts += 1
        blocked.add(peer)
    assert bursts == 1
    assert link.left.has_output()


def test_abandoned_turn_loses_nothing_that_was_not_handed_out() -> None:
    link, connections = established(2)
    for connection in connections:
        connection.write(bytes(200_000))
    turn = link.left.transmit(link.now)
    next(turn)
    del turn
    for connection in connections:
        connection.shutdown_write()
    link.run(lambda: all(c.eof or c.readable == 200_000 for c in link.accepted))


def test_acknowledgements_of_many_connections_leave_together() -> None:
    stack = make_stack()
    for number in range(20):
        stack.ping(B, number, 0, 0.0)
    bursts = list(stack.transmit(0.0))
    assert [burst.count for _, burst in bursts] == [20]


def test_outbox_is_bounded() -> None:
    box = Outbox()
    for _ in range(LIMIT + 5):
        box.put("b", b"x" * 60)
    assert box.dropped == 5
    assert sum(burst.count for _, burst in box.drain(())) == LIMIT
    assert not box


# -- messages ---------------------------------------------------------------------------------------------------------


def test_echo_is_answered_with_the_same_data() -> None:
    stack = make_stack()
    deliver(stack, icmp.echo(icmp.ECHO_REQUEST, B.packed, A.packed, icmp.Echo(7, 8, b"data")) + bytes(12))
    assert sent(stack) == [("b", icmp.echo(icmp.ECHO_REPLY, A.packed, B.packed, icmp.Echo(7, 8, b"data")))]


def test_ping_and_its_answer() -> None:
    stack = make_stack()
    pongs: list[tuple[IPv6Address, int, int, bytes]] = []
    stack.on_pong = lambda *pong: pongs.append(pong)
    assert stack.ping(B, 7, 8, 0.0, data=b"x")
    [(_, packet)] = sent(stack)
    assert packet == icmp.echo(icmp.ECHO_REQUEST, A.packed, B.packed, icmp.Echo(7, 8, b"x"))
    deliver(stack, icmp.echo(icmp.ECHO_REPLY, B.packed, A.packed, icmp.Echo(7, 8, b"x")))
    assert pongs == [(B, 7, 8, b"x")]
    assert not stack.ping(C, 7, 8, 0.0)


def test_tsmp_ping_pong_and_key() -> None:
    stack = make_stack()
    pongs: list[tuple[IPv6Address, bytes, int]] = []
    keys: list[tuple[Hashable, bytes]] = []
    stack.on_tsmp_pong = lambda *pong: pongs.append(pong)
    stack.on_disco_key = lambda *key: keys.append(key)
    deliver(stack, tsmp.build(B.packed, A.packed, tsmp.Message(tsmp.PING, b"12345678")) + bytes(7))
    deliver(stack, tsmp.build(B.packed, A.packed, tsmp.Message(tsmp.PONG, b"abcdefgh", 80)))
    deliver(stack, tsmp.build(B.packed, A.packed, tsmp.Message(tsmp.DISCO_KEY, b"k" * 32)))
    assert stack.tsmp_ping(B, b"87654321", 0.0)
    assert [packet[40:] for _, packet in sent(stack)] == [b"o12345678\0\0", b"p87654321"]
    assert pongs == [(B, b"abcdefgh", 80)]
    assert keys == [("b", b"k" * 32)]


def test_udp_in_and_out() -> None:
    stack = make_stack()
    got: list[tuple[IPv6Address, int, IPv6Address, int, bytes]] = []

    def listen(source: IPv6Address, sport: int, local: IPv6Address, port: int, data: memoryview) -> bool:
        got.append((source, sport, local, port, bytes(data)))
        return True

    stack.on_udp = listen
    deliver(stack, udp.build(B.packed, 5, A.packed, 53, b"question") + bytes(3))
    assert got == [(B, 5, A, 53, b"question")]
    assert stack.send_udp(A, 53, B, 5, b"answer", 0.0)
    assert sent(stack) == [("b", udp.build(A.packed, 53, B.packed, 5, b"answer"))]
    assert not stack.send_udp(A, 53, B, 5, bytes(65_528), 0.0)
    assert not stack.send_udp(A, 53, C, 5, b"nobody has that address", 0.0)


def test_udp_without_a_listener_is_answered_at_a_bounded_rate() -> None:
    stack = make_stack()
    for _ in range(200):
        deliver(stack, udp.build(B.packed, 5, A.packed, 53, b"?"))
    answers = sent(stack)
    assert len(answers) == 50
    assert (answers[0][1][6], answers[0][1][40:42]) == (ip.ICMPV6, b"\x01\x04")


def test_unknown_protocols_are_counted() -> None:
    stack = make_stack()
    deliver(stack, ip.packet(132, B.packed, A.packed, b"sctp"))
    deliver(stack, b"\x45" + bytes(39))
    deliver(stack, ip.packet(ip.TSMP, B.packed, A.packed, b"!"))
    deliver(stack, ip.packet(ip.ICMPV6, B.packed, A.packed, b"\x85\0\0\0", checksum_at=2))
    assert sent(stack) == []
    assert stack.counters == {"unknown-protocol": 1, "malformed": 1, "unknown-tsmp": 1, "unknown-icmp": 1}


def syn_of(stack: Stack) -> tuple[TcpConnection, bytes]:
    connection = stack.connect(B, 9, 0.0)
    [(_, packet)] = sent(stack)
    return connection, packet


def error_about(packet: bytes, kind: int, info: int = 0) -> bytes:
    body = bytes([kind, 0, 0, 0]) + info.to_bytes(4, "big") + packet[:1000]
    return ip.packet(ip.ICMPV6, B.packed, A.packed, body, checksum_at=2)


def test_unreachable_ends_a_handshake_but_no_connection() -> None:
    stack = make_stack()
    connection, packet = syn_of(stack)
    forged = bytearray(packet)
    forged[47] ^= 1
    deliver(stack, error_about(bytes(forged), 1))
    assert connection.state == "syn-sent"
    deliver(stack, error_about(packet, 1))
    assert (connection.state, connection.error) == (State.CLOSED, "unreachable")
    link, [other] = established(1)
    other.write(b"x")
    [(_, data)] = sent(link.left, link.now)
    body = bytes([1, 0, 0, 0]) + bytes(4) + data
    link.left.receive("right", Burst.of(ip.packet(ip.ICMPV6, RIGHT.packed, LEFT.packed, body, checksum_at=2)), link.now)
    assert other.state == "established"


def test_packet_too_big_makes_segments_smaller() -> None:
    link = StackLink(config=StackConfig(mtu=4000, keepalive_idle=0))
    connection, _ = link.connect()
    assert connection.sender.mss == 3940
    connection.write(bytes(3940))
    [(_, data)] = sent(link.left, link.now)
    assert len(data) == 4000
    body = bytes([2, 0, 0, 0]) + (1500).to_bytes(4, "big") + data[:1000]
    link.left.receive("right", Burst.of(ip.packet(ip.ICMPV6, RIGHT.packed, LEFT.packed, body, checksum_at=2)), link.now)
    assert connection.sender.mss == 1440
    link.weather = Weather()
    link.run(lambda: link.accepted[0].readable == 3940)


# -- checksums and junk -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", [True, False])
def test_wrong_checksums_are_dropped_alone(vector: bool) -> None:
    link = StackLink(config=StackConfig(verify_checksums=True), vector=(vector, vector))
    connection, peer = link.connect()
    connection.sender.cubic.cwnd = 1 << 20
    connection.write(bytes(range(256)) * 120)
    [(_, burst)] = list(link.left.transmit(link.now))
    broken = burst.copy()
    broken.row(20)[100] ^= 1
    link.right.receive("left", broken, link.now)
    assert peer.readable == 20 * 1220
    assert link.right.counters["bad-checksum"] == 1
    link.run(lambda: peer.readable == 256 * 120)
    assert b"".join(peer.read()) == bytes(range(256)) * 120


def test_wrong_checksums_of_messages_are_dropped() -> None:
    stack = make_stack(verify_checksums=True)
    packet = bytearray(icmp.echo(icmp.ECHO_REQUEST, B.packed, A.packed, icmp.Echo(1, 1, b"data")))
    packet[-1] ^= 1
    deliver(stack, bytes(packet))
    assert sent(stack) == []
    assert stack.counters["bad-checksum"] == 1


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200), st.integers(0, 5), st.booleans())
def test_junk_never_raises(junk: bytes, kind: int, vector: bool) -> None:
    stack = Stack(StackConfig(), rng=random.Random(1).randbytes, vector=vector)
    stack.add_address(A)
    stack.set_peer("b", [IPv6Network(B)])
    stack.on_syn = lambda request: None
    protocol = [ip.TCP, ip.UDP, ip.ICMPV6, ip.TSMP, 0, 44][kind]
    deliver(stack, junk)
    deliver(stack, ip.packet(protocol, B.packed, A.packed, junk))
    packet = ip.packet(protocol, B.packed, A.packed, junk)
    for rows in (1, 3, 20):
        size = len(packet)
        stack.receive("b", Burst(memoryview(packet * rows), 0, size, rows, size, min(len(junk), size)), 0.0)
    list(stack.transmit(0.0))


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2**32))
def test_mutated_traffic_never_raises(seed: int) -> None:
    """Every packet of a connection, now and then with changed bytes, cut, or in odd bursts."""
    rng = random.Random(seed)
    link = StackLink(seed=seed, config=StackConfig(keepalive_idle=0), vector=(True, False))
    connection = link.left.connect(RIGHT, 9, link.now)
    connection.write(rng.randbytes(100_000))
    for _ in range(40):
        link.now += 0.02
        for source, target, name in ((link.left, link.right, "left"), (link.right, link.left, "right")):
            source.on_timer(link.now)
            for _, burst in source.transmit(link.now):
                copy = burst.copy()
                if rng.random() < 0.4:
                    copy.buffer[rng.randrange(len(copy.buffer))] ^= 1 << rng.randrange(8)
                if rng.random() < 0.2:
                    copy.last = rng.randrange(copy.last + 1)
                target.receive(name, copy, link.now)
        for other in link.accepted:
            other.read()
    assert link.left.counters.total() + link.right.counters.total() >= 0
