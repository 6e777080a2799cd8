"""NAT-PMP, PCP, epochs and SSDP: bytes from the RFCs' layouts, every truncation, and junk."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coder_agent.errors import LocalProtocolError
from coder_agent.protocols.effects import Dropped
from coder_agent.protocols.portmap import natpmp, pcp, ssdp
from coder_agent.protocols.portmap.epoch import EpochClock

NONCE = bytes(range(12))
PMP_ADDRESS_REPLY = bytes.fromhex("00800000000003e8cb007107")
PMP_MAP_REPLY = bytes.fromhex("00810000000003e8a2a9c35000001c20")
PCP_ANNOUNCE = bytes.fromhex("020000000000000000000000000000000000ffffc0a8010a")
PCP_MAP = bytes.fromhex(
    "0201000000001c2000000000000000000000ffffc0a8010a000102030405060708090a0b11000000a2a9000000000000000000000000"
    "ffff00000000"
)
PCP_MAP_REPLY = bytes.fromhex(
    "0281000000001c20000003e8000000000000000000000000000102030405060708090a0b11000000a2a9c35000000000000000000000"
    "ffffcb007107"
)
PCP_ANNOUNCE_REPLY = bytes.fromhex("0280000000000000000003e8000000000000000000000000")


def test_pmp_requests_have_their_bytes() -> None:
    assert natpmp.ADDRESS_REQUEST.hex() == "0000"
    assert natpmp.encode_map_request(41641, 41641, 7200).hex() == "00010000a2a9a2a900001c20"
    with pytest.raises(LocalProtocolError):
        natpmp.encode_map_request(70000, 0, 0)


def test_pmp_replies_are_read() -> None:
    assert natpmp.parse_reply(PMP_ADDRESS_REPLY) == natpmp.AddressReply(1000, "203.0.113.7")
    assert natpmp.parse_reply(PMP_MAP_REPLY) == natpmp.MapReply(1000, 41641, 50000, 7200)
    assert natpmp.parse_reply(PMP_ADDRESS_REPLY[:8] + bytes(4)) == natpmp.AddressReply(1000, "")


def test_pmp_refusals_are_words_and_may_be_short() -> None:
    refused = natpmp.parse_reply(bytes.fromhex("00810002000003e8"))
    assert refused == natpmp.Refused(1, 2, 1000)
    assert isinstance(refused, natpmp.Refused)
    assert refused.word == "not-authorized"
    assert natpmp.Refused(1, 77, 0).word == "result-77"


def test_pcp_requests_have_their_bytes() -> None:
    assert pcp.encode_announce("192.168.1.10") == PCP_ANNOUNCE
    assert pcp.encode_map(pcp.MapRequest("192.168.1.10", NONCE, 41641, 0, 7200)) == PCP_MAP
    with pytest.raises(LocalProtocolError):
        pcp.encode_map(pcp.MapRequest("192.168.1.10", b"short", 41641))
    with pytest.raises(LocalProtocolError):
        pcp.encode_map(pcp.MapRequest("192.168.1.10", NONCE, -1))


def test_pcp_replies_are_read() -> None:
    assert pcp.parse_reply(PCP_MAP_REPLY) == pcp.MapReply(1000, NONCE, 41641, 50000, "203.0.113.7", 7200)
    assert pcp.parse_reply(PCP_ANNOUNCE_REPLY) == pcp.AnnounceReply(1000)


def test_pcp_refusals_carry_the_nonce_if_they_have_one() -> None:
    body = bytearray(PCP_MAP_REPLY)
    body[3] = 8
    refused = pcp.parse_reply(bytes(body))
    assert refused == pcp.Refused(1, 8, 1000, 7200, NONCE)
    assert isinstance(refused, pcp.Refused)
    assert refused.word == "no-resources"
    assert pcp.parse_reply(bytes(body[:24])) == pcp.Refused(1, 8, 1000, 7200)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (PCP_ANNOUNCE, "pcp-not-a-reply"),
        (b"\x01" + PCP_MAP_REPLY[1:], "pcp-wrong-version"),
        (PCP_MAP_REPLY + b"x", "pcp-wrong-size"),
        (PCP_MAP_REPLY + bytes(1100), "pcp-wrong-size"),
        (PCP_MAP_REPLY[:36] + b"\x06" + PCP_MAP_REPLY[37:], "pcp-wrong-protocol"),
        (b"\x02\x83" + PCP_MAP_REPLY[2:], "pcp-wrong-opcode"),
    ],
    ids=["request", "version", "odd", "long", "tcp", "opcode"],
)
def test_what_is_no_pcp_reply_is_dropped(data: bytes, reason: str) -> None:
    assert pcp.parse_reply(data) == Dropped(reason)


def test_what_is_no_pmp_reply_is_dropped() -> None:
    assert natpmp.parse_reply(b"\x01" + PMP_MAP_REPLY[1:]) == Dropped("pmp-wrong-version")
    assert natpmp.parse_reply(b"\x00\x82" + PMP_MAP_REPLY[2:]) == Dropped("pmp-wrong-opcode")


def test_every_truncation_is_dropped() -> None:
    for data in (PMP_ADDRESS_REPLY, PMP_MAP_REPLY):
        for size in range(len(data)):
            assert isinstance(natpmp.parse_reply(data[:size]), Dropped)
    for size in range(len(PCP_MAP_REPLY)):
        assert isinstance(pcp.parse_reply(PCP_MAP_REPLY[:size]), Dropped)


@given(st.binary(max_size=80))
def test_junk_never_raises(data: bytes) -> None:
    for parse in (natpmp.parse_reply, pcp.parse_reply, ssdp.parse_answer, ssdp.parse_notice):
        parse(data)


@given(st.integers(0, 65535), st.integers(0, 65535), st.integers(0, 2**32 - 1), st.binary(min_size=12, max_size=12))
def test_what_pcp_asks_is_what_a_gateway_would_echo(internal: int, external: int, life: int, nonce: bytes) -> None:
    request = pcp.encode_map(pcp.MapRequest("10.0.0.2", nonce, internal, external, life, "203.0.113.9"))
    reply = bytes((2, 0x81, 0, 0)) + request[4:8] + (5).to_bytes(4, "big") + bytes(12) + request[24:]
    assert pcp.parse_reply(reply) == pcp.MapReply(5, nonce, internal, external, "203.0.113.9", life)


@pytest.mark.parametrize(
    ("is_pcp", "first", "later", "elapsed", "restarted"),
    [
        (False, 1000, 1100, 100.0, False),
        (False, 1000, 1086, 100.0, False),  # slow by an eighth, and two seconds
        (False, 1000, 1085, 100.0, True),
        (False, 1000, 5000, 100.0, False),  # a fast clock means nothing
        (False, 1000, 0, 100.0, True),
        (True, 1000, 1100, 100.0, False),
        (True, 1000, 1092, 100.0, False),
        (True, 1000, 1091, 100.0, True),
        (True, 1000, 1108, 100.0, False),
        (True, 1000, 1109, 100.0, True),
        (True, 1000, 999, 0.0, False),  # a second back: reordered
        (True, 1000, 998, 0.0, True),
    ],
)
def test_an_epoch_that_is_not_where_it_should_be_means_a_restart(
    is_pcp: bool, first: int, later: int, elapsed: float, restarted: bool
) -> None:
    clock = EpochClock(is_pcp)
    assert clock.observe(first, 50.0) is False
    assert clock.observe(later, 50.0 + elapsed) is restarted
    assert clock.observe(later, 50.0 + elapsed) is False


ANSWER = (
    b"HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n"
    b"USN: uuid:1::urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\nSERVER: x\r\n"
    b"Location: http://192.168.1.1:5000/rootDesc.xml\r\nBOOTID.UPNP.ORG: 7\r\n\r\n"
)
NOTIFY = (
    b"NOTIFY * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nNT: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n"
    b"NTS: ssdp:%s\r\nLOCATION: http://192.168.1.1:5000/rootDesc.xml\r\n01-NLS: 8\r\n\r\n"
)


def test_ssdp_search_has_its_lines() -> None:
    assert ssdp.encode_search(ssdp.ALL) == (
        b'M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nST: ssdp:all\r\nMAN: "ssdp:discover"\r\nMX: 2\r\n\r\n'
    )


def test_ssdp_answers_and_notices_are_read() -> None:
    usn = "uuid:1::urn:schemas-upnp-org:device:InternetGatewayDevice:1"
    assert ssdp.parse_answer(ANSWER) == ssdp.Answer("http://192.168.1.1:5000/rootDesc.xml", "x", usn, "7")
    assert ssdp.parse_notice(NOTIFY % b"alive") == ssdp.Notice(True, "8")
    assert ssdp.parse_notice(NOTIFY % b"byebye") == ssdp.Notice(False, "8")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (ANSWER.replace(b"200", b"404"), "ssdp-not-an-answer"),
        (ANSWER.replace(b"InternetGatewayDevice", b"MediaServer"), "ssdp-not-a-gateway"),
        (ANSWER.replace(b"Location", b"Elsewhere"), "ssdp-no-location"),
        (ANSWER.replace(b"/rootDesc.xml", b"/" + b"x" * 600), "ssdp-no-location"),
        (ANSWER + b"x" * 3000, "ssdp-too-long"),
        (ANSWER.replace(b"OK", b"\xff"), "ssdp-not-text"),
        (b"", "ssdp-not-an-answer"),
    ],
)
def test_other_ssdp_answers_are_dropped(data: bytes, reason: str) -> None:
    assert ssdp.parse_answer(data) == Dropped(reason)


def test_igd_2_comes_before_igd_1_and_each_device_once() -> None:
    one = ssdp.Answer("http://a/", "s", "uuid::urn:x:InternetGatewayDevice:1")
    two = ssdp.Answer("http://a/", "s", "uuid::urn:x:InternetGatewayDevice:2")
    other = ssdp.Answer("http://b/", "s", "uuid::urn:x:InternetGatewayDevice:1")
    assert ssdp.distinct([one, other, two, one]) == [two, other]
