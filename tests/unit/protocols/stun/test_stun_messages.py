"""The STUN codec: golden vectors, every negative case of the notes, and aioice as an independent oracle."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from aioice import stun as oracle
from hypothesis import given
from hypothesis import strategies as st

from coder_agent.base.addresses import AddrPort
from coder_agent.errors import LocalProtocolError
from coder_agent.protocols.effects import Dropped
from coder_agent.protocols.stun import (
    BindingRequest,
    BindingResponse,
    encode_request,
    encode_response,
    is_stun,
    parse_request,
    parse_response,
    respond,
)
from coder_agent.protocols.stun.messages import fingerprint

TXID = bytes(range(1, 13))
REQUEST = bytes.fromhex("000100142112a4420102030405060708090a0b0c802200087461696c6e6f646580280004b32c370f")
RESPONSE_V4 = bytes.fromhex("0101000c2112a4420102030405060708090a0b0c00200008000183bbea12d545")
RESPONSE_V6 = bytes.fromhex("010100182112a4420102030405060708090a0b0c00200014000283bb0113a9fa0102030405060708090a0b0d")
V4 = AddrPort("203.0.113.7", 41641)
V6 = AddrPort("2001:db8::1", 41641)

txids = st.binary(min_size=12, max_size=12)
ports = st.integers(1, 65535)
addresses = st.builds(lambda ip, port: AddrPort.of(ip, port), st.ip_addresses(), ports)


def message(kind: int, *attributes: tuple[int, bytes], length: int | None = None) -> bytes:
    """A STUN message built by hand, with any mistake one likes."""
    body = b"".join(
        number.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value + bytes(-len(value) % 4)
        for number, value in attributes
    )
    size = len(body) if length is None else length
    return kind.to_bytes(2, "big") + size.to_bytes(2, "big") + bytes.fromhex("2112a442") + TXID + body


def with_fingerprint(before: bytes) -> bytes:
    """Append a right FINGERPRINT to a message whose header does not count it yet."""
    size = int.from_bytes(before[2:4], "big") + 8
    counted = before[:2] + size.to_bytes(2, "big") + before[4:]
    return counted + bytes.fromhex("80280004") + fingerprint(counted).to_bytes(4, "big")


def reason(result: object) -> str:
    assert isinstance(result, Dropped)
    return result.reason


def test_request_is_the_golden_forty_bytes() -> None:
    assert encode_request(TXID) == REQUEST
    assert parse_request(REQUEST) == BindingRequest(TXID, b"tailnode")


@pytest.mark.parametrize(("address", "golden"), [(V4, RESPONSE_V4), (V6, RESPONSE_V6)])
def test_responses_match_the_golden_bytes(address: AddrPort, golden: bytes) -> None:
    assert encode_response(TXID, address) == golden
    assert parse_response(golden) == BindingResponse(TXID, address)


def test_v4_in_v6_source_is_answered_and_read_as_v4() -> None:
    assert encode_response(TXID, AddrPort("::ffff:203.0.113.7", 41641)) == RESPONSE_V4
    mapped = bytes(10) + b"\xff\xff" + bytes([203, 0, 113, 7])
    mask = bytes.fromhex("2112a442") + TXID
    value = bytes.fromhex("000283bb") + bytes(a ^ b for a, b in zip(mapped, mask, strict=True))
    assert parse_response(message(0x0101, (0x0020, value))) == BindingResponse(TXID, V4)


def test_mapped_address_alone_is_good_enough() -> None:
    clear = bytes.fromhex("0001a2a9cb007107")
    assert parse_response(message(0x0101, (0x0001, clear))) == BindingResponse(TXID, V4)


def test_alternate_xor_number_is_read_like_the_real_one() -> None:
    assert parse_response(message(0x0101, (0x8020, RESPONSE_V4[24:]))) == BindingResponse(TXID, V4)


def test_xor_address_wins_over_a_rewritten_clear_one() -> None:
    rewritten = bytes.fromhex("0001a2a90a000001")  # what a NAT's ALG makes of it
    packet = message(0x0101, (0x0001, rewritten), (0x0020, RESPONSE_V4[24:]))
    assert parse_response(packet) == BindingResponse(TXID, V4)


def test_bytes_behind_the_stated_length_are_ignored_in_responses() -> None:
    assert parse_response(RESPONSE_V4 + b"junk") == BindingResponse(TXID, V4)


@pytest.mark.parametrize(
    ("packet", "why"),
    [
        (RESPONSE_V4[:19], "stun-not-stun"),
        (b"\x41" + RESPONSE_V4[1:], "stun-not-stun"),
        (RESPONSE_V4[:4] + bytes(4) + RESPONSE_V4[8:], "stun-not-stun"),
        (REQUEST, "stun-wrong-type"),
        (message(0x0111, (0x0020, RESPONSE_V4[24:])), "stun-wrong-type"),
        (message(0x0101, (0x0020, RESPONSE_V4[24:]), length=16), "stun-truncated"),
        (message(0x0101), "stun-no-address"),
        (message(0x0101, (0x8022, b"coturn")), "stun-no-address"),
        (message(0x0101, (0x0020, b"\0\1")), "stun-bad-address"),
        (message(0x0101, (0x0020, bytes.fromhex("000383bbea12d545"))), "stun-bad-address"),
        (message(0x0101, (0x0020, bytes.fromhex("000283bbea12d545"))), "stun-bad-address"),
        (message(0x0101, (0x0001, bytes.fromhex("0009a2a9cb007107"))), "stun-bad-address"),
        (RESPONSE_V4[:22] + b"\0\x0c" + RESPONSE_V4[24:], "stun-bad-attributes"),
        (message(0x0101, length=2) + b"\0\x20", "stun-bad-attributes"),
    ],
)
def test_bad_responses_are_dropped_with_a_reason(packet: bytes, why: str) -> None:
    assert reason(parse_response(packet)) == why


@pytest.mark.parametrize(
    ("packet", "why"),
    [
        (REQUEST[:19], "stun-not-stun"),
        (RESPONSE_V4, "stun-wrong-type"),
        (REQUEST[:-1] + bytes([REQUEST[-1] ^ 1]), "stun-wrong-fingerprint"),
        (REQUEST[:8] + b"\xff" + REQUEST[9:], "stun-wrong-fingerprint"),
        (with_fingerprint(message(1, (0x8022, b"Tailnode"))), "stun-wrong-software"),
        (with_fingerprint(message(1)), "stun-wrong-software"),
        (message(1, (0x8022, b"tailnode")), "stun-fingerprint-not-last"),
        (message(1, (0x8028, bytes(4)), (0x8022, b"tailnode")), "stun-fingerprint-not-last"),
        (message(1, (0x8022, b"tailnode"), (0x8028, b"\0\0")), "stun-wrong-fingerprint"),
        (message(1, (0x8022, b"tailnode"), length=200), "stun-truncated"),
        (message(1, length=4) + b"\x80\x22\xff\xff", "stun-bad-attributes"),
    ],
)
def test_a_strict_server_stays_silent(packet: bytes, why: str) -> None:
    assert reason(parse_request(packet)) == why
    assert respond(packet, V4) is None


def test_a_lenient_server_answers_any_wellformed_request() -> None:
    bare = message(1)
    assert respond(bare, V4) is None
    assert respond(bare, V4, strict=False) == RESPONSE_V4
    assert respond(with_fingerprint(message(1, (0x8022, b"coturn"))), V6, strict=False) == RESPONSE_V6
    assert respond(message(1, (0x8028, bytes(4))), V4, strict=False) is None
    assert respond(b"\x01" + bare[1:], V4, strict=False) is None


def test_a_wrong_transaction_id_is_our_own_bug() -> None:
    with pytest.raises(LocalProtocolError):
        encode_request(b"short")
    with pytest.raises(LocalProtocolError):
        encode_response(b"short", V4)


def test_is_stun_tells_the_other_tenants_of_the_socket_apart() -> None:
    assert is_stun(REQUEST)
    assert is_stun(memoryview(RESPONSE_V6))
    assert not is_stun(b"\x04\0\0\0" + bytes(100))  # WireGuard transport data
    assert not is_stun("TS💬".encode() + bytes(100))  # disco


@pytest.mark.parametrize("packet", [REQUEST, RESPONSE_V4, RESPONSE_V6])
def test_truncation_at_every_byte_is_dropped(packet: bytes) -> None:
    for size in range(len(packet)):
        cut = packet[:size]
        assert isinstance(parse_request(cut), Dropped)
        assert isinstance(parse_request(cut, strict=False), Dropped)
        assert isinstance(parse_response(cut), Dropped)


@given(txids, addresses)
def test_response_round_trip(txid: bytes, address: AddrPort) -> None:
    assert parse_response(encode_response(txid, address)) == BindingResponse(txid, address)


@given(txids)
def test_oracle_reads_our_request(txid: bytes) -> None:
    seen = oracle.parse_message(encode_request(txid))  # checks the fingerprint too
    assert seen.transaction_id == txid
    assert seen.message_method is oracle.Method.BINDING
    assert seen.message_class is oracle.Class.REQUEST
    assert seen.attributes["SOFTWARE"] == "tailnode"


@given(txids, addresses)
def test_oracle_reads_our_response(txid: bytes, address: AddrPort) -> None:
    seen = oracle.parse_message(encode_response(txid, address))
    host, port = seen.attributes["XOR-MAPPED-ADDRESS"]
    assert (ip_address(host), port) == (address.ip, address.port)


@given(txids, addresses, st.sampled_from(["XOR-MAPPED-ADDRESS", "MAPPED-ADDRESS"]))
def test_we_read_the_oracles_response(txid: bytes, address: AddrPort, attribute: str) -> None:
    answer = oracle.Message(oracle.Method.BINDING, oracle.Class.RESPONSE, transaction_id=txid)
    answer.attributes["SOFTWARE"] = "aioice"
    answer.attributes[attribute] = (address.host, address.port)
    answer.add_fingerprint()
    assert parse_response(bytes(answer)) == BindingResponse(txid, address)


@given(txids, st.sampled_from(["tailnode", "other"]))
def test_we_judge_the_oracles_request(txid: bytes, software: str) -> None:
    question = oracle.Message(oracle.Method.BINDING, oracle.Class.REQUEST, transaction_id=txid)
    question.attributes["SOFTWARE"] = software
    question.add_fingerprint()
    packet = bytes(question)
    assert parse_request(packet, strict=False) == BindingRequest(txid, software.encode())
    assert (respond(packet, V4) is not None) == (software == "tailnode")


@given(st.binary(max_size=200), st.booleans())
def test_junk_never_raises(junk: bytes, dressed: bool) -> None:
    packet = message(1)[:8] + junk if dressed else junk
    for candidate in (packet, b"\x01\x01" + packet[2:], memoryview(packet)):
        parse_request(candidate)
        parse_request(candidate, strict=False)
        parse_response(candidate)
        respond(candidate, V4, strict=False)
