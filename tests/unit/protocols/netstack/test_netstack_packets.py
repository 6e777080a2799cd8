"""IPv6, ICMPv6, UDP and TSMP: golden bytes, round trips, and what is cut short."""

from __future__ import annotations

from ipaddress import IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from coder_agent.protocols.netstack import icmp, ip, tsmp, udp

A = IPv6Address("fd7a:115c:a1e0::1").packed
B = IPv6Address("fd7a:115c:a1e0::2").packed


def rfc1071(data: bytes) -> int:
    """The checksum as the RFC words it: 16-bit words, end-around carry, complement."""
    total = 0
    for high, low in zip(data[::2], (data + b"\0")[1::2], strict=False):
        total += high << 8 | low
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def pseudo(size: int, protocol: int) -> bytes:
    return A + B + size.to_bytes(4, "big") + bytes(3) + bytes([protocol])


def test_header_has_the_layout_of_rfc_8200() -> None:
    assert ip.header(0x1234, ip.TCP, A, B).hex() == (
        "6000000012340640fd7a115ca1e000000000000000000001fd7a115ca1e000000000000000000002"
    )


@given(st.binary(max_size=3000))
def test_sums_of_any_length_are_those_of_the_rfc(data: bytes) -> None:
    assert ip.partial_sum(data) == int.from_bytes(data, "little") % 65535
    data += b"\x01"  # of nothing but zeros there is no packet
    assert ip.finish(ip.partial_sum(data)).to_bytes(2, "little") == rfc1071(data).to_bytes(2, "big")


def test_all_ones_fold_with_every_carry() -> None:
    for size in range(1, 1400):
        assert ip.partial_sum(b"\xff" * size) == int.from_bytes(b"\xff" * size, "little") % 65535


def test_echo_request_is_these_bytes() -> None:
    packet = icmp.echo(icmp.ECHO_REQUEST, A, B, icmp.Echo(0x1234, 1, b"ping"))
    body = bytes.fromhex("8000000012340001") + b"ping"
    checksum = rfc1071(pseudo(len(body), 58) + body)
    assert packet == ip.header(12, ip.ICMPV6, A, B) + body[:2] + checksum.to_bytes(2, "big") + body[4:]


@given(st.binary(max_size=1300))
def test_checksum_agrees_with_the_rfc(data: bytes) -> None:
    body = data + bytes(len(data) % 2)
    packet = ip.packet(ip.UDP, A, B, bytes(8) + body, checksum_at=6)
    assert ip.verify(packet, len(packet) - 40, ip.UDP)
    assert rfc1071(pseudo(len(packet) - 40, ip.UDP) + packet[40:]) == 0


@given(st.binary(min_size=2, max_size=200), st.integers(0, 10_000), st.integers(1, 255))
def test_a_changed_byte_fails_the_checksum(data: bytes, where: int, change: int) -> None:
    packet = bytearray(udp.build(A, 1, B, 2, data))
    packet[8 + where % (len(packet) - 8)] ^= change
    assert not ip.verify(bytes(packet), len(packet) - 40, ip.UDP)


def test_padding_behind_the_packet_is_not_summed() -> None:
    packet = udp.build(A, 1, B, 2, b"odd")
    assert ip.verify(packet + b"\xff" * 13, len(packet) - 40, ip.UDP)


@given(st.integers(0, 65535), st.integers(0, 65535), st.binary(max_size=1200))
def test_udp_round_trip(source_port: int, port: int, data: bytes) -> None:
    packet = udp.build(A, source_port, B, port, data)
    datagram = udp.parse(memoryview(packet)[40:])
    assert datagram is not None
    assert (datagram.source_port, datagram.destination_port, bytes(datagram.data)) == (source_port, port, data)


def test_udp_cut_anywhere_is_refused() -> None:
    payload = udp.build(A, 1, B, 2, b"payload")[40:]
    assert all(udp.parse(memoryview(payload)[:size]) is None for size in range(len(payload)))
    assert udp.parse(memoryview(payload)) is not None


def test_udp_length_below_its_header_is_refused() -> None:
    assert udp.parse(memoryview(bytes.fromhex("0001000200070000") + b"x")) is None


@given(st.integers(0, 65535), st.integers(0, 65535), st.binary(max_size=1000))
def test_echo_round_trip(identifier: int, sequence: int, data: bytes) -> None:
    message = icmp.Echo(identifier, sequence, data)
    assert icmp.parse_echo(memoryview(icmp.echo(icmp.ECHO_REPLY, A, B, message))[40:]) == message


def test_echo_cut_in_its_header_is_refused() -> None:
    payload = icmp.echo(icmp.ECHO_REPLY, A, B, icmp.Echo(1, 2, b""))[40:]
    assert all(icmp.parse_echo(memoryview(payload)[:size]) is None for size in range(8))


def test_error_quotes_what_it_is_about() -> None:
    offender = udp.build(A, 1111, B, 2222, b"hello?" * 300)
    packet = icmp.unreachable(icmp.PORT_UNREACHABLE, B, A, memoryview(offender))
    assert len(packet) == 1280
    quote = icmp.parse_error(memoryview(packet)[40:])
    assert quote is not None
    assert (quote.type, quote.code, quote.protocol) == (1, 4, ip.UDP)
    assert (quote.source, quote.destination) == (A, B)
    assert quote.ports == (1111).to_bytes(2, "big") + (2222).to_bytes(2, "big")


def test_error_that_quotes_too_little_is_refused() -> None:
    packet = icmp.unreachable(icmp.PORT_UNREACHABLE, B, A, memoryview(udp.build(A, 1, B, 2, b"")))
    assert all(icmp.parse_error(memoryview(packet)[40:end]) is None for end in range(40, 40 + 8 + 48))


def test_tsmp_golden_bytes() -> None:
    assert tsmp.build(A, B, tsmp.Message(tsmp.PING, b"12345678"))[40:] == b"p12345678"
    assert tsmp.build(A, B, tsmp.Message(tsmp.PONG, b"12345678", 443))[40:] == b"o12345678\x01\xbb"
    assert tsmp.build(A, B, tsmp.Message(tsmp.DISCO_KEY, bytes(32)))[40:] == b"a" + bytes(32)
    assert tsmp.build(A, B, tsmp.Message(tsmp.PING, bytes(8)))[6] == 99


@given(st.sampled_from([(tsmp.PING, 8), (tsmp.PONG, 8), (tsmp.DISCO_KEY, 32)]), st.data())
def test_tsmp_round_trip_and_truncation(kind: tuple[int, int], data: st.DataObject) -> None:
    body = data.draw(st.binary(min_size=kind[1], max_size=kind[1]))
    port = data.draw(st.integers(0, 65535)) if kind[0] == tsmp.PONG else 0
    message = tsmp.Message(kind[0], body, port)
    payload = memoryview(tsmp.build(A, B, message))[40:]
    assert tsmp.parse(payload) == message
    assert all(tsmp.parse(payload[:size]) is None for size in range(len(payload)))


def test_unknown_tsmp_is_refused() -> None:
    assert tsmp.parse(memoryview(b"!\x06\x01")) is None
