"""Two relays of one region, in memory: who is where, and packets across."""

from __future__ import annotations

import hashlib
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coder_agent.base.keys import NodePrivate
from coder_agent.errors import RemoteProtocolError
from coder_agent.protocols.derp import frames
from coder_agent.protocols.derp.client import LOGIN_TIMEOUT, READ_TIMEOUT
from coder_agent.protocols.derp.frames import FrameType
from coder_agent.protocols.derp.login import ClientInfo, client_info_frame
from coder_agent.protocols.derp.mesh import MeshLink, SelfConnected, reconnect_delay
from coder_agent.protocols.derp.server import RelayCore, RelaySettings
from coder_agent.protocols.derp.session import RelaySession

NOW = 1000.0
MESH = b"m" * 32
DISCO = b"TS\xf0\x9f\x92\xac" + bytes(56)


def private(label: str) -> NodePrivate:
    return NodePrivate(hashlib.sha256(label.encode()).digest())


def rng(size: int) -> bytes:
    return bytes(range(size))


class Pipe:
    """What one end wrote, until `pump` carries it to the other."""

    def __init__(self) -> None:
        self.blocked = False
        self.closed = False
        self.data = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        self.data += bytes(data)

    def close(self) -> None:
        self.closed = True

    def take(self) -> bytes:
        data = bytes(self.data)
        self.data.clear()
        return data

    def frames(self) -> list[tuple[int, bytes]]:
        data, found = self.take(), []
        while data:
            size = int.from_bytes(data[1:5], "big")
            found.append((data[0], data[5 : 5 + size]))
            data = data[5 + size :]
        return found


class Linked:
    """`near` dials `far`: what near's link says reaches far's session and back."""

    def __init__(self, near: RelayCore, far: RelayCore, key: bytes = MESH) -> None:
        self.out, self.back = Pipe(), Pipe()
        self.link = MeshLink(near, key, self.out, NOW)
        session = far.connect(self.back, None, NOW)
        assert session is not None
        self.session = session
        self.pump()

    def pump(self) -> None:
        while self.out.data or self.back.data:
            self.session.feed(self.out.take(), NOW)
            self.link.feed(self.back.take(), NOW)


def relay(label: str) -> RelayCore:
    return RelayCore(private(label), rng=rng, settings=RelaySettings(mesh_key=MESH))


def client(core: RelayCore, label: str) -> tuple[RelaySession, Pipe, bytes]:
    pipe = Pipe()
    session = core.connect(pipe, None, NOW)
    assert session is not None
    key = private(label)
    session.feed(client_info_frame(key, core.public, ClientInfo(), rng), NOW)
    pipe.take()
    return session, pipe, key.public().raw


def test_packets_cross_to_the_relay_where_their_destination_is() -> None:
    near, far = relay("near"), relay("far")
    a, _, a_key = client(near, "a")
    _, b_pipe, b_key = client(far, "b")
    mesh = Linked(near, far)
    assert mesh.link.is_up
    assert mesh.link.keys == {b_key}
    a.feed(frames.send_packet(b_key, b"one" * 100) * 3 + frames.send_packet(b_key, DISCO), NOW)
    mesh.pump()
    assert b_pipe.frames() == [(FrameType.RECV_PACKET, a_key + b"one" * 100)] * 3 + [
        (FrameType.RECV_PACKET, a_key + DISCO)
    ]
    assert near.counters["frames_forwarded"] == 4
    assert not near.drops


def test_who_comes_and_goes_is_known_at_once() -> None:
    near, far = relay("near"), relay("far")
    a, a_pipe, _ = client(near, "a")
    mesh = Linked(near, far)
    assert not mesh.link.keys
    b, _, b_key = client(far, "b")
    mesh.pump()
    assert mesh.link.keys == {b_key}
    b.close()
    mesh.pump()
    assert not mesh.link.keys
    a.feed(frames.send_packet(b_key, DISCO), NOW)
    assert a_pipe.frames() == [(FrameType.PEER_GONE, b_key + b"\x01")]
    assert near.drops == {"unknown_dest": 1}


