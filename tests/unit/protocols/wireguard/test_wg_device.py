"""Transcripts of whole devices in virtual time: handshake, queue, timers, cookies, restarts."""

from __future__ import annotations

import random
import struct
from itertools import pairwise

import pytest

from coder_agent.base.burst import Burst
from coder_agent.base.keys import NodePrivate, NodePublic
from coder_agent.errors import LocalProtocolError
from coder_agent.protocols.effects import Authenticated, Deliver, Dropped, Effect, SendRaw, SessionReady, Transmit
from coder_agent.protocols.wireguard import Device
from coder_agent.protocols.wireguard.cookie import MacStamper
from coder_agent.protocols.wireguard.messages import MESSAGE_HEADROOM
from coder_agent.protocols.wireguard.timers import JITTER_MAX
from coder_agent.testing.sim_wireguard import LATENCY, SimWireGuard

PACKET = b"inner packet".ljust(64, b".")


def connected() -> SimWireGuard:
    """a has initiated, b has answered, both may send; nothing else was said but a's first keepalive."""
    sim = SimWireGuard()
    sim.carry_out("a", sim.devices["a"].initiate(sim.keys["b"], 0.0))
    sim.run(1.0)
    assert [seen.kind for seen in sim.wire] == [1, 2, 4]
    sim.wire.clear()
    return sim


def names(effects: list[Effect]) -> list[str]:
    return [type(effect).__name__ for effect in effects]


def drops(effects: list[Effect]) -> dict[str, int]:
    return {effect.reason: effect.count for effect in effects if isinstance(effect, Dropped)}


def transmits(effects: list[Effect]) -> list[bytes]:
    return [bytes(row) for effect in effects if isinstance(effect, Transmit) for row in effect.burst.rows()]


# ---------------------------------------------------------------- handshake and queue


@pytest.mark.parametrize("vector", [False, True])
def test_first_packet_starts_a_handshake_and_is_not_lost(vector: bool) -> None:
    sim = SimWireGuard(vector=vector)
    sim.send("a", "b", PACKET, PACKET + b"2")
    sim.run(1.0)
    assert [(seen.sender, seen.kind) for seen in sim.wire] == [("a", 1), ("b", 2), ("a", 4), ("a", 4)]
    assert sim.delivered["b"] == [("a", PACKET), ("a", PACKET + b"2" + bytes(15))]
    assert [type(effect) for effect in sim.effects["b"]] == [
        Authenticated,
        SessionReady,
        Deliver,
        Authenticated,
        Deliver,
    ]
    assert SessionReady(sim.keys["b"]) in sim.effects["a"]


def test_initiator_without_data_sends_a_keepalive_so_that_the_responder_may_send() -> None:
    sim = SimWireGuard()
    assert sim.devices["a"].last_handshake(sim.keys["b"]) is None
    sim.carry_out("a", sim.devices["a"].initiate(sim.keys["b"], 0.0))
    sim.run(2.5 * LATENCY)
    assert sim.devices["a"].can_send(sim.keys["b"])
    assert not sim.devices["b"].can_send(sim.keys["a"])
    sim.run(1.0)
    assert [len(seen.data) for seen in sim.wire] == [148, 92, 32]
    assert sim.devices["b"].can_send(sim.keys["a"])
    assert sim.devices["a"].last_handshake(sim.keys["b"]) == pytest.approx(2 * LATENCY)
    assert sim.devices["b"].last_handshake(sim.keys["a"]) == pytest.approx(3 * LATENCY)
    assert sim.devices["b"].last_received(sim.keys["a"]) == pytest.approx(3 * LATENCY)
    assert sim.delivered == {"a": [], "b": []}


def test_responder_does_not_send_data_before_confirmation() -> None:
    sim = SimWireGuard()
    sim.carry_out("a", sim.devices["a"].initiate(sim.keys["b"], 0.0))
    sim.run(1.5 * LATENCY)
    sim.send("b", "a", PACKET)
    assert [seen.kind for seen in sim.sent("b")] == [2]
    sim.run(1.0)
    assert sim.delivered["a"] == [("b", PACKET)]
    assert len(sim.sent("a", 1) + sim.sent("b", 1)) == 1


