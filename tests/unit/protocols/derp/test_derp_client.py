"""Transcripts of the client core: login, steady state, time-outs, limits."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coder_agent.base.burst import Burst
from coder_agent.base.keys import NodePrivate
from coder_agent.errors import LocalProtocolError, RemoteProtocolError
from coder_agent.protocols.derp import frames
from coder_agent.protocols.derp.bucket import TokenBucket
from coder_agent.protocols.derp.client import (
    ClientEvent,
    ClientState,
    DerpClient,
    HealthChanged,
    LoggedIn,
    PacketsReceived,
    PeerGone,
    PongReceived,
    ServerRestarting,
)
from coder_agent.protocols.derp.frames import FrameType, GoneReason
from coder_agent.protocols.derp.login import ServerInfo, open_client_info, server_info_frame


def private(label: str) -> NodePrivate:
    return NodePrivate(hashlib.sha256(label.encode()).digest())


SERVER, A, B = private("derp-server"), private("derp-client-A"), private("derp-client-B")
SERVER_KEY = frames.server_key(SERVER.public().raw)


def rng(size: int) -> bytes:
    return bytes(range(size))


def server_info(info: ServerInfo | None = None) -> bytes:
    return server_info_frame(SERVER, A.public(), info or ServerInfo(), rng)


def fresh() -> DerpClient:
    return DerpClient(A, rng=rng, now=100.0, app_name="test")


def ready(info: ServerInfo | None = None) -> DerpClient:
    client = fresh()
    assert [type(event) for event in client.feed(SERVER_KEY + server_info(info), 100.0)] == [LoggedIn]
    client.take_output()
    return client


def events(client: DerpClient, data: bytes, now: float = 101.0) -> list[ClientEvent]:
    return list(client.feed(data, now))


def test_login_transcript() -> None:
    client = fresh()
    assert client.take_output() == b""
    assert events(client, SERVER_KEY) == []
    login = client.take_output()
    key, info = open_client_info(SERVER, login[5:])
    assert key == A.public()
    assert (info.version, info.can_ack_pings, info.app_name) == (2, True, "test")
    assert client.state is ClientState.AWAIT_SERVER_INFO
    assert events(client, server_info()) == [LoggedIn(SERVER.public(), ServerInfo())]
    assert client.ready
    assert client.take_output() == b""


def test_fast_start_logs_in_unasked_and_skips_the_key_that_comes_all_the_same() -> None:
    client = fresh()
    client.note_preferred(True)
    client.know_server(SERVER.public())
    login = client.take_output()
    assert login.endswith(frames.note_preferred(True))
    key, _ = open_client_info(SERVER, login[5 : -len(frames.note_preferred(True))])
    assert key == A.public()
    client.know_server(B.public())
    assert events(client, SERVER_KEY + server_info()) == [LoggedIn(SERVER.public(), ServerInfo())]
    assert client.take_output() == b""


def test_home_chosen_before_login_follows_it_in_the_same_flight() -> None:
    client = fresh()
    client.note_preferred(True)
    assert client.take_output() == b""
    events(client, SERVER_KEY)
    assert client.take_output().endswith(frames.note_preferred(True))


def test_home_is_told_once_per_change() -> None:
    client = ready()
    client.note_preferred(False)
    assert client.take_output() == b""
    client.note_preferred(True)
    client.note_preferred(True)
    client.note_preferred(False)
    assert client.take_output() == frames.note_preferred(True) + frames.note_preferred(False)


def test_an_unsolicited_second_server_key_is_ignored() -> None:
    client = ready()
    assert events(client, frames.server_key(B.public().raw)) == []
    assert client.take_output() == b""


def test_server_info_before_the_key_and_a_foreign_box_are_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        events(fresh(), server_info())
    client = fresh()
    events(client, SERVER_KEY)
    with pytest.raises(RemoteProtocolError):
        events(client, server_info_frame(B, A.public(), ServerInfo(), rng))


def test_something_that_is_not_a_relay_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        events(fresh(), frames.frame(FrameType.SERVER_KEY, bytes(40)))


def test_packets_arrive_as_runs_with_their_source() -> None:
    found = []
    for event in ready().feed(frames.recv_packet(B.public().raw, b"x" * 50) * 30, 101.0):
        assert isinstance(event, PacketsReceived)
        found.append((event.source, event.burst.count, bytes(event.burst.row(29))))
    assert found == [(B.public(), 30, b"x" * 50)]


@pytest.mark.parametrize(
    ("frame", "event"),
    [
        (frames.peer_gone(B.public().raw, GoneReason.NOT_HERE), PeerGone(B.public(), GoneReason.NOT_HERE)),
        (frames.peer_gone(B.public().raw, GoneReason.DISCONNECTED), PeerGone(B.public(), GoneReason.DISCONNECTED)),
        (frames.frame(FrameType.PEER_GONE, B.public().raw), PeerGone(B.public(), GoneReason.DISCONNECTED)),
        (frames.health("too slow"), HealthChanged("too slow")),
        (frames.frame(FrameType.HEALTH, b"\xff"), HealthChanged("�")),
        (frames.restarting(1500, 4000), ServerRestarting(1.5, 4.0)),
        (frames.pong(b"12345678"), PongReceived(b"12345678")),
    ],
)
def test_what_the_relay_says(frame: bytes, event: ClientEvent) -> None:
    assert events(ready(), frame) == [event]


@pytest.mark.parametrize(
    "frame",
    [
        frames.keep_alive(),
        b"\x77\0\0\0\x02hi",
        frames.frame(FrameType.PEER_GONE, b"abc"),
        frames.frame(FrameType.PING, b"abc"),
        frames.frame(FrameType.RECV_PACKET, b"abc"),
        frames.frame(FrameType.RESTARTING, b"abc"),
        frames.frame(FrameType.PEER_PRESENT, B.public().raw),
    ],
)
def test_what_a_client_survives_silently(frame: bytes) -> None:
    client = ready()
    assert events(client, frame) == []
    assert client.take_output() == b""


def test_a_ping_is_answered_with_its_first_eight_bytes() -> None:
    client = ready()
    assert events(client, frames.frame(FrameType.PING, b"12345678rest")) == []
    assert client.take_output() == frames.pong(b"12345678")


def test_own_ping() -> None:
    client = ready()
    client.ping(b"abcdefgh")
    assert client.take_output() == frames.ping(b"abcdefgh")
    with pytest.raises(LocalProtocolError):
        client.ping(b"short")


def test_any_frame_moves_the_deadline() -> None:
    client = fresh()
    assert client.deadline() == 110.0
    events(client, SERVER_KEY + server_info(), 105.0)
    assert client.deadline() == 225.0
    events(client, frames.keep_alive(), 165.0)
    assert client.deadline() == 285.0
    events(client, frames.recv_packet(B.public().raw, b"x"), 170.0)
    assert client.deadline() == 290.0


def test_sending_is_one_view() -> None:
    client = ready()
    view = client.send(Burst.of(b"hi"), B.public(), 101.0)
    assert view is not None
    assert bytes(view) == frames.send_packet(B.public().raw, b"hi")


def test_the_announced_rate_is_kept_by_dropping() -> None:
    client = ready(ServerInfo(bucket_rate=1000, bucket_burst=1000))
    packets = Burst(memoryview(bytearray(10 * 100)), 0, 100, 10, 100, 60)
    view = client.send(packets, B.public(), 100.0)
    assert view is not None
    assert len(view) == 7 * 137  # 7 · 137 = 959 of 1000 bytes
    assert client.dropped_rate == 3
    assert client.send(packets, B.public(), 100.0) is None
    assert client.send(packets, B.public(), 100.2) is not None


def test_bucket_debt_is_paid_in_time() -> None:
    bucket = TokenBucket(1000, 500, 0.0)
    assert bucket.take(500, 0.0) == 0.0
    assert bucket.take(250, 0.0) == pytest.approx(0.25)
    assert bucket.take(0, 0.25) == 0.0
    assert bucket.allow(100, 10.0) == 5


@given(st.binary(max_size=2000))
def test_junk_from_a_relay_is_refused_or_skipped(data: bytes) -> None:
    for client in (fresh(), ready()):
        try:
            events(client, data)
        except RemoteProtocolError:
            pass
