"""Strangers and enemies: junk never raises, memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coder_agent.base.addresses import AddrPort
from coder_agent.base.keys import DiscoPrivate, NodePrivate, NodePublic
from coder_agent.base.paths import DerpPath, Path, UdpPath
from coder_agent.magicsock import Magicsock, PingLost, Route
from coder_agent.magicsock import constants as c
from coder_agent.magicsock.candidates import CandidateTable
from coder_agent.protocols import disco
from coder_agent.protocols.effects import SendRaw

rng = Random(1).randbytes
OURS = DiscoPrivate.generate(rng)
THEIRS = DiscoPrivate.generate(rng)
US, THEM = (NodePrivate.generate(rng).public() for _ in range(2))
ADDR = AddrPort("203.0.113.5", 41641)
SHARED = disco.precompute(THEIRS, OURS.public())
assert SHARED is not None


def core() -> Magicsock:
    made = Magicsock(US, OURS, rng=Random(2).randbytes)
    made.set_local_endpoints([AddrPort("192.0.2.1", 1)], 0.0)
    made.upsert_peer(THEM, THEIRS.public(), home=1, endpoints=[ADDR], now=0.0)
    return made


def sealed(plaintext: bytes) -> bytes:
    assert SHARED is not None
    return disco.seal(THEIRS.public(), SHARED, rng(24), plaintext)


paths = st.sampled_from([UdpPath(ADDR), UdpPath(AddrPort("::1", 9)), DerpPath(1, THEM), DerpPath(0, US)])
plaintexts = st.one_of(
    st.binary(max_size=300),
    st.builds(lambda kind, body: bytes((kind, 0)) + body, st.sampled_from([1, 2, 3]), st.binary(max_size=300)),
)
packets = st.one_of(
    st.binary(max_size=300),
    st.builds(lambda tail: disco.MAGIC + tail, st.binary(max_size=200)),
    st.builds(lambda tail: disco.MAGIC + THEIRS.public().raw + tail, st.binary(max_size=200)),
    plaintexts.map(sealed),
)


@given(st.lists(st.tuples(packets, paths, st.floats(0, 20)), max_size=20))
def test_nothing_that_arrives_raises(arrivals: list[tuple[bytes, Path, float]]) -> None:
    magicsock, now = core(), 0.0
    for packet, path, pause in arrivals:
        magicsock.receive_disco(memoryview(packet), path, now)
        route, _ = magicsock.route(THEM, now)
        assert route is not None
        now += pause
        magicsock.on_timer(now)
        due = magicsock.deadline()
        assert due is None or due > now


def spoofed(count: int) -> Iterator[AddrPort]:
    return (AddrPort(f"10.{i >> 16 & 255}.{i >> 8 & 255}.{i & 255}", 1024 + i) for i in range(1, count + 1))


@pytest.mark.parametrize("pace", [0.0, 0.01, 1.0])
def test_pings_from_forged_sources_fill_no_more_than_the_table(pace: float) -> None:
    magicsock = core()
    for i, addr in enumerate(spoofed(2000)):
        ping = sealed(disco.Ping(i.to_bytes(12, "big"), THEM).encode())
        magicsock.receive_disco(ping, UdpPath(addr), i * pace)
    candidates = magicsock.path(THEM).candidates
    assert len(candidates) <= c.CANDIDATE_PRUNE_THRESHOLD
    assert ADDR in [one.addr for one in candidates]  # the coordinator's word outlives the flood
    known = sum(magicsock.peer_for_source(addr) is not None for addr in spoofed(2000))
    assert known <= c.MAX_SOURCES


def test_a_flood_does_not_push_out_the_path_in_use() -> None:
    magicsock = core()
    learnt = AddrPort("203.0.113.77", 7)
    magicsock.receive_disco(sealed(disco.Ping(b"p" * 12, THEM).encode()), UdpPath(learnt), 0.0)
    _, effects = magicsock.route(THEM, 0.0)
    for effect in effects:  # grows: the answer to a small ping is a full-size one
        if isinstance(effect, SendRaw) and effect.path == UdpPath(learnt):
            plaintext = disco.open_sealed(effect.data, SHARED or b"")
            ping = disco.parse(plaintext or b"")
            assert isinstance(ping, disco.Ping)
            effects += magicsock.receive_disco(sealed(disco.Pong(ping.txid, ADDR).encode()), UdpPath(learnt), 0.01)
    for i, addr in enumerate(spoofed(500)):
        magicsock.receive_disco(sealed(disco.Ping(i.to_bytes(12, "big"), THEM).encode()), UdpPath(addr), 1.0)
    assert magicsock.route(THEM, 1.0)[0] == Route(UdpPath(learnt), None)
    assert magicsock.peer_for_source(learnt) == THEM


def test_a_call_with_thousands_of_endpoints_is_cut_short() -> None:
    magicsock = core()
    call = sealed(disco.CallMeMaybe(tuple(spoofed(3600))).encode())
    effects = magicsock.receive_disco(call, DerpPath(1, THEM), 0.0)
    assert len(effects) <= c.MAX_LISTED_ENDPOINTS + 1
    assert len(magicsock.path(THEM).candidates) <= c.MAX_LISTED_ENDPOINTS + 1


def test_pings_in_flight_are_bounded() -> None:
    magicsock = core()
    for _ in range(3000):
        magicsock.ping(THEM, 0.0, via="derp")
    lost = magicsock.on_timer(5.0)
    assert len([one for one in lost if isinstance(one, PingLost)]) == c.MAX_PINGS_IN_FLIGHT


@settings(max_examples=50, deadline=None)
@example([("ping", 100, 0.0), ("list", 1, 0.0), ("call", 65, 0.0), ("ping", 1, 0.0), ("list", 64, 0.0)])
@given(
    st.lists(st.tuples(st.sampled_from(["list", "call", "ping"]), st.integers(0, 400), st.floats(0, 50)), max_size=40)
)
def test_candidate_table_is_bounded_whatever_happens(events: list[tuple[str, int, float]]) -> None:
    table, now = CandidateTable(), 0.0
    for what, seed, pause in events:
        now += pause
        some = [AddrPort(f"10.0.{seed % 256}.{i % 256}", 1 + i) for i in range(seed)]
        if what == "list":
            table.list_from_coordinator(some, now)
        elif what == "call":
            table.list_from_call(some, now)
        else:
            for addr in some:
                table.learn_from_ping(UdpPath(addr), b"t" * 12, now)
        assert len(table) <= 2 * c.MAX_LISTED_ENDPOINTS + c.CANDIDATE_PRUNE_THRESHOLD


def test_many_peers_cost_one_timer_each() -> None:
    magicsock = Magicsock(US, OURS, rng=Random(3).randbytes)
    keys = [NodePublic(Random(i).randbytes(32)) for i in range(200)]
    for i, key in enumerate(keys):
        far = DiscoPrivate.generate(Random(1000 + i).randbytes)
        magicsock.upsert_peer(key, far.public(), home=1, endpoints=[ADDR], now=0.0)
    assert magicsock.deadline() is None
    for now in range(40):
        for key in keys:
            magicsock.route(key, float(now))
        magicsock.on_timer(float(now))
    assert len(magicsock._timers) <= 4 * len(keys)