def test_queue_keeps_the_newest_128_packets() -> None:
    sim = SimWireGuard(fate=lambda _sender, data: [] if data[0] == 1 else [LATENCY])
    for start in range(0, 150, 30):
        sim.send("a", "b", *(bytes([n]) * 16 for n in range(start, start + 30)))
    assert drops(sim.effects["a"]) == {"queue-full": 22}
    sim.fate = None
    sim.run(10.0)
    assert [packet[0] for _, packet in sim.delivered["b"]] == list(range(22, 150))


def test_one_send_is_one_transmit_with_the_headroom_asked_for() -> None:
    sim = connected()
    packets = Burst(memoryview(bytearray(49 * 1280)), 0, 1280, 49, 1280, 1280)
    [effect] = sim.devices["a"].send(sim.keys["b"], packets, 1.0, headroom=37)
    assert isinstance(effect, Transmit)
    assert not effect.handshake
    assert (effect.burst.count, effect.burst.headroom, effect.burst.stride) == (49, 37, 37 + 1312)
    assert sim.devices["a"].send(sim.keys["b"], Burst(packets.buffer, 0, 1280, 0, 1280, 0), 1.0) == []


def test_messages_of_the_device_itself_have_room_for_a_relay_header() -> None:
    sim = SimWireGuard()
    [effect] = sim.devices["a"].send(sim.keys["b"], Burst.of(PACKET), 0.0, headroom=37)
    assert isinstance(effect, Transmit)
    assert effect.handshake
    assert effect.burst.headroom == effect.burst.base == MESSAGE_HEADROOM
    assert not effect.burst.buffer.readonly
    [response] = sim.devices["b"].receive(effect.burst, "a", 0.0)
    assert isinstance(response, Transmit)
    queued = [e for e in sim.devices["a"].receive(response.burst, "b", 0.0) if isinstance(e, Transmit)]
    assert [e.burst.headroom for e in queued] == [37]


def test_a_response_is_accepted_whatever_way_it_comes() -> None:
    sim = SimWireGuard()
    [initiation] = sim.devices["a"].initiate(sim.keys["b"], 0.0)
    assert isinstance(initiation, Transmit)
    [response] = sim.devices["b"].receive(initiation.burst, "somewhere", 0.0)
    assert isinstance(response, Transmit)
    assert names(sim.devices["a"].receive(response.burst, "elsewhere", 0.0)) == ["SessionReady", "Transmit"]


def test_authenticated_names_the_source_once_per_burst_and_only_for_transport() -> None:
    sim = SimWireGuard()
    sim.send("a", "b", *[PACKET] * 3)
    sim.send("a", "b", PACKET * 2)
    sim.run(1.0)
    proofs = [effect for effect in sim.effects["b"] if isinstance(effect, Authenticated)]
    assert proofs == [Authenticated(sim.keys["a"], sim.sources["a"])] * 2
    assert not any(isinstance(effect, Authenticated) for effect in sim.effects["a"])


def test_simultaneous_initiations_end_in_working_sessions_both_ways() -> None:
    sim = SimWireGuard()
    sim.send("a", "b", PACKET)
    sim.send("b", "a", PACKET)
    sim.run(3.0)
    assert sim.delivered == {"a": [("b", PACKET)], "b": [("a", PACKET)]}
    assert len(sim.sent("a", 1)) == len(sim.sent("b", 1)) == 1
    for _ in range(3):
        sim.send("a", "b", PACKET)
        sim.send("b", "a", PACKET)
        sim.run(1.0)
    assert len(sim.delivered["a"]) == len(sim.delivered["b"]) == 4


def test_preshared_key_must_agree_and_disagreement_is_silent() -> None:
    sim = SimWireGuard(psk=b"1" * 32)
    sim.devices["a"].add_peer(sim.keys["b"], psk=b"2" * 32)
    sim.send("a", "b", PACKET)
    sim.run(1.0)
    assert [(seen.sender, seen.kind) for seen in sim.wire] == [("a", 1), ("b", 2)]
    assert drops(sim.effects["a"]) == {"bad-handshake-tag": 1}
    sim.devices["a"].add_peer(sim.keys["b"], psk=b"1" * 32)
    sim.run(10.0)
    assert sim.delivered["b"] == [("a", PACKET)]


