from __future__ import annotations

import random

from coder_agent.base.keys import NodePublic
from coder_agent.protocols.wireguard.noise import TransportKeys
from coder_agent.protocols.wireguard.peer import Peer
from coder_agent.protocols.wireguard.replay import REJECT_AFTER_MESSAGES
from coder_agent.protocols.wireguard.session import REKEY_AFTER_MESSAGES, IndexTable, Keypair, Slots

KEYS = TransportKeys(bytes(32), bytes(32))
PEER = Peer(NodePublic(b"p" * 32), None)


def keypair(index: int = 0, *, is_initiator: bool = True) -> Keypair:
    return Keypair(PEER, KEYS, index, 7, is_initiator=is_initiator, now=100.0)


def test_initiator_moves_current_to_previous() -> None:
    slots, one, two, three = Slots(), keypair(1), keypair(2), keypair(3)
    assert slots.initiated(one) == []
    assert slots.initiated(two) == []
    assert slots.initiated(three) == [one]
    assert (slots.previous, slots.current, slots.next) == (two, three, None)


def test_responder_waits_for_confirmation() -> None:
    slots, old, new = Slots(), keypair(1), keypair(2, is_initiator=False)
    slots.initiated(old)
    assert slots.responded(new) == []
    assert (slots.previous, slots.current, slots.next) == (None, old, new)
    assert slots.confirmed(new) == []
    assert (slots.previous, slots.current, slots.next) == (old, new, None)


def test_unconfirmed_answer_is_replaced_by_the_next_one() -> None:
    slots, one, two = Slots(), keypair(1), keypair(2)
    slots.responded(one)
    assert slots.responded(two) == [one]


def test_own_handshake_wins_over_an_unconfirmed_answer_which_still_receives() -> None:
    slots, old, answered, ours = Slots(), keypair(1), keypair(2, is_initiator=False), keypair(3)
    slots.initiated(old)
    slots.responded(answered)
    assert slots.initiated(ours) == [old]
    assert (slots.previous, slots.current, slots.next) == (answered, ours, None)


def test_clear_returns_all() -> None:
    slots, one, two = Slots(), keypair(1), keypair(2)
    slots.initiated(one)
    slots.responded(two)
    assert slots.clear() == [one, two]
    assert slots.clear() == []


def test_age_limits() -> None:
    ours, theirs = keypair(), keypair(is_initiator=False)
    assert not ours.wants_rekey(220.0)
    assert ours.wants_rekey(220.1)
    assert not theirs.wants_rekey(1000.0)
    assert not ours.is_in_last_minute(265.0)
    assert ours.is_in_last_minute(265.1)
    assert not theirs.is_in_last_minute(279.0)
    assert ours.can_send(279.9)
    assert not ours.can_send(280.0)
    assert not ours.is_expired(279.9)
    assert ours.is_expired(280.0)


def test_counter_limits() -> None:
    pair = keypair(is_initiator=False)
    pair.counter = REKEY_AFTER_MESSAGES
    assert not pair.wants_rekey(100.0)
    pair.counter += 1
    assert pair.wants_rekey(100.0)
    pair.counter = REJECT_AFTER_MESSAGES - 10
    assert pair.can_send(100.0, 10)
    assert not pair.can_send(100.0, 11)


def test_indexes_are_unique_and_forgotten() -> None:
    draws = [1, 1, 1, 2, 2, 1]
    table = IndexTable(lambda size: draws.pop(0).to_bytes(size, "little"))
    first = table.allocate()
    table.sessions[first] = keypair(first)
    second = table.allocate()
    table.handshakes[second] = PEER
    assert (first, second) == (1, 2)
    assert table.owner(1) is table.owner(2) is PEER
    assert table.owner(3) is None
    table.forget([table.sessions[first]])
    table.forget([keypair(77)])
    assert table.allocate() == 1


def test_index_table_stays_unique_when_crowded() -> None:
    rng = random.Random(5)
    table = IndexTable(lambda size: (rng.randrange(300)).to_bytes(size, "little"))
    for _ in range(300):
        index = table.allocate()
        assert index not in table.sessions
        table.sessions[index] = keypair(index)
