"""Transcripts of the relay core: login, forwarding, duplicates, notices, queues, limits, mesh permissions."""

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
from coder_agent.protocols.derp.login import ClientInfo, ServerInfo, client_info_frame, open_server_info
from coder_agent.protocols.derp.outbox import MAX_DATA_BYTES, MAX_DISCO_BYTES
from coder_agent.protocols.derp.server import RelayCore, RelaySettings
from coder_agent.protocols.derp.session import RelaySession

NOW = 1000.0
MESH = b"m" * 32
DISCO = b"TS\xf0\x9f\x92\xac" + bytes(56)


def private(label: str) -> NodePrivate:
    return NodePrivate(hashlib.sha256(label.encode()).digest())


SERVER, A, B, C = (private(f"derp-{name}") for name in ("server", "client-A", "client-B", "client-C"))


def rng(size: int) -> bytes:
    return bytes(range(size))


class FakeWire:
    """Keeps what is written; `blocked` is set by the test."""

    def __init__(self) -> None:
        self.blocked = False
        self.closed = False
        self.data = b""

    def write(self, data: bytes | memoryview) -> None:
        self.data += bytes(data)

    def close(self) -> None:
        self.closed = True

    def take(self) -> list[tuple[int, bytes]]:
        """(type, payload) of every frame written since the last call."""
        data, self.data = self.data, b""
        found = []
        while data:
            size = int.from_bytes(data[1:5], "big")
            found.append((data[0], data[5 : 5 + size]))
            data = data[5 + size :]
        return found


class Client:
    """A connection to the relay under test."""

    def __init__(self, core: RelayCore, key: NodePrivate, info: ClientInfo | None = None, now: float = NOW) -> None:
        self.wire = FakeWire()
        self.key = key.public().raw
        session = core.connect(self.wire, AddrPort("192.0.2.1", 5), now)
        assert session is not None
        self.session: RelaySession = session
        assert self.wire.take() == [(FrameType.SERVER_KEY, frames.MAGIC + SERVER.public().raw)]
        self.say(client_info_frame(key, SERVER.public(), info or ClientInfo(), rng), now)
        ((kind, payload),) = self.wire.take()[:1]
        assert kind == FrameType.SERVER_INFO
        self.info = open_server_info(key, SERVER.public(), payload)

    def say(self, data: bytes, now: float = NOW) -> float:
        return self.session.feed(data, now)

    def send(self, to: Client, data: bytes, count: int = 1, now: float = NOW) -> None:
        self.say(frames.send_packet(to.key, data) * count, now)

    def heard(self) -> list[tuple[int, bytes]]:
        return self.wire.take()


def relay(**settings: object) -> RelayCore:
    return RelayCore(SERVER, rng=rng, settings=RelaySettings(**settings))  # type: ignore[arg-type]


def packet(source: Client, data: bytes) -> tuple[int, bytes]:
    return FrameType.RECV_PACKET, source.key + data


def test_packets_go_to_their_destination_with_their_source() -> None:
    core = relay()
    a, b, c = Client(core, A), Client(core, B), Client(core, C)
    a.say(frames.send_packet(b.key, b"one") + frames.send_packet(c.key, b"two") + frames.send_packet(b.key, b""))
    assert b.heard() == [packet(a, b"one"), packet(a, b"")]
    assert c.heard() == [packet(a, b"two")]
    assert a.heard() == []


def test_a_long_run_is_forwarded_in_order_and_whole() -> None:
    core = relay()
    a, b = Client(core, A), Client(core, B)
    data = [bytes([i]) * 1312 for i in range(200)]
    a.say(b"".join(frames.send_packet(b.key, row) for row in data))
    assert b.heard() == [packet(a, row) for row in data]
    assert core.metrics()["frames_received"] == 200


def test_sending_to_oneself_loops_back() -> None:
    a = Client(relay(), A)
    a.send(a, b"echo")
    assert a.heard() == [packet(a, b"echo")]


def test_nobody_logs_in_by_anothers_key() -> None:
    """The box is closed with the private key, which a thief does not have."""
    core = relay()
    victim, other = Client(core, A), Client(core, B)
    thief_wire = FakeWire()
    thief = core.connect(thief_wire, AddrPort("192.0.2.9", 5), NOW)
    assert thief is not None
    size = len(frames.frame(FrameType.CLIENT_INFO, b""))
    by_thief = client_info_frame(C, SERVER.public(), ClientInfo(), rng)
    forged = by_thief[:size] + A.public().raw + by_thief[size + 32 :]
    with pytest.raises(RemoteProtocolError):
        thief.feed(forged, NOW)
    other.send(victim, b"for A")
    assert (FrameType.RECV_PACKET, other.key + b"for A") in victim.heard()
    assert all(kind == FrameType.SERVER_KEY for kind, _ in thief_wire.take())


