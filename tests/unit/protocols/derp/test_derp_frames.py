"""Golden frames (computed with NaCl bindings from fixed keys and nonces) and the two login boxes."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coder_agent.base.addresses import AddrPort
from coder_agent.base.keys import NodePrivate, NodePublic
from coder_agent.errors import RemoteProtocolError
from coder_agent.protocols.derp import frames
from coder_agent.protocols.derp.frames import FrameType, GoneReason, PresentFlag
from coder_agent.protocols.derp.login import (
    ClientInfo,
    ServerInfo,
    client_info_frame,
    open_client_info,
    open_server_info,
    parse_server_key,
    same_mesh_key,
    server_info_frame,
)


def private(label: str) -> NodePrivate:
    return NodePrivate(hashlib.sha256(label.encode()).digest())


SERVER, A, B = private("derp-server"), private("derp-client-A"), private("derp-client-B")
B_HEX = "aa4086a1463d011d5f516075144bbec0921922e05b5b8a2fdcc2d5f2f9876209"
A_HEX = "7ab41fb62042d82e6c02289b0b0bf2da6400831966fe8cde56f727a4e74b2b6b"
CLIENT_INFO = (
    "02000000687ab41fb62042d82e6c02289b0b0bf2da6400831966fe8cde56f727a4e74b2b6b000102030405060708090a0b0c0d0e0f10111213"
    "14151617ffc26394f7979637ce74e2969cac32e602ecb9e2197bb636b7d744a9a4004b555e4927e2bbd0d3d852125b41494efcb3"
)
SERVER_INFO = (
    "03000000356465666768696a6b6c6d6e6f707172737475767778797a7b1e9f71e1aefb1f4c2fa27296811e017369c586ca0f6fbe69c1be54c2"
    "1e"
)


def nonce_from(start: int) -> object:
    return lambda size: bytes(range(start, start + size))


def test_keys_of_the_vectors() -> None:
    assert A.public().raw.hex() == A_HEX
    assert B.public().raw.hex() == B_HEX


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (
            frames.server_key(SERVER.public().raw),
            "010000002844455250f09f94911a58a200af0a73128b72d7e8e3a8eaf626199889414fa8dd29227bc762272605",
        ),
        (frames.send_packet(B.public().raw, b"hi"), f"0400000022{B_HEX}6869"),
        (frames.recv_packet(A.public().raw, b"hi"), f"0500000022{A_HEX}6869"),
        (frames.peer_gone(B.public().raw, GoneReason.NOT_HERE), f"0800000021{B_HEX}01"),
        (
            frames.peer_present(B.public().raw, AddrPort("203.0.113.7", 41641), PresentFlag.REGULAR),
            f"0900000033{B_HEX}00000000000000000000ffffcb007107a2a901",
        ),
        (frames.note_preferred(True), "070000000101"),
        (frames.keep_alive(), "0600000000"),
        (frames.ping(bytes(range(1, 9))), "12000000080102030405060708"),
        (frames.pong(bytes(range(1, 12))), "13000000080102030405060708"),
        (frames.restarting(1500, 4000), "1500000008000005dc00000fa0"),
        (frames.health(""), "1400000000"),
        (frames.forward_packet(A.public().raw, B.public().raw, b"hi"), f"0a00000042{A_HEX}{B_HEX}6869"),
    ],
)
def test_golden_frames(frame: bytes, expected: str) -> None:
    assert frame.hex() == expected


def test_golden_client_info() -> None:
    frame = client_info_frame(A, SERVER.public(), ClientInfo(can_ack_pings=True), nonce_from(0))  # type: ignore[arg-type]
    assert frame.hex() == CLIENT_INFO
    key, info = open_client_info(SERVER, frame[5:])
    assert key == A.public()
    assert info == ClientInfo(version=2, can_ack_pings=True)


def test_golden_server_info() -> None:
    frame = server_info_frame(SERVER, A.public(), ServerInfo(), nonce_from(0x64))  # type: ignore[arg-type]
    assert frame.hex() == SERVER_INFO
    assert open_server_info(A, SERVER.public(), frame[5:]) == ServerInfo(version=2)


def test_client_info_truncated_anywhere_is_refused() -> None:
    payload = bytes.fromhex(CLIENT_INFO)[5:]
    for size in range(len(payload)):
        with pytest.raises(RemoteProtocolError):
            open_client_info(SERVER, payload[:size])


def test_server_info_truncated_anywhere_is_refused() -> None:
    payload = bytes.fromhex(SERVER_INFO)[5:]
    for size in range(len(payload)):
        with pytest.raises(RemoteProtocolError):
            open_server_info(A, SERVER.public(), payload[:size])


def test_a_box_from_somebody_else_is_refused() -> None:
    frame = client_info_frame(B, SERVER.public(), ClientInfo(), nonce_from(0))  # type: ignore[arg-type]
    forged = A.public().raw + frame[5 + 32 :]
    with pytest.raises(RemoteProtocolError):
        open_client_info(SERVER, forged)


def test_the_zero_key_cannot_log_in() -> None:
    with pytest.raises(RemoteProtocolError):
        open_client_info(SERVER, bytes(32) + bytes(24) + bytes(40))


@pytest.mark.parametrize(
    ("text", "info"),
    [
        (b'{"VERSION":2,"canackpings":true,"future":[1]}', ClientInfo(2, None, True)),
        (
            b'{"version":2,"IsProber":true,"AppName":"tailcat-client"}',
            ClientInfo(2, None, False, True, "tailcat-client"),
        ),
        (b'{"meshKey":"' + b"ab" * 32 + b'"}', ClientInfo(0, b"\xab" * 32)),
    ],
)
def test_client_info_is_read_as_go_reads(text: bytes, info: ClientInfo) -> None:
    assert ClientInfo.from_json(text) == info


@pytest.mark.parametrize(
    "text",
    [
        b"", b"[]", b"null", b"{", b'{"meshKey":""}', b'{"meshKey":"zz"}', b'{"meshKey":"' + b"zz" * 32 + b'"}',
        b'{"version":"2"}', b'{"version":true}', b'{"CanAckPings":1}', b'{"AppName":5}', b"[" * 100_000, b"\xff",
    ],
)  # fmt: skip
def test_bad_client_info_is_refused(text: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        ClientInfo.from_json(text)


def test_an_absent_mesh_key_is_left_out() -> None:
    assert ClientInfo(app_name="x").to_json() == b'{"version":2,"CanAckPings":false,"AppName":"x"}'


@given(
    st.builds(
        ClientInfo,
        version=st.integers(0, 9),
        mesh_key=st.none() | st.binary(min_size=32, max_size=32),
        can_ack_pings=st.booleans(),
        is_prober=st.booleans(),
        app_name=st.text(max_size=20),
    )
)
def test_client_info_round_trip(info: ClientInfo) -> None:
    assert ClientInfo.from_json(info.to_json()) == info


@given(st.builds(ServerInfo, st.integers(0, 9), st.integers(0, 1 << 40), st.integers(0, 1 << 40)))
def test_server_info_round_trip(info: ServerInfo) -> None:
    assert ServerInfo.from_json(info.to_json()) == info


def test_server_key_tail_is_ignored_and_magic_checked() -> None:
    payload = frames.server_key(SERVER.public().raw)[5:]
    assert parse_server_key(payload + b"future") == SERVER.public()
    for bad in (payload[:-1], b"x" + payload[1:], frames.MAGIC + bytes(32)):
        with pytest.raises(RemoteProtocolError):
            parse_server_key(bad)


def test_peer_present_of_every_age() -> None:
    payload = frames.peer_present(B.public().raw, AddrPort("203.0.113.7", 41641), PresentFlag.PROBER)[5:]
    assert frames.parse_peer_present(payload) == (B.public().raw, AddrPort("203.0.113.7", 41641), PresentFlag.PROBER)
    assert frames.parse_peer_present(payload[:50])[2] == PresentFlag(0)
    assert frames.parse_peer_present(payload[:32]) == (B.public().raw, None, PresentFlag(0))


def test_frame_types_are_the_wire_numbers() -> None:
    assert [int(kind) for kind in FrameType] == [*range(1, 11), *range(0x10, 0x16)]


def test_mesh_keys_compare() -> None:
    assert same_mesh_key(b"a" * 32, b"a" * 32)
    assert not same_mesh_key(b"a" * 32, b"b" * 32)
    assert not same_mesh_key(None, None)
    assert not same_mesh_key(b"a" * 32, None)


def test_public_key_type() -> None:
    assert isinstance(parse_server_key(frames.server_key(SERVER.public().raw)[5:]), NodePublic)