# ---------------------------------------------------------------- what is refused


def handshake_messages() -> tuple[SimWireGuard, bytes, bytes]:
    """Fresh devices, and an initiation of a with b's response to it, neither delivered to a nor counted by the sim."""
    sim = SimWireGuard()
    [initiation] = transmits(sim.devices["a"].initiate(sim.keys["b"], 0.0))
    [response] = transmits(sim.devices["b"].receive(Burst.of(initiation), "a", 0.0))
    return sim, initiation, response


def test_each_flipped_byte_of_a_handshake_message_is_a_silent_drop() -> None:
    _, initiation, response = handshake_messages()
    for i in range(148 - 16):
        fresh = SimWireGuard()
        bad = initiation[:i] + bytes([initiation[i] ^ 0x40]) + initiation[i + 1 :]
        assert names(fresh.devices["b"].receive(Burst.of(bad), "a", 0.0)) == ["Dropped"]
    sim, _, response = handshake_messages()
    for i in range(92 - 16):
        bad = response[:i] + bytes([response[i] ^ 0x40]) + response[i + 1 :]
        assert names(sim.devices["a"].receive(Burst.of(bad), "b", 0.0)) == ["Dropped"]
    assert "SessionReady" in names(sim.devices["a"].receive(Burst.of(response), "b", 0.0))


def test_fields_are_checked_even_behind_a_valid_mac1() -> None:
    """An attacker who knows our public key can compute mac1; everything behind it must hold by itself."""
    sim, initiation, response = handshake_messages()
    to_b, to_a = MacStamper(sim.keys["b"].raw), MacStamper(sim.keys["a"].raw)
    for i in (8, 39, 40, 71, 87, 88, 99, 115):
        bad = to_b.stamp(initiation[:i] + bytes([initiation[i] ^ 1]) + initiation[i + 1 : 116], 0.0)
        fresh = SimWireGuard().devices["b"]
        assert set(drops(fresh.receive(Burst.of(bad), "a", 0.0))) == {"bad-handshake-tag"}
    for i in (8, 12, 43, 44, 59):
        bad = to_a.stamp(response[:i] + bytes([response[i] ^ 1]) + response[i + 1 : 60], 0.0)
        found = drops(sim.devices["a"].receive(Burst.of(bad), "b", 0.0))
        assert found in ({"bad-handshake-tag": 1}, {"unknown-handshake": 1})


def test_truncation_at_each_byte_is_counted() -> None:
    sim, initiation, response = handshake_messages()
    for name, message in (("b", initiation), ("a", response), ("a", bytes([3, 0, 0, 0]) + bytes(60))):
        for size in range(len(message)):
            effects = sim.devices[name].receive(Burst.of(message[:size]), "x", 0.0)
            assert drops(effects) == {"malformed": 1}


def test_replayed_equal_and_older_initiations_are_refused() -> None:
    sim = SimWireGuard()
    [first] = transmits(sim.devices["a"].initiate(sim.keys["b"], 0.0))
    sim.now = 6.0
    [second] = transmits(sim.devices["a"].on_timer(6.0))
    sim.restart("a")
    [equal] = transmits(sim.devices["a"].initiate(sim.keys["b"], 6.0))
    b = sim.devices["b"]
    assert names(b.receive(Burst.of(second), "a", 1.0)) == ["Transmit"]
    for refused in (second, first, equal):
        assert drops(b.receive(Burst.of(refused), "a", 2.0)) == {"replayed-initiation": 1}


def test_initiations_of_one_peer_are_accepted_every_20_ms_at_most() -> None:
    sim = SimWireGuard()
    messages = []
    for n in range(3):
        sim.now = float(n)
        sim.restart("a")
        messages += transmits(sim.devices["a"].initiate(sim.keys["b"], sim.now))
    b = sim.devices["b"]
    assert names(b.receive(Burst.of(messages[0]), "a", 5.0)) == ["Transmit"]
    assert drops(b.receive(Burst.of(messages[1]), "a", 5.02)) == {"initiation-flood": 1}
    assert names(b.receive(Burst.of(messages[2]), "a", 5.03)) == ["Transmit"]