def test_login_must_come_first_and_in_time() -> None:
    core = relay()
    wire = FakeWire()
    session = core.connect(wire, None, NOW)
    assert session is not None
    for frame in (frames.send_packet(bytes(32), b"x"), frames.keep_alive() + frames.note_preferred(True)):
        with pytest.raises(RemoteProtocolError):
            session.feed(frame, NOW)
    closed = []
    for now in (NOW + 9.9, NOW + 10):
        core.on_timer(now)
        closed.append(wire.closed)
    assert closed == [False, True]
    assert core.metrics()["connections"] == 0


def test_admission_decides_and_mesh_peers_are_not_asked() -> None:
    asked: list[NodePublic] = []

    def admit(key: NodePublic, info: ClientInfo, remote: AddrPort | None) -> bool:
        asked.append(key)
        return key == A.public()

    core = RelayCore(SERVER, rng=rng, settings=RelaySettings(mesh_key=MESH), admit=admit)
    Client(core, A)
    with pytest.raises(RemoteProtocolError):
        Client(core, B)
    Client(core, C, ClientInfo(mesh_key=MESH))
    assert asked == [A.public(), B.public()]


def test_a_full_relay_accepts_nobody() -> None:
    core = relay(max_clients=1)
    Client(core, A)
    assert core.connect(FakeWire(), None, NOW) is None
    assert core.metrics()["refused_full"] == 1


def test_unknown_destination_is_told_to_disco_senders_only_and_not_too_often() -> None:
    a = Client(relay(), A)
    nobody = B.public().raw
    a.say(frames.send_packet(nobody, b"wireguard" * 20))
    assert a.heard() == []
    for _ in range(5):
        a.say(frames.send_packet(nobody, DISCO))
    assert a.heard() == [(FrameType.PEER_GONE, nobody + b"\x01")] * 3
    a.say(frames.send_packet(nobody, DISCO), NOW + 1)
    assert a.heard() == [(FrameType.PEER_GONE, nobody + b"\x01")]
    assert a.session._relay.drops["unknown_dest"] == 7


def test_who_got_a_packet_hears_when_its_sender_goes() -> None:
    core = relay()
    a, b, c = Client(core, A), Client(core, B), Client(core, C)
    a.send(b, b"x")
    b.heard()
    a.session.close()
    assert a.wire.closed
    assert b.heard() == [(FrameType.PEER_GONE, a.key + b"\x00")]
    assert c.heard() == []
    assert core.metrics()["clients"] == 2


def test_a_duplicate_that_goes_is_not_announced() -> None:
    core = relay()
    old, b = Client(core, A), Client(core, B)
    old.send(b, b"x")
    new = Client(core, A)
    b.heard()
    old.session.close()
    assert b.heard() == []
    new.session.close()
    assert b.heard() == [(FrameType.PEER_GONE, old.key + b"\x00")]


def test_the_last_writer_of_a_duplicated_key_receives() -> None:
    core = relay()
    old, b = Client(core, A), Client(core, B)
    new = Client(core, A)
    assert core.metrics()["duplicate_keys"] == 1
    b.send(old, b"1")
    assert (old.heard(), new.heard()) == ([], [packet(b, b"1")])
    old.say(frames.note_preferred(True))
    b.send(old, b"2")
    assert (old.heard(), new.heard()) == ([packet(b, b"2")], [])
    old.session.close()
    b.send(new, b"3")
    assert new.heard() == [packet(b, b"3")]
    assert core.metrics()["duplicate_keys"] == 0


def test_a_blocked_client_keeps_the_newest_and_never_blocks_the_sender() -> None:
    core = relay()
    a, b = Client(core, A), Client(core, B)
    b.wire.blocked = True
    total = 1000
    for i in range(total):
        a.send(b, i.to_bytes(4, "big") * 328)
    assert b.heard() == []
    assert b.session.outbox.waiting_bytes <= MAX_DATA_BYTES
    b.wire.blocked = False
    b.session.outbox.flush()
    got = [int.from_bytes(payload[32:36], "big") for _, payload in b.heard()]
    assert got == list(range(total - len(got), total))
    assert len(got) + core.drops["queue_head"] == total
    assert 300 < len(got) < 400


