"""Telling apart what shares one UDP socket."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coder_agent.base.burst import Burst
from coder_agent.magicsock.demux import PacketKind, classify, classify_burst

MAGIC = bytes.fromhex("5453f09f92ac")
STUN = bytes.fromhex("000100002112a442") + bytes(12)
DATA = b"\x04\0\0\0" + bytes(60)


@pytest.mark.parametrize(
    ("packet", "kind"),
    [
        pytest.param(STUN, PacketKind.STUN, id="STUN request"),
        pytest.param(b"\x01" + STUN[1:], PacketKind.STUN, id="STUN success response"),
        pytest.param(STUN[:19], PacketKind.OTHER, id="STUN cut short"),
        pytest.param(STUN[:4] + b"\x21\x12\xa4\x43" + STUN[8:], PacketKind.OTHER, id="STUN without cookie"),
        pytest.param(b"\x40" + STUN[1:], PacketKind.OTHER, id="STUN with a top bit"),
        pytest.param(MAGIC + bytes(32), PacketKind.DISCO, id="shortest disco"),
        pytest.param(MAGIC + bytes(31), PacketKind.OTHER, id="disco cut short"),
        pytest.param(MAGIC + bytes(1304), PacketKind.DISCO, id="padded disco"),
        pytest.param(b"\x01\0\0\0" + bytes(144), PacketKind.WIREGUARD, id="initiation"),
        pytest.param(b"\x02\0\0\0" + bytes(88), PacketKind.WIREGUARD, id="response"),
        pytest.param(b"\x03\0\0\0" + bytes(60), PacketKind.WIREGUARD, id="cookie"),
        pytest.param(b"\x04\0\0\0" + bytes(28), PacketKind.WIREGUARD, id="keepalive"),
        pytest.param(b"\x04\0\0\0" + bytes(27), PacketKind.OTHER, id="too short for WireGuard"),
        pytest.param(b"\x05\0\0\0" + bytes(60), PacketKind.OTHER, id="unknown WireGuard type"),
        pytest.param(b"\x04\0\1\0" + bytes(60), PacketKind.OTHER, id="reserved bytes"),
        pytest.param(bytes.fromhex("00007a1200000100") + DATA, PacketKind.OTHER, id="Geneve"),
        pytest.param(b"\x07", PacketKind.OTHER, id="the kernel-bug byte"),
        pytest.param(b"", PacketKind.OTHER, id="empty"),
    ],
)
def test_classify(packet: bytes, kind: PacketKind) -> None:
    assert classify(packet) is kind
    assert classify(memoryview(packet)) is kind


def burst(*packets: bytes, headroom: int = 0) -> Burst:
    stride = max(map(len, packets)) + headroom
    buffer = b"".join((bytes(headroom) + packet).ljust(stride, b"\xee") for packet in packets)
    return Burst(memoryview(buffer), headroom, stride, len(packets), len(packets[0]), len(packets[-1]), headroom)


def test_a_burst_of_data_is_wireguard() -> None:
    assert classify_burst(burst(DATA, DATA, DATA[:40])) is PacketKind.WIREGUARD
    assert classify_burst(burst(DATA, DATA, DATA, headroom=37)) is PacketKind.WIREGUARD


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_ping_amid_data_makes_the_burst_mixed(position: int) -> None:
    packets = [DATA, DATA, DATA]
    packets[position] = (MAGIC + bytes(64))[: len(DATA)]
    assert classify_burst(burst(*packets)) is None


def test_a_burst_of_one_is_its_packet() -> None:
    assert classify_burst(burst(MAGIC + bytes(60))) is PacketKind.DISCO
    assert classify_burst(burst(STUN)) is PacketKind.STUN


def test_a_burst_of_empty_datagrams_is_nothing() -> None:
    assert classify_burst(burst(b"", b"", b"")) is PacketKind.OTHER


@given(st.binary(max_size=80))
def test_anything_has_a_kind(junk: bytes) -> None:
    assert isinstance(classify(junk), PacketKind)
