"""The disco envelope: golden packets, and everything that must not open."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coder_agent.base.addresses import AddrPort
from coder_agent.base.keys import DiscoPrivate, DiscoPublic, NodePublic
from coder_agent.protocols.disco import (
    OVERHEAD,
    CallMeMaybe,
    Ping,
    Pong,
    looks_like_disco,
    open_sealed,
    precompute,
    seal,
    sender_of,
)

A = DiscoPrivate(hashlib.sha256(b"disco-A").digest())
B = DiscoPrivate(hashlib.sha256(b"disco-B").digest())
A_PUBLIC = "c8074e4ecd57ba798eebab4169b8adf459fc466b72513669c3261f1217c7f951"
B_PUBLIC = "14a22f2d082107967b91be12ff97bdc8ec7c3b442a83ac84c7d667c8e18ff136"
SHARED = bytes.fromhex("0d7e84e7ec4416a98a78285f28fcf0f28103057d1344ab6080e6a2e5047a837c")
NONCE = bytes(range(0x40, 0x58))
TXID = bytes(range(0xA0, 0xAC))
NODE = NodePublic(bytes.fromhex("7ab41fb62042d82e6c02289b0b0bf2da6400831966fe8cde56f727a4e74b2b6b"))
PING_PACKET = bytes.fromhex(
    "5453f09f92acc8074e4ecd57ba798eebab4169b8adf459fc466b72513669c3261f1217c7f951404142434445464748494a4b4c4d4e4f"
    "505152535455565752d125a142555cc20e50b055291c5255c8064f8e6e441d92c53a956d99bc7cbe742a30270bd3441d6b45d6320abff4"
    "f42f3f8741f05c5fc7c3cc64fc095c"
)
PONG_PACKET = bytes.fromhex(
    "5453f09f92acc8074e4ecd57ba798eebab4169b8adf459fc466b72513669c3261f1217c7f951404142434445464748494a4b4c4d4e4f"
    "50515253545556579634b8ec4ce807d0b852a0e0b7e7e5a6cb064f8e6e441d92c53a956d99bc060a6b9c1065d3fd281fbc211639896232"
    "5d"
)


def test_keys_and_shared_secret_golden() -> None:
    assert A.public().raw.hex() == A_PUBLIC
    assert B.public().raw.hex() == B_PUBLIC
    assert precompute(A, B.public()) == precompute(B, A.public()) == SHARED


def test_ping_packet_golden() -> None:
    packet = seal(A.public(), SHARED, NONCE, Ping(TXID, NODE).encode())
    assert packet == PING_PACKET
    assert len(packet) == 124


def test_pong_packet_golden() -> None:
    packet = seal(A.public(), SHARED, NONCE, Pong(TXID, AddrPort("203.0.113.7", 41641)).encode())
    assert packet == PONG_PACKET
    assert len(packet) == 110


def test_call_me_maybe_packet_golden() -> None:
    call = CallMeMaybe((AddrPort("203.0.113.7", 41641), AddrPort("2001:db8::1", 41641)))
    packet = seal(A.public(), SHARED, NONCE, call.encode())
    assert len(packet) == 116
    assert hashlib.sha256(packet).hexdigest() == "09cfe60e5dec4c9bc544e45f637f24e311dfb35c9bb976b399c052de60382609"


def test_receiver_opens_what_the_sender_sealed() -> None:
    assert looks_like_disco(PING_PACKET)
    assert sender_of(PING_PACKET) == A.public().raw
    assert open_sealed(memoryview(PING_PACKET), SHARED) == Ping(TXID, NODE).encode()


@given(st.binary(max_size=1400), st.binary(min_size=24, max_size=24))
def test_any_plaintext_survives(plaintext: bytes, nonce: bytes) -> None:
    packet = seal(A.public(), SHARED, nonce, plaintext)
    assert len(packet) == OVERHEAD + len(plaintext)
    assert open_sealed(packet, SHARED) == plaintext


def test_packet_cut_at_every_byte_does_not_open() -> None:
    for size in range(len(PING_PACKET)):
        assert open_sealed(PING_PACKET[:size], SHARED) is None
        assert looks_like_disco(PING_PACKET[:size]) == (size >= 38)


@given(st.integers(38, 123), st.integers(1, 255))
def test_a_changed_byte_does_not_open(position: int, mask: int) -> None:
    forged = bytearray(PING_PACKET)
    forged[position] ^= mask
    assert open_sealed(bytes(forged), SHARED) is None


def test_another_key_does_not_open() -> None:
    assert open_sealed(PING_PACKET, bytes(32)) is None


@pytest.mark.parametrize("weak", [bytes(32), b"\x01" + bytes(31)])
def test_weak_public_keys_share_nothing(weak: bytes) -> None:
    assert precompute(A, DiscoPublic(weak)) is None