def test_disco_has_a_queue_of_its_own_and_goes_first() -> None:
    core = relay()
    a, b = Client(core, A), Client(core, B)
    b.wire.blocked = True
    a.send(b, b"bulk" * 300, count=3)
    a.send(b, DISCO)
    a.send(b, DISCO, count=2000)
    assert b.session.outbox.waiting_bytes <= MAX_DISCO_BYTES + 3 * 1300
    b.wire.blocked = False
    b.session.outbox.flush()
    heard = b.heard()
    assert heard[0] == packet(a, DISCO)
    assert heard[-3:] == [packet(a, b"bulk" * 300)] * 3


def test_what_waits_comes_before_what_follows() -> None:
    core = relay()
    a, b = Client(core, A), Client(core, B)
    b.wire.blocked = True
    a.send(b, b"1")
    b.wire.blocked = False
    a.send(b, b"2")
    assert b.heard() == []
    b.session.outbox.flush()
    assert b.heard() == [packet(a, b"1"), packet(a, b"2")]
    a.send(b, b"3")
    assert b.heard() == [packet(a, b"3")]


def test_ping_pong_and_only_one_pong_waits() -> None:
    a = Client(relay(), A)
    a.say(frames.frame(FrameType.PING, b"12345678tail"))
    assert a.heard() == [(FrameType.PONG, b"12345678")]
    a.wire.blocked = True
    for _ in range(10):
        a.say(frames.ping(b"87654321"))
    a.wire.blocked = False
    a.session.outbox.flush()
    assert a.heard() == [(FrameType.PONG, b"87654321")]


def test_keepalive_every_minute_with_a_jitter_drawn_once() -> None:
    core = relay()
    a = Client(core, A)  # rng gives 0: no jitter
    core.on_timer(NOW + 59.9)
    assert a.heard() == []
    core.on_timer(NOW + 60)
    core.on_timer(NOW + 61)
    assert a.heard() == [(FrameType.KEEP_ALIVE, b"")]
    core.on_timer(NOW + 120)
    assert a.heard() == [(FrameType.KEEP_ALIVE, b"")]


def test_the_rate_limit_is_time_not_to_read() -> None:
    core = relay(client_rate=65568, client_burst=1)
    a, b = Client(core, A), Client(core, B)
    assert a.say(frames.send_packet(b.key, bytes(65531))) == 0.0
    assert a.say(frames.send_packet(b.key, bytes(32784 - 37))) == pytest.approx(0.5, abs=0.01)
    assert len(b.heard()) == 2


def test_the_announced_rate_reaches_the_client() -> None:
    core = relay(announce_rate=5, announce_burst=6)
    assert Client(core, A).info == ServerInfo(bucket_rate=5, bucket_burst=6)


@pytest.mark.parametrize(
    "frame",
    [
        frames.frame(FrameType.WATCH_CONNS),
        frames.frame(FrameType.CLOSE_PEER, bytes(32)),
        frames.forward_packet(bytes(32), bytes(32), b"x"),
        frames.frame(FrameType.NOTE_PREFERRED, b"\x01\x01"),
        frames.frame(FrameType.SEND_PACKET, bytes(31)),
        frames.frame(FrameType.SEND_PACKET, bytes(32 + 65537)),
        frames.frame(FrameType.PING, bytes(7)),
        frames.frame(FrameType.PING, bytes(1001)),
    ],
)
def test_what_costs_a_client_its_connection(frame: bytes) -> None:
    a = Client(relay(mesh_key=MESH), A, ClientInfo(mesh_key=b"w" * 32))
    with pytest.raises(RemoteProtocolError):
        a.say(frame)


def test_a_mesh_peer_watches_forwards_and_closes() -> None:
    core = relay(mesh_key=MESH)
    a = Client(core, A)
    mesh = Client(core, C, ClientInfo(mesh_key=MESH))
    mesh.say(frames.frame(FrameType.WATCH_CONNS))
    present = frames.peer_present(a.key, AddrPort("192.0.2.1", 5), PresentFlag.REGULAR)
    assert mesh.heard() == [(FrameType.PEER_PRESENT, present[5:])]
    b = Client(core, B, ClientInfo(is_prober=True))
    ((kind, payload),) = mesh.heard()
    assert (kind, payload[:32], payload[50]) == (FrameType.PEER_PRESENT, b.key, PresentFlag.PROBER)
    mesh.say(frames.forward_packet(b"r" * 32, a.key, b"from afar") + frames.forward_packet(a.key, b"n" * 32, b"x"))
    assert a.heard() == [(FrameType.RECV_PACKET, b"r" * 32 + b"from afar")]
    assert core.drops["unknown_dest_on_fwd"] == 1
    mesh.say(frames.frame(FrameType.CLOSE_PEER, b.key))
    assert b.wire.closed
    assert mesh.heard() == [(FrameType.PEER_GONE, b.key + bytes([GoneReason.DISCONNECTED]))]