def test_response_counts_once() -> None:
    sim, _, response = handshake_messages()
    assert "SessionReady" in names(sim.devices["a"].receive(Burst.of(response), "b", 0.0))
    assert drops(sim.devices["a"].receive(Burst.of(response), "b", 0.0)) == {"unknown-handshake": 1}


def test_strangers_get_no_answer() -> None:
    sim = SimWireGuard()
    sim.devices["b"].remove_peer(sim.keys["a"])
    sim.send("a", "b", PACKET)
    sim.run(1.0)
    assert sim.sent("b") == []
    assert drops(sim.effects["b"]) == {"unknown-peer": 1}


def test_low_order_keys_are_refused() -> None:
    sim = SimWireGuard()
    weak = NodePublic(bytes(32))
    a = sim.devices["a"]
    a.add_peer(weak)
    effects = a.send(weak, Burst.of(PACKET), 0.0)
    assert drops(effects) == {"low-order-key": 1}
    assert a.initiate(weak, 10.0) == []
    a.set_keepalive(weak, 25.0)
    sim.run(100.0)
    assert sim.wire == []

    _, initiation, _ = handshake_messages()
    bad = MacStamper(sim.keys["b"].raw).stamp(initiation[:8] + bytes(32) + initiation[40:116], 0.0)
    assert drops(sim.devices["b"].receive(Burst.of(bad), "a", 0.0)) == {"low-order-key": 1}


def test_junk_never_raises_and_leaves_no_state() -> None:
    rng = random.Random(7)
    device = connected().devices["b"]
    total = 0
    for n in range(3000):
        kind = bytes([n % 6, 0, 0, 0])
        size = rng.choice([0, 1, 4, 31, 32, 33, 64, 92, 116, 148, 149, 1312])
        junk = (kind + rng.randbytes(1400))[:size] if n % 2 else rng.randbytes(size)
        effects = device.receive(Burst.of(junk), ("junk", n), 2.0)
        assert names(effects) == ["Dropped"]
        total += sum(drops(effects).values())
    assert total == 3000
    for _ in range(20):
        count, size = rng.randrange(2, 80), rng.randrange(1, 200)
        burst = Burst(memoryview(rng.randbytes(count * size)), 0, size, count, size, rng.randrange(size + 1))
        assert sum(drops(device.receive(burst, "junk", 2.0)).values()) == count
    assert len(device._sessions) == 1
    assert len(device._handshakes.index.handshakes) == 0
    assert len(device._opener._views) <= 32


def test_misuse_is_an_error_of_ours() -> None:
    sim = SimWireGuard()
    with pytest.raises(LocalProtocolError):
        sim.devices["a"].add_peer(sim.keys["b"], psk=b"short")
    stranger = NodePrivate(b"s" * 32).public()
    assert drops(sim.devices["a"].send(stranger, Burst.of(PACKET), 0.0)) == {"unknown-peer": 1}
    assert sim.devices["a"].initiate(stranger, 0.0) == []
    assert not sim.devices["a"].can_send(stranger)
    assert sim.devices["a"].last_received(stranger) is None
    sim.devices["a"].set_keepalive(stranger, 25.0)
    sim.devices["a"].remove_peer(stranger)
    assert sim.devices["a"].peers() == [sim.keys["b"]]


# ---------------------------------------------------------------- timers


def test_initiation_is_repeated_with_jitter_and_given_up_after_90_seconds() -> None:
    sim = SimWireGuard(fate=lambda _sender, _data: [])
    sim.send("a", "b", PACKET)
    sim.run(300.0)
    times = [seen.time for seen in sim.sent("a", 1)]
    gaps = [b - a for a, b in pairwise(times)]
    assert len(times) == 19
    assert all(5.0 <= gap <= 5.0 + JITTER_MAX + 0.05 for gap in gaps)
    assert len(set(gaps)) > 10
    assert len({seen.data for seen in sim.wire}) == 19
    assert drops(sim.effects["a"]) == {"no-session": 1}
    assert sim.devices["a"].counters["handshakes-given-up"] == 1


