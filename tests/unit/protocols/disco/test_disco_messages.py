"""Disco messages: golden bytes, round trips, truncation."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coder_agent.base.addresses import AddrPort
from coder_agent.base.keys import NodePublic
from coder_agent.protocols.disco import CallMeMaybe, Ignored, Message, Ping, Pong, parse

TXID = bytes(range(0xA0, 0xAC))
NODE = NodePublic(bytes.fromhex("7ab41fb62042d82e6c02289b0b0bf2da6400831966fe8cde56f727a4e74b2b6b"))
PING = bytes.fromhex("0100a0a1a2a3a4a5a6a7a8a9aaab7ab41fb62042d82e6c02289b0b0bf2da6400831966fe8cde56f727a4e74b2b6b")
PONG = bytes.fromhex("0200a0a1a2a3a4a5a6a7a8a9aaab00000000000000000000ffffcb007107a2a9")
CALL = bytes.fromhex("030000000000000000000000ffffcb007107a2a920010db8000000000000000000000001a2a9")
V4 = AddrPort("203.0.113.7", 41641)
V6 = AddrPort("2001:db8::1", 41641)

addresses = st.builds(AddrPort.of, st.ip_addresses(), st.integers(0, 65535))
txids = st.binary(min_size=12, max_size=12)
keys = st.binary(min_size=32, max_size=32).filter(any).map(NodePublic)
versions = st.integers(0, 255)
messages = st.one_of(
    st.builds(Ping, txids, keys, versions, st.integers(0, 1400)),
    st.builds(Pong, txids, addresses, versions, st.integers(0, 1400)),
    st.builds(CallMeMaybe, st.lists(addresses, max_size=20).map(tuple)),
)


def test_ping_golden() -> None:
    assert Ping(TXID, NODE).encode() == PING
    assert parse(PING) == Ping(TXID, NODE)


def test_pong_golden() -> None:
    assert Pong(TXID, V4).encode() == PONG
    assert parse(PONG) == Pong(TXID, V4)


def test_a_padded_pong_says_which_packets_its_sender_takes() -> None:
    pong = Pong(TXID, V4, version=1, padding=4, accepts=8940)
    assert pong.encode() == b"\x02\x01" + PONG[2:] + b"\x22\xec\x00\x00"
    assert parse(pong.encode()) == pong
    assert parse(Pong(TXID, V4, 1, 1, accepts=8940).encode()) == Pong(TXID, V4, 1, 1), "no room to say it"
    assert parse(Pong(TXID, V4, 0, 9, accepts=8940).encode()) == Pong(TXID, V4, 0, 9), "stock peers never say it"
    assert parse(b"\x02\x00" + pong.encode()[2:]) == Pong(TXID, V4, 0, 4)


def test_call_me_maybe_golden() -> None:
    assert CallMeMaybe((V4, V6)).encode() == CALL
    assert parse(CALL) == CallMeMaybe((V4, V6))


@given(messages)
def test_every_message_survives_the_wire(message: Message) -> None:
    assert not isinstance(message, Ignored)
    assert parse(message.encode()) == message


def test_coder_padding_makes_the_inner_payload_1230_bytes() -> None:
    ping = Ping(TXID, NODE, version=1, padding=1310 - 124)
    assert len(ping.encode()) == 2 + 1230
    assert parse(ping.encode()) == ping


def test_ping_cut_at_every_byte_needs_only_its_txid() -> None:
    for size in range(len(PING)):
        message = parse(PING[:size])
        if size < 14:
            assert message is None
        else:
            assert message == Ping(TXID, None)


def test_pong_cut_at_every_byte_is_malformed() -> None:
    assert all(parse(PONG[:size]) is None for size in range(len(PONG)))


def test_call_me_maybe_cut_at_every_byte_still_calls() -> None:
    for size in range(2, len(CALL)):
        expected = (V4,) if size == 20 else ()
        assert parse(CALL[:size]) == CallMeMaybe(expected)


def test_call_me_maybe_of_another_version_has_no_endpoints() -> None:
    assert parse(b"\x03\x01" + CALL[2:]) == CallMeMaybe()


def test_trailing_bytes_are_padding() -> None:
    assert parse(PING + b"\xff" * 7) == Ping(TXID, NODE, padding=7)
    assert parse(PONG + b"\xff" * 7) == Pong(TXID, V4, padding=7)


def test_zero_node_key_counts_as_absent() -> None:
    message = Ping(TXID, None, padding=5)
    assert parse(message.encode()) == message
    assert parse(message.encode()[: 14 + 31]) == Ping(TXID, None)


def test_peer_relay_types_and_newer_ones_are_ignored_not_malformed() -> None:
    for kind in (0, 4, 5, 6, 7, 8, 9, 10, 255):
        assert parse(bytes((kind, 0)) + bytes(72)) == Ignored(kind)


@given(st.binary(max_size=200))
def test_junk_never_raises(junk: bytes) -> None:
    parse(junk)
    for kind in (1, 2, 3):
        parse(bytes((kind,)) + junk)