def test_closing_the_relay_closes_everybody_and_says_nothing() -> None:
    core = relay()
    a, b = Client(core, A), Client(core, B)
    a.send(b, b"x")
    b.heard()
    core.close()
    assert a.wire.closed
    assert b.wire.closed
    assert a.heard() == b.heard() == []
    assert core.metrics()["connections"] == core.metrics()["clients"] == 0


def test_packets_for_somebody_just_gone_are_counted() -> None:
    core = relay()
    a, b = Client(core, A), Client(core, B)
    b.wire.blocked = True
    a.send(b, b"x", count=7)
    b.session.close()
    assert core.metrics()["drop_gone_disconnected"] == 7


@given(st.lists(st.binary(max_size=200), max_size=10))
def test_junk_from_a_client_is_refused_or_skipped(pieces: list[bytes]) -> None:
    core = relay(mesh_key=MESH)
    a = Client(core, A)
    for piece in pieces:
        try:
            a.say(piece)
        except RemoteProtocolError:
            a.session.close()
            break
    b = Client(core, B)
    b.send(b, b"still works")
    assert b.heard()[-1] == packet(b, b"still works")


# ---------------------------------------------------------------- admission that takes time


class Waiting:
    """A relay that asks somebody else about every client, and a client that wants in."""

    def __init__(self) -> None:
        self.asked: list[tuple[RelaySession, NodePublic]] = []
        self.core = RelayCore(SERVER, rng=rng, admit=lambda key, info, remote: None)
        self.core.on_undecided = lambda session, key, info: self.asked.append((session, key))
        self.wire = FakeWire()
        session = self.core.connect(self.wire, None, NOW)
        assert session is not None
        self.session = session
        self.session.feed(client_info_frame(A, SERVER.public(), ClientInfo(), rng), NOW)


def test_a_client_waits_for_its_admission_and_then_what_it_said_counts() -> None:
    place = Waiting()
    assert [key for _, key in place.asked] == [A.public()]
    place.session.feed(frames.note_preferred(True) + frames.send_packet(bytes(32), b"x"), NOW)
    assert [kind for kind, _ in place.wire.take()] == [FrameType.SERVER_KEY]
    place.session.decide(True, NOW + 1)
    assert [kind for kind, _ in place.wire.take()] == [FrameType.SERVER_INFO]
    assert place.core.metrics()["home_clients"] == 1
    assert place.core.drops == {"not_admitted_yet": 1}


def test_a_client_that_is_not_admitted_later_is_closed() -> None:
    place = Waiting()
    place.session.decide(False, NOW)
    assert place.wire.closed
    assert place.core.metrics()["refused_admission"] == 1
    assert [kind for kind, _ in place.wire.take()] == [FrameType.SERVER_KEY]


def test_an_answer_about_a_client_that_left_changes_nothing() -> None:
    place = Waiting()
    place.session.close()
    place.session.decide(True, NOW)
    assert place.core.metrics()["clients"] == 0


def test_a_client_that_does_not_wait_is_closed_and_so_is_one_nobody_decides_about() -> None:
    with pytest.raises(RemoteProtocolError, match="does not wait"):
        Waiting().session.feed(frames.note_preferred(True) * 20, NOW)
    place = Waiting()
    place.core.on_timer(NOW + 10)
    assert place.wire.closed
    assert place.core.metrics()["login_timeout"] == 1


def test_mesh_frames_sent_while_waiting_are_still_refused() -> None:
    place = Waiting()
    place.session.feed(frames.frame(FrameType.WATCH_CONNS), NOW)
    place.session.decide(True, NOW)
    assert place.wire.closed


def test_a_restart_is_announced_to_who_is_logged_in() -> None:
    core = relay()
    a = Client(core, A)
    core.connect(FakeWire(), None, NOW)
    core.announce_restart(1.0, 30.0)
    ((kind, payload),) = a.heard()
    assert kind == FrameType.RESTARTING
    reconnect_in, try_for = frames.parse_restarting(payload)
    assert 1000 <= reconnect_in <= 2000
    assert try_for == 30_000