def test_after_giving_up_the_next_packet_starts_again() -> None:
    sim = SimWireGuard(fate=lambda _sender, _data: [])
    sim.send("a", "b", PACKET)
    sim.run(200.0)
    sim.fate = None
    sim.send("a", "b", PACKET + b"x")
    sim.run(1.0)
    assert [packet[:65] for _, packet in sim.delivered["b"]] == [PACKET + b"x"]


def test_no_more_than_one_initiation_in_five_seconds_however_much_is_sent() -> None:
    sim = SimWireGuard(fate=lambda _sender, _data: [])
    for _ in range(100):
        sim.send("a", "b", PACKET)
        sim.carry_out("a", sim.devices["a"].initiate(sim.keys["b"], sim.now))
        sim.run(0.04)
    assert len(sim.sent("a", 1)) == 1


def test_own_initiation_after_answering_waits_five_seconds_but_is_not_forgotten() -> None:
    def confirmation_is_lost(sender: str, data: bytes) -> list[float]:
        return [] if sender == "a" and data[0] == 4 and sim.now < 4.0 else [LATENCY]

    sim = SimWireGuard(fate=confirmation_is_lost)
    sim.carry_out("a", sim.devices["a"].initiate(sim.keys["b"], 0.0))
    sim.run(1.0)  # b has answered, but a's confirmation is lost
    sim.send("b", "a", PACKET)
    assert sim.sent("b", 1) == []
    sim.run(6.0)
    assert [seen.time for seen in sim.sent("b", 1)] == [pytest.approx(5.2, abs=0.2)]
    assert sim.delivered["a"] == [("b", PACKET)]


def test_passive_keepalive_ten_seconds_after_unanswered_data() -> None:
    sim = connected()
    sim.send("a", "b", PACKET)
    sim.run(60.0)
    assert [(seen.sender, len(seen.data)) for seen in sim.wire] == [("a", 96), ("b", 32)]
    assert sim.sent("b")[0].time == pytest.approx(1.0 + LATENCY + 10.0)


def test_another_keepalive_if_more_data_came_meanwhile() -> None:
    sim = connected()
    for _ in range(2):
        sim.send("a", "b", PACKET)
        sim.run(1.0)
    sim.run(60.0)
    assert [round(seen.time - LATENCY) for seen in sim.sent("b")] == [11, 21]
    assert len(sim.sent("a")) == 2


def test_own_data_makes_the_keepalive_unnecessary() -> None:
    sim = connected()
    sim.send("a", "b", PACKET)
    sim.run(5.0)
    sim.send("b", "a", PACKET)
    sim.run(9.0)
    assert [len(seen.data) for seen in sim.sent("b")] == [96]


def test_initiator_that_only_receives_rekeys_once_in_the_last_minute() -> None:
    sim = connected()
    sim.run(163.9)  # the session is 165 s old at 165.02
    sim.send("b", "a", PACKET)
    sim.run(0.15)
    sim.send("b", "a", PACKET)
    assert sim.sent("a") == []
    sim.run(0.02)
    assert [seen.kind for seen in sim.sent("a")] == [1]
    sim.send("b", "a", PACKET)
    sim.run(60.0)
    assert len(sim.sent("a", 1)) == 1
    assert len(sim.delivered["a"]) == 3


def test_data_unanswered_for_15_seconds_starts_a_handshake() -> None:
    sim = connected()
    sim.fate = lambda _sender, _data: []
    sim.send("a", "b", PACKET)
    sim.run(16.0)
    [initiation] = sim.sent("a", 1)
    assert 16.0 <= initiation.time <= 16.0 + JITTER_MAX


def test_silence_is_not_broken_by_anyone() -> None:
    sim = connected()
    sim.run(600.0)
    assert sim.wire == []
    assert sim.devices["a"].deadline() is None


