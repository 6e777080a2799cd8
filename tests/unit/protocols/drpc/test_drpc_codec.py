"""dRPC: golden packets, reassembly cut anywhere, and calls as transcripts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coder_agent.errors import LocalProtocolError, RemoteProtocolError
from coder_agent.protocols.drpc import (
    MAX_MESSAGE,
    SPLIT_SIZE,
    UNIMPLEMENTED,
    Cancelled,
    DrpcStream,
    Failed,
    Invoked,
    Kind,
    MessageReceived,
    Packet,
    PacketReader,
    RemoteClosed,
    SendClosed,
    encode_packet,
)

RPC = "/t.T/Do"


@pytest.mark.parametrize(
    ("packet", "golden"),
    [
        # done bit 1, kind in bits 1–6: invoke 0x03, message 0x05, error 0x07, cancel 0x09, close 0x0b, close-send 0x0d
        (encode_packet(1, 1, Kind.INVOKE, b"/a/B"), "03010104" + b"/a/B".hex()),
        (encode_packet(1, 2, Kind.MESSAGE, b"\x0a\x01x"), "050102030a0178"),
        (encode_packet(1, 3, Kind.CLOSE_SEND), "0d010300"),
        (encode_packet(1, 4, Kind.CLOSE), "0b010400"),
        (encode_packet(1, 5, Kind.CANCEL, control=True), "89010500"),
        (encode_packet(300, 128, Kind.MESSAGE, b"x"), "05ac02800101" + b"x".hex()),
        (encode_packet(1, 2, Kind.MESSAGE, b"abcde", split=2), "040102026162" + "040102026364" + "0501020165"),
    ],
)
def test_packets_have_the_stock_layout(packet: bytes, golden: str) -> None:
    assert packet.hex() == golden


def test_an_error_is_a_code_and_a_text() -> None:
    server = DrpcStream(client=False)
    server.receive(encode_packet(1, 1, Kind.INVOKE, RPC.encode()))
    assert server.error(UNIMPLEMENTED, "no") == encode_packet(1, 1, Kind.ERROR, bytes(7) + b"\x0cno")


@given(
    st.lists(st.tuples(st.sampled_from([1, 2, 3, 5, 6]), st.booleans(), st.binary(max_size=300)), max_size=8),
    st.integers(1, 64),
    st.integers(1, 50),
)
def test_packets_survive_splitting_and_cutting(packets: list[tuple[int, bool, bytes]], split: int, cut: int) -> None:
    wire = b""
    expected = []
    for i, (kind, control, data) in enumerate(packets, 1):
        wire += encode_packet(7, i, kind, data, control=control, split=split)
        expected.append(Packet(7, i, kind, control, data))
    reader = PacketReader()
    found = []
    for start in range(0, len(wire), cut):
        found += reader.receive(wire[start : start + cut])
    assert found == expected
    assert reader.pending_bytes == 0


def test_a_packet_cut_at_every_byte_waits_for_the_rest() -> None:
    wire = encode_packet(1, 1, Kind.MESSAGE, b"hello world", split=4)
    for cut in range(len(wire)):
        reader = PacketReader()
        assert reader.receive(wire[:cut]) == []
        assert reader.receive(wire[cut:]) == [Packet(1, 1, Kind.MESSAGE, False, b"hello world")]


def test_large_messages_are_split_at_64_kib() -> None:
    wire = encode_packet(1, 1, Kind.MESSAGE, bytes(SPLIT_SIZE + 1))
    first = bytes([0x04, 1, 1, 0x80, 0x80, 0x04])
    assert wire.startswith(first)
    assert wire[len(first) + SPLIT_SIZE :] == bytes([0x05, 1, 1, 1, 0])


def test_a_newer_packet_throws_an_unfinished_one_away() -> None:
    unfinished = encode_packet(1, 1, Kind.MESSAGE, b"abcd", split=2)[:6]
    assert PacketReader().receive(unfinished + encode_packet(1, 2, Kind.CLOSE)) == [
        Packet(1, 2, Kind.CLOSE, False, b"")
    ]


@pytest.mark.parametrize(
    ("wire", "problem"),
    [
        (encode_packet(0, 1, Kind.MESSAGE), "start at 1"),
        (encode_packet(1, 0, Kind.MESSAGE), "start at 1"),
        (encode_packet(1, 2, Kind.MESSAGE) + encode_packet(1, 2, Kind.MESSAGE), "after"),
        (encode_packet(2, 1, Kind.MESSAGE) + encode_packet(1, 9, Kind.MESSAGE), "after"),
        (b"\x04\x01\x01\x01a" + b"\x06\x01\x01\x01b", "changed from kind"),
        (b"\x05" + b"\xff" * 11, "varint"),
        (b"\x05" + b"\xff" * 9 + b"\x7f", "varint"),
        (b"\x05\x01\x01" + b"\x81\x80\x80\x02", "over the limit"),
    ],
)
def test_broken_rules_are_remote_errors(wire: bytes, problem: str) -> None:
    with pytest.raises(RemoteProtocolError, match=problem):
        PacketReader().receive(wire)


def test_a_message_over_the_limit_is_refused_on_both_sides() -> None:
    with pytest.raises(LocalProtocolError):
        encode_packet(1, 1, Kind.MESSAGE, bytes(MAX_MESSAGE + 1))
    reader = PacketReader()
    frame = b"\x04\x01\x01\x80\x80\x04" + bytes(SPLIT_SIZE)
    for _ in range(MAX_MESSAGE // SPLIT_SIZE):
        assert reader.receive(frame) == []
    with pytest.raises(RemoteProtocolError, match="over the limit"):
        reader.receive(frame)


@given(st.binary(max_size=200))
def test_junk_raises_nothing_but_our_error(junk: bytes) -> None:
    for stream in (DrpcStream(client=True), DrpcStream(client=False)):
        try:
            stream.receive(junk)
        except RemoteProtocolError:
            continue


# ---------------------------------------------------------------- calls


def call() -> tuple[DrpcStream, DrpcStream]:
    client, server = DrpcStream(client=True), DrpcStream(client=False)
    assert server.receive(client.invoke(RPC)) == [Invoked(RPC)]
    return client, server


def test_a_unary_call() -> None:
    client, server = call()
    assert server.receive(client.message(b"in") + client.close_send()) == [MessageReceived(b"in"), SendClosed()]
    assert client.receive(server.message(b"out") + server.close_send()) == [MessageReceived(b"out"), SendClosed()]
    assert client.terminated
    assert server.terminated
    assert client.close() == b""


def test_the_invocation_is_what_a_stock_client_writes() -> None:
    client = DrpcStream(client=True)
    wire = client.invoke(RPC) + client.message(b"hi") + client.close_send()
    assert wire == b"\x03\x01\x01\x07/t.T/Do" + b"\x05\x01\x02\x02hi" + b"\x0d\x01\x03\x00"


def test_metadata_before_the_invocation_is_skipped() -> None:
    wire = encode_packet(1, 1, Kind.INVOKE_METADATA, b"\x0a\x00") + encode_packet(1, 2, Kind.INVOKE, RPC.encode())
    assert DrpcStream(client=False).receive(wire) == [Invoked(RPC)]


def test_errors_end_the_call() -> None:
    client, server = call()
    assert client.receive(server.error(UNIMPLEMENTED, "unknown rpc")) == [Failed(12, "unknown rpc")]
    assert server.close_send() == b""
    with pytest.raises(LocalProtocolError):
        client.message(b"late")


def test_an_error_without_a_code_is_still_an_error() -> None:
    client, _ = call()
    assert client.receive(encode_packet(1, 1, Kind.ERROR, b"short")) == [Failed(0, "short")]


def test_cancel_and_close_end_both_directions() -> None:
    client, server = call()
    assert server.receive(client.cancel()) == [Cancelled()]
    assert client.cancel() == b""
    client, server = call()
    assert server.receive(client.close()) == [RemoteClosed()]
    assert server.error(0, "too late") == b""


def test_what_follows_the_end_is_ignored() -> None:
    client, server = call()
    ending = client.close()
    assert server.receive(ending + encode_packet(1, 9, Kind.MESSAGE, b"x")) == [RemoteClosed()]


def test_unknown_packets_are_ignored_if_they_say_so() -> None:
    _, server = call()
    assert server.receive(encode_packet(1, 2, 40, b"future", control=True)) == []
    with pytest.raises(RemoteProtocolError, match="unknown packet kind"):
        server.receive(encode_packet(1, 3, 40, b"future"))


@pytest.mark.parametrize(
    "wire",
    [
        encode_packet(1, 1, Kind.MESSAGE, b"x"),
        encode_packet(1, 1, Kind.INVOKE, b"/a") + encode_packet(1, 2, Kind.INVOKE, b"/b"),
        encode_packet(1, 1, Kind.INVOKE, b"/a") + encode_packet(2, 1, Kind.MESSAGE, b"x"),
    ],
)
def test_packets_out_of_order_end_the_call(wire: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        DrpcStream(client=False).receive(wire)


def test_only_clients_invoke_and_once() -> None:
    client, server = call()
    with pytest.raises(LocalProtocolError):
        client.invoke(RPC)
    with pytest.raises(LocalProtocolError):
        server.invoke(RPC)
