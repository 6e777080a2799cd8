"""Golden bytes: computed with hashlib, hmac, PyNaCl and cryptography apart from this code.

Private keys are the clamped SHA-256 of a label; PSK 00…1f; unix time 1700000000, nanoseconds 0x12000000.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest

from coder_agent.base.burst import Burst
from coder_agent.base.keys import NodePrivate
from coder_agent.protocols.effects import Transmit
from coder_agent.protocols.wireguard import Device, noise
from coder_agent.protocols.wireguard.cookie import MacChecker, MacStamper
from coder_agent.protocols.wireguard.messages import (
    build_initiation,
    build_response,
    message_type,
    padded_size,
    parse_cookie_reply,
    parse_initiation,
    parse_response,
)
from coder_agent.protocols.wireguard.primitives import next_stamp, shared_secret, tai64n

SI = "f095cccf1acb50d7264c24df1872cc09a85df1b64681bbfad49b55d03be06b54"
SI_PUBLIC = "6bc046129e3e7b736761a67a42898d9b3481423894defa692ffcb2869eb26953"
SR = "38ede09cbc37f80dbf0aa027f98230c25be969c03b73cef3f353b8aaf7f3146d"
SR_PUBLIC = "ab1e343e7c75ab7edd0e27e710a00bb8e51fa9043eff65d2c5383096345f134c"
EI = "7846e9adc79bad1d060a82438cd00ce8c0cc1a20638146dad918a9090f0b156a"
ER = "d887d2b5284601b446ad46423b6c14886b349d28f69a55473787947f0c0ce24c"
PSK = bytes(range(32))
STAMP = bytes.fromhex("400000006553f10a12000000")
INITIATION = bytes.fromhex(
    "0100000044332211de38b2d743b3be55d3636c7e00e54dd1dfcc1b909209d410f3779766101d4b35e894f1c51e34d664aff0322b970c13b8"
    "6040a37ccac9efa419f8ac4eebcac5c64453477f3802e9e95d8779ce19cc2d34046c764a92cc7ee0a4177fd41ac1791d3289b3e501cd53ee"
    "b4d8dd637ef244491e7b4f85b7487b5708d977b000000000000000000000000000000000"
)
CHAIN = "21b126e7553429e05e69de95e7c2f7618e5faf4c4339a50e7dbad4fce764f690"
HASH = "1b9053087717e9071562b4e12510f2810243c4a66369da22e0f9f0be1137920b"
RESPONSE = bytes.fromhex(
    "0200000088776655443322112d4cb155435f783efcf7270e90d6a869143bba45095274f02c455ab258c42441ac542da229b008e6d64a3357"
    "15e804654b483aa494f358c6729bcd74a8818a7a00000000000000000000000000000000"
)
T1 = "3cc601401d33daccfc7bd02746c1291fb7db7f0498c39210e06c9e74ee754980"
T2 = "e251f6d6976625c86ebd7d7bddb690ee738c4fe16118f297a79c4b29ff57e02a"
KEEPALIVE = "040000008877665500000000000000006043cd05a34797e9b8175be91d975c3b"
HELLO = "04000000887766550100000000000000b6edfa8237a390844e43f1afd616c37d0f4d51afc20c8d75eb78e48d08b2ca87"
COOKIE_REPLY = bytes.fromhex(
    "0300000044332211000102030405060708090a0b0c0d0e0f1011121314151617a883abce36c1d216d12546fbd1b213af989fc71688e1cffd"
    "ab43c225f6681ac7"
)
MAC2 = "85b82c67021da18993b0fd7bb89e4bc7"


def scripted(*values: bytes) -> Callable[[int], bytes]:
    """Randomness that was decided before; extra draws (jitter) are zero."""
    left = list(values)
    return lambda size: left.pop(0) if left and len(left[0]) == size else bytes(size)


def test_labels_give_the_keys_of_the_vectors() -> None:
    private = NodePrivate(hashlib.sha256(b"wg-static-i").digest())
    assert private.secret.hex() == SI
    assert private.public().raw.hex() == SI_PUBLIC


def test_initial_chain_and_hash() -> None:
    assert noise._CHAIN_0.hex() == "60e26daef327efc02ec335e2a025d2d016eb4206f87277f52d38d1988b78cd36"
    assert noise._HASH_0.hex() == "2211b361081ac566691243db458ad5322d9c6c662293e8b70ee19c65ba079ef3"


def test_handshake_states_byte_by_byte() -> None:
    initiator, responder = noise.Identity(bytes.fromhex(SI)), noise.Identity(bytes.fromhex(SR))
    static_static = shared_secret(initiator.private, responder.public)
    message, created = noise.create_initiation(
        initiator, responder.public, static_static, bytes.fromhex(EI), 0x11223344, STAMP
    )
    assert MacStamper(responder.public).stamp(build_initiation(message), 0.0) == INITIATION
    assert (created.transcript.chain.hex(), created.transcript.hash.hex()) == (CHAIN, HASH)

    consumed = noise.read_initiation(responder, parse_initiation(INITIATION)).authenticate(static_static)
    assert (consumed.static.hex(), consumed.stamp) == (SI_PUBLIC, STAMP)
    response, theirs = consumed.respond(PSK, bytes.fromhex(ER), 0x55667788)
    assert MacStamper(initiator.public).stamp(build_response(response), 0.0) == RESPONSE

    ours = created.consume(parse_response(RESPONSE), PSK)
    assert (ours.send.hex(), ours.receive.hex()) == (T1, T2)
    assert (theirs.receive, theirs.send) == (ours.send, ours.receive)


@pytest.mark.parametrize("vector", [False, True])
def test_two_devices_say_the_same_bytes(vector: bool) -> None:
    si, sr = NodePrivate(bytes.fromhex(SI)), NodePrivate(bytes.fromhex(SR))
    index = [(0x11223344).to_bytes(4, "little"), (0x55667788).to_bytes(4, "little")]
    # A third of a millisecond is below the resolution of the stamp: its low 24 bits are cleared.
    initiator = Device(si, rng=scripted(index[0], bytes.fromhex(EI)), wall=lambda: 1700000000.3023, vector=vector)
    responder = Device(sr, rng=scripted(index[1], bytes.fromhex(ER)), wall=lambda: 0.0, vector=vector)
    initiator.add_peer(sr.public(), psk=PSK)
    responder.add_peer(si.public(), psk=PSK)

    def messages(effects: list[object]) -> list[bytes]:
        return [bytes(e.burst.row(0)) for e in effects if isinstance(e, Transmit)]

    assert messages([*initiator.initiate(sr.public(), 0.0)]) == [INITIATION]
    assert messages([*responder.receive(Burst.of(INITIATION), "i", 0.0)]) == [RESPONSE]
    assert messages([*initiator.receive(Burst.of(RESPONSE), "r", 0.0)]) == [bytes.fromhex(KEEPALIVE)]
    assert messages([*initiator.send(sr.public(), Burst.of(b"hello"), 0.0)]) == [bytes.fromhex(HELLO)]


def test_cookie_reply_and_mac2() -> None:
    responder = bytes.fromhex(SR_PUBLIC)
    source = bytes.fromhex("c0000201ca6c")
    checker = MacChecker(responder, scripted(bytes(range(0x20, 0x40)), bytes(range(24))))
    assert checker.has_mac1(INITIATION)
    assert not checker.has_mac2(INITIATION, source, 0.0)
    assert checker.reply(INITIATION, source, 0.0) == COOKIE_REPLY

    stamper = MacStamper(responder)
    assert stamper.stamp(INITIATION[:-32], 0.0) == INITIATION
    assert stamper.take_cookie(parse_cookie_reply(COOKIE_REPLY), 0.0)
    with_mac2 = stamper.stamp(INITIATION[:-32], 119.9)
    assert with_mac2 == INITIATION[:-16] + bytes.fromhex(MAC2)
    assert checker.has_mac2(with_mac2, source, 119.9)
    assert not checker.has_mac2(with_mac2, b"elsewhere", 119.9)
    assert not checker.has_mac2(with_mac2, source, 120.0)
    assert stamper.stamp(INITIATION[:-32], 120.0) == INITIATION


def test_cookie_reply_is_taken_once_and_only_for_the_last_message() -> None:
    stamper = MacStamper(bytes.fromhex(SR_PUBLIC))
    reply = parse_cookie_reply(COOKIE_REPLY)
    assert not stamper.take_cookie(reply, 0.0)
    stamper.stamp(b"another message", 0.0)
    assert not stamper.take_cookie(reply, 0.0)
    stamper.stamp(INITIATION[:-32], 0.0)
    assert not stamper.take_cookie(reply._replace(cookie=bytes(32)), 0.0)
    assert stamper.take_cookie(reply, 0.0)
    assert not stamper.take_cookie(reply, 0.0)


def test_cookie_reply_to_another_secret_period_differs() -> None:
    checker = MacChecker(bytes(32), scripted(b"1" * 32, bytes(24), b"2" * 32, bytes(24)))
    first = checker.reply(INITIATION, b"s", 0.0)
    assert checker.reply(INITIATION, b"s", 119.0) == first
    assert checker.reply(INITIATION, b"s", 120.0) != first


def test_time_stamps_sort_like_time() -> None:
    assert tai64n(1700000000.3023) == STAMP
    times = [0.0, 0.5, 1.0, 1699999999.99, 1700000000.0, 1700000000.02]
    stamps = [tai64n(t) for t in times]
    assert stamps == sorted(set(stamps))
    assert tai64n(1700000000.001) == tai64n(1700000000.016)


def test_next_stamp_is_greater_and_carries_into_seconds() -> None:
    assert next_stamp(STAMP).hex() == "400000006553f10a13000000"
    late = tai64n(1700000000.9999)
    assert next_stamp(late).hex() == "400000006553f10b00000000"


@pytest.mark.parametrize(
    ("size", "mtu", "padded"),
    [
        (0, 1280, 0),
        (1, 1280, 16),
        (16, 1280, 16),
        (1265, 1280, 1280),
        (1279, 1280, 1280),
        (1280, 1280, 1280),
        (1297, 1300, 1300),
        (1300, 1300, 1300),
        (1296, 1300, 1296),
        (1400, 1280, 1400),
    ],
)
def test_padding_stops_at_the_mtu(size: int, mtu: int, padded: int) -> None:
    assert padded_size(size, mtu) == padded


def test_message_type_needs_exact_length_and_zero_reserved_bytes() -> None:
    assert [message_type(m) for m in (INITIATION, RESPONSE, COOKIE_REPLY)] == [1, 2, 3]
    for message in (INITIATION, RESPONSE, COOKIE_REPLY):
        assert all(message_type(message[:n]) == 0 for n in range(len(message)))
        assert message_type(message + b"\0") == 0
        assert all(message_type(message[:i] + b"\1" + message[i + 1 :]) == 0 for i in (1, 2, 3))


def test_private_parts_stay_out_of_reprs() -> None:
    identity = noise.Identity(bytes.fromhex(SI))
    keys = noise.TransportKeys(bytes.fromhex(T1), bytes.fromhex(T2))
    read = noise.read_initiation(noise.Identity(bytes.fromhex(SR)), parse_initiation(INITIATION))
    for value in (identity, keys, read):
        assert not any(secret in repr(value) for secret in (SI, T1, T2, repr(bytes.fromhex(T1))))