def test_persistent_keepalive_starts_at_once_and_yields_to_traffic() -> None:
    sim = SimWireGuard()
    sim.devices["a"].set_keepalive(sim.keys["b"], 25.0)
    sim.run(60.0)
    assert [(seen.kind, round(seen.time)) for seen in sim.sent("a")] == [(1, 0), (4, 0), (4, 25), (4, 50)]
    sim.wire.clear()
    sim.send("a", "b", PACKET)
    sim.run(20.0)
    assert [round(seen.time) for seen in sim.sent("a")] == [60]
    sim.devices["a"].set_keepalive(sim.keys["b"], 0.0)
    sim.wire.clear()
    sim.run(100.0)
    assert sim.sent("a") == []


def test_persistent_keepalive_of_a_peer_with_traffic_waits_its_turn() -> None:
    sim = connected()
    a, b = sim.devices["a"], sim.keys["b"]
    a.set_keepalive(b, 25.0)
    a.add_peer(b)  # an update of the peer changes only what it names
    sim.run(60.0)
    assert [(len(seen.data), round(seen.time)) for seen in sim.wire] == [(32, 25), (32, 50)]


def test_persistent_keepalive_keeps_trying_without_an_answer() -> None:
    sim = SimWireGuard(fate=lambda _sender, _data: [])
    sim.devices["a"].add_peer(sim.keys["b"], persistent_keepalive=25.0)
    sim.run(600.0)
    times = [seen.time for seen in sim.sent("a", 1)]
    assert len(times) > 90
    assert all(b - a >= 5.0 for a, b in pairwise(times))


def test_keys_are_forgotten_after_540_seconds() -> None:
    sim = connected()
    assert sim.devices["a"].can_send(sim.keys["b"])
    assert not sim.devices["a"].can_send(sim.keys["b"], 181.0)
    sim.run(538.9)
    assert len(sim.devices["a"]._sessions) == len(sim.devices["b"]._sessions) == 1
    sim.run(0.3)
    assert len(sim.devices["a"]._sessions) == len(sim.devices["b"]._sessions) == 0
    assert not sim.devices["a"].can_send(sim.keys["b"])


def test_restarted_responder_is_found_again_after_15_seconds() -> None:
    sim = connected()
    sim.restart("b")
    sim.send("a", "b", PACKET)
    sim.run(20.0)
    assert drops(sim.effects["b"]) == {"unknown-session": 1}
    assert [round(seen.time) for seen in sim.sent("a", 1)] == [16]
    sim.send("a", "b", PACKET)
    sim.run(1.0)
    assert sim.delivered["b"] == [("a", PACKET)]


def test_restarted_initiator_takes_over_at_once() -> None:
    sim = connected()
    sim.restart("a")
    sim.send("a", "b", PACKET)
    sim.run(1.0)
    sim.send("b", "a", PACKET)
    sim.run(1.0)
    assert (sim.delivered["a"], sim.delivered["b"]) == ([("b", PACKET)], [("a", PACKET)])


def test_clock_set_back_does_not_lock_us_out() -> None:
    wall = [2e9]
    sim = SimWireGuard()
    device = Device(sim.private["a"], rng=random.Random(1).randbytes, wall=lambda: wall[0])
    device.add_peer(sim.keys["b"])
    [first] = transmits(device.initiate(sim.keys["b"], 0.0))
    wall[0] = 1e9
    device.on_timer(0.0)
    later = [m for now in (6.0, 12.0) for m in transmits(device.on_timer(now))]
    assert len(later) == 2
    for now, message in enumerate([first, *later]):
        assert names(sim.devices["b"].receive(Burst.of(message), "a", float(now))) == ["Transmit"]


def test_exhausted_counter_asks_for_a_new_session() -> None:
    sim = connected()
    keypair = next(iter(sim.devices["a"]._sessions.values()))
    sim.run(10.0)
    keypair.counter = 2**64 - 2**13 - 1 - 3
    sim.send("a", "b", *[PACKET] * 3)
    assert len(sim.sent("a", 4)) == 3
    assert len(sim.sent("a", 1)) == 1  # far beyond 2^60 messages
    assert not sim.devices["a"].can_send(sim.keys["b"])
    sim.send("a", "b", PACKET)
    sim.run(1.0)
    assert len(sim.delivered["b"]) == 4
    assert struct.unpack_from("<Q", sim.sent("a", 4)[-1].data, 8) == (0,)