def test_forwarded_packets_are_never_forwarded_again() -> None:
    """Three relays in a ring of beliefs: the middle one does not pass on what was passed to it."""
    near, middle, far = relay("near"), relay("middle"), relay("far")
    a, _, _ = client(near, "a")
    b, _, b_key = client(middle, "b")
    first = Linked(near, middle)
    second = Linked(middle, far)
    b.close()  # near has not heard yet
    client(far, "b")
    second.pump()
    a.feed(frames.send_packet(b_key, b"x"), NOW)
    first.pump()
    second.pump()
    assert +middle.drops == {"unknown_dest_on_fwd": 1}
    assert middle.counters["frames_forwarded"] == 0


def test_a_local_client_comes_before_the_mesh_and_the_oldest_link_before_others() -> None:
    near, far, other = relay("near"), relay("far"), relay("other")
    a, _, _ = client(near, "a")
    _, far_pipe, b_key = client(far, "b")
    _, other_pipe, _ = client(other, "b")
    links = [Linked(near, far), Linked(near, other)]

    def say(text: bytes) -> None:
        a.feed(frames.send_packet(b_key, text), NOW)
        for mesh in links:
            mesh.pump()

    say(b"one")
    assert [len(pipe.frames()) for pipe in (far_pipe, other_pipe)] == [1, 0]
    links.pop(0).link.close()
    say(b"two")
    assert [len(pipe.frames()) for pipe in (far_pipe, other_pipe)] == [0, 1]
    _, local_pipe, _ = client(near, "b")
    say(b"three")
    assert [len(pipe.frames()) for pipe in (far_pipe, other_pipe, local_pipe)] == [0, 0, 1]


def test_a_broken_link_forgets_what_it_taught() -> None:
    near, far = relay("near"), relay("far")
    client(far, "b")
    mesh = Linked(near, far)
    assert near.metrics()["mesh_clients"] == 1
    mesh.link.close()
    assert near.metrics()["mesh_clients"] == 0
    assert not mesh.link.is_up


def test_a_relay_that_dials_itself_notices() -> None:
    near = relay("near")
    with pytest.raises(SelfConnected):
        Linked(near, near)


def test_with_another_mesh_key_one_is_closed_for_watching() -> None:
    with pytest.raises(RemoteProtocolError, match="insufficient permissions"):
        Linked(relay("near"), relay("far"), b"n" * 32)


def test_deadlines_and_keepalives() -> None:
    near = relay("near")
    assert MeshLink(near, MESH, Pipe(), NOW).deadline == NOW + LOGIN_TIMEOUT
    mesh = Linked(near, relay("far"))
    mesh.link.feed(frames.keep_alive(), NOW + 60)
    assert mesh.link.deadline == NOW + 60 + READ_TIMEOUT
    mesh.link.feed(frames.ping(b"12345678"), NOW + 61)
    assert mesh.out.frames() == [(FrameType.PONG, b"12345678")]
    assert 4.0 <= reconnect_delay(rng) <= 6.0


def test_what_does_not_fit_is_dropped_and_counted() -> None:
    near, far = relay("near"), relay("far")
    a, _, _ = client(near, "a")
    _, _, b_key = client(far, "b")
    mesh = Linked(near, far)
    mesh.out.blocked = True
    for _ in range(600):
        a.feed(frames.send_packet(b_key, bytes(1312)), NOW)
    assert not mesh.out.data
    assert sum(near.drops.values()) > 100
    mesh.out.blocked = False
    mesh.link.flush()
    assert 0 < len(mesh.out.data) <= 512 << 10


@given(junk=st.binary(max_size=300))
def test_junk_from_another_relay_is_refused_or_skipped(junk: bytes) -> None:
    near = relay("near")
    link = MeshLink(near, MESH, Pipe(), NOW)
    pieces = deque([frames.server_key(private("far").public().raw), junk])
    try:
        while pieces:
            link.feed(pieces.popleft(), NOW)
    except RemoteProtocolError:
        link.close()
    assert not near.forwarders
