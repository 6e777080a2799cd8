"""The path core that searches nothing."""

from __future__ import annotations

from coder_agent.base.addresses import AddrPort
from coder_agent.base.keys import DiscoPrivate, DiscoPublic, NodePrivate
from coder_agent.base.paths import PathKind, UdpPath
from coder_agent.magicsock import Magicsock
from coder_agent.magicsock.effects import Route
from coder_agent.protocols.effects import Dropped
from coder_agent.testing.static_paths import NO_DISCO, StaticPaths

PEER = NodePrivate(bytes(range(32))).public()
STRANGER = NodePrivate(bytes(range(1, 33))).public()
THERE = AddrPort("192.0.2.1", 51820)


def test_a_peer_has_its_address_for_ever() -> None:
    paths = StaticPaths({PEER: THERE})
    assert paths.upsert_peer(PEER, NO_DISCO, home=0, endpoints=[AddrPort("192.0.2.9", 1)], now=0.0) == []
    for now in (0.0, 1e6):
        assert paths.route(PEER, now) == (Route(udp=UdpPath(THERE), derp=None), [])
        assert paths.send_failed(UdpPath(THERE), now) == []
        assert paths.deadline() is None
    assert paths.path(PEER).kind is PathKind.DIRECT
    assert paths.path(PEER).addr == THERE


def test_others_have_none() -> None:
    paths = StaticPaths({PEER: THERE})
    assert paths.route(STRANGER, 0.0) == (None, [])
    assert paths.path(STRANGER).kind is PathKind.NONE


def test_disco_is_counted_and_not_answered() -> None:
    """Even from somebody who does it right."""
    paths = StaticPaths({PEER: THERE})
    sender = Magicsock(PEER, DiscoPrivate(bytes(range(2, 34))), rng=bytes)
    sender.upsert_peer(STRANGER, DiscoPublic(NO_DISCO.raw[:-1] + b"\x09"), home=0, endpoints=[THERE], now=0.0)
    [ping, *_] = [effect for effect in sender.route(STRANGER, 0.0)[1] if hasattr(effect, "data")]
    assert paths.receive_disco(ping.data, UdpPath(THERE), 0.0) == [Dropped("no-disco-here")]
    assert paths.counters["no-disco-here"] == 1