def test_removed_peer_is_gone_with_all_its_sessions() -> None:
    sim = connected()
    b = sim.devices["b"]
    b.send(sim.keys["a"], Burst.of(PACKET), 1.0)
    b.remove_peer(sim.keys["a"])
    assert len(b._sessions) == 0
    sim.send("a", "b", PACKET)
    sim.run(30.0)
    assert sim.delivered["b"] == []
    assert sim.sent("b") == []


def test_deadline_is_coarse_when_timers_crowd() -> None:
    sim = SimWireGuard(names="abc", fate=lambda _sender, _data: [])
    sim.send("a", "b", PACKET)
    sim.run(0.001)
    sim.send("a", "c", PACKET)
    a = sim.devices["a"]
    now = a.deadline()
    assert now is not None
    assert a.on_timer(now - 1.0) == []
    a.on_timer(now)
    later = a.deadline()
    assert later is not None
    assert later >= now + 0.05


# ---------------------------------------------------------------- under load


def flood(sim: SimWireGuard, count: int) -> None:
    """Initiations with a valid mac1 from strangers."""
    for n in range(count):
        stranger = Device(NodePrivate(n.to_bytes(32, "big")), rng=random.Random(n).randbytes, wall=lambda: 1.7e9)
        stranger.add_peer(sim.keys["b"])
        [message] = transmits(stranger.initiate(sim.keys["b"], sim.now))
        effects = sim.devices["b"].receive(Burst.of(message), sim.sources["b"], sim.now)
        assert set(drops(effects)) <= {"unknown-peer", "under-load"}


def test_under_load_initiators_must_show_a_cookie_and_honest_ones_get_through() -> None:
    sim = SimWireGuard()
    flood(sim, 129)
    assert sim.devices["b"].counters["cookies-sent"] == 1
    sim.send("a", "b", PACKET)
    sim.run(3 * LATENCY)
    assert [(seen.sender, seen.kind) for seen in sim.wire] == [("a", 1), ("b", 3)]
    sim.run(4.5)  # the cookie alone makes a send nothing
    assert len(sim.wire) == 2
    flood(sim, 129)
    while len(sim.wire) == 2:
        sim.run(0.1)
        flood(sim, 13)
    sim.run(1.0)
    assert any(sim.sent("a", 1)[1].data[-16:])
    assert sim.delivered["b"] == [("a", PACKET)]
    assert sim.devices["a"].counters["cookies-received"] == 1


def test_cookie_goes_back_the_way_the_initiation_came() -> None:
    sim = SimWireGuard()
    flood(sim, 129)
    [initiation] = transmits(sim.devices["a"].initiate(sim.keys["b"], 0.0))
    effects = sim.devices["b"].receive(Burst.of(initiation), sim.sources["a"], 0.0)
    assert names(effects) == ["Dropped", "SendRaw"]
    [cookie] = [effect for effect in effects if isinstance(effect, SendRaw)]
    assert (str(cookie.path), len(cookie.data)) == (str(sim.sources["a"]), 64)
    other = sim.devices["b"].receive(Burst.of(initiation), "no known kind of path", 0.0)
    assert names(other) == ["Dropped"]


def test_forged_cookie_is_refused() -> None:
    sim = SimWireGuard()
    [initiation] = transmits(sim.devices["a"].initiate(sim.keys["b"], 0.0))
    forged = bytes([3, 0, 0, 0]) + initiation[4:8] + bytes(56)
    assert drops(sim.devices["a"].receive(Burst.of(forged), "b", 0.0)) == {"bad-cookie": 1}
    stray = bytes([3, 0, 0, 0]) + bytes([initiation[4] ^ 1]) + initiation[5:8] + bytes(56)
    assert drops(sim.devices["a"].receive(Burst.of(stray), "b", 0.0)) == {"unknown-handshake": 1}
