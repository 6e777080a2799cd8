"""The two back ends against each other and against a plain decrypt: same bytes on the wire, same deliveries."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from coder_agent.base.burst import Burst
from coder_agent.base.keys import NodePublic
from coder_agent.errors import LocalProtocolError
from coder_agent.protocols.effects import Dropped
from coder_agent.protocols.wireguard import columns
from coder_agent.protocols.wireguard.columns import ScalarColumns, VectorColumns, choose_columns
from coder_agent.protocols.wireguard.noise import TransportKeys
from coder_agent.protocols.wireguard.open import Message, Opened, Opener
from coder_agent.protocols.wireguard.peer import Peer
from coder_agent.protocols.wireguard.replay import REJECT_AFTER_MESSAGES
from coder_agent.protocols.wireguard.seal import Sealer
from coder_agent.protocols.wireguard.session import Keypair
from coder_agent.testing.sim_wireguard import bursts_of

Backend = type[ScalarColumns] | type[VectorColumns]
BACKENDS: list[Backend] = [ScalarColumns, VectorColumns]
PEER = Peer(NodePublic(b"p" * 32), None)
SIZES = st.sampled_from([1, 16, 48, 100, 1264, 1279, 1280])


def sending(key: int = 1, index: int = 5) -> Keypair:
    return Keypair(PEER, TransportKeys(bytes([key]) * 32, bytes(32)), 0, index, is_initiator=True, now=0.0)


def receiving(key: int = 1, index: int = 5) -> Keypair:
    return Keypair(PEER, TransportKeys(bytes(32), bytes([key]) * 32), index, 0, is_initiator=False, now=0.0)


def uniform(count: int, size: int, last: int | None = None, seed: int = 0, *, gap: int = 0) -> Burst:
    """Random packets of one size, the last of another, `gap` bytes apart and not at the start of their buffer."""
    data = random.Random(seed).randbytes(7 + count * (size + gap))
    return Burst(memoryview(bytearray(data)), 7, size + gap, count, size, size if last is None else last)


def rows(burst: Burst) -> list[bytes]:
    return [bytes(row) for row in burst.rows()]


def pad(packet: bytes, mtu: int = 1280) -> bytes:
    return packet.ljust(max(len(packet), min(-(-len(packet) // 16) * 16, mtu)), b"\0")


# ---------------------------------------------------------------- sealing


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("count", "size", "last"),
    [
        (1, 1280, 1280),
        (1, 5, 5),
        (11, 1280, 1280),
        (12, 1280, 1280),
        (49, 1280, 1280),
        (49, 1280, 40),
        (49, 1280, 1279),
        (64, 1280, 1280),
        (65, 1280, 16),
        (200, 1280, 1280),
        (30, 100, 7),
        (20, 1279, 1279),
        (49, 4000, 4000),
    ],
)
@pytest.mark.parametrize("headroom", [0, 37])
def test_sealed_rows_open_with_a_plain_aead(backend: Backend, count: int, size: int, last: int, headroom: int) -> None:
    packets, keypair = uniform(count, size, last, gap=3), sending()
    keypair.counter = 2**33
    sealed = Sealer(backend, 1280).seal(keypair, packets, headroom)
    assert (sealed.count, sealed.headroom, sealed.base) == (count, headroom, headroom)
    assert sealed.stride == headroom + sealed.length
    assert sealed.contiguous == (headroom == 0 or count == 1)
    aead = ChaCha20Poly1305(bytes([1]) * 32)
    for i, (packet, message) in enumerate(zip(rows(packets), rows(sealed), strict=True)):
        assert struct.unpack("<IIQ", message[:16]) == (4, 5, 2**33 + i)
        plain = aead.decrypt(bytes(4) + message[8:16], message[16:], None)
        assert plain == pad(packet)
    assert keypair.counter == 2**33 + count


@pytest.mark.parametrize("backend", BACKENDS)
def test_reused_buffers_are_read_afresh(backend: Backend) -> None:
    sealer, keypair = Sealer(backend, 1280), sending()
    packets = uniform(49, 1280)
    first = rows(sealer.seal(keypair, packets, 0))
    packets.buffer[:] = bytes(len(packets.buffer))
    keypair.counter = 0
    assert rows(sealer.seal(keypair, packets, 0)) != first
    shorter = Burst(packets.buffer, packets.base, packets.stride, 20, 1280, 64)
    sealed = sealer.seal(keypair, shorter, 0)
    assert [len(row) for row in rows(sealed)] == [1312] * 19 + [96]


@pytest.mark.parametrize("backend", BACKENDS)
def test_layouts_are_forgotten_when_there_are_many(backend: Backend) -> None:
    sealer, opener, keypair, sessions = Sealer(backend, 1280), Opener(backend), sending(), {5: receiving()}
    for seed in range(80):
        packets = uniform(12, 16 * (1 + seed), seed=seed)
        sealed = sealer.seal(keypair, packets, 0)
        [opened] = list(opener.open(sealed.copy(), sessions, 0.0))
        assert isinstance(opened, Opened)
        assert opened.burst is not None
        assert rows(opened.burst) == rows(packets)
    assert len(sealer._views) <= 16
    assert len(opener._views) <= 32


@given(st.lists(st.tuples(st.integers(1, 70), SIZES, st.integers(1, 1280), st.booleans()), max_size=5))
@settings(max_examples=30, deadline=None)
def test_both_back_ends_seal_to_the_same_bytes(calls: list[tuple[int, int, int, bool]]) -> None:
    sealers = [Sealer(backend, 1280) for backend in BACKENDS]
    keypairs = [sending(), sending()]
    for count, size, last, relayed in calls:
        packets = uniform(count, size, size if count == 1 else min(size, last))
        one, two = (s.seal(k, packets, 37 * relayed) for s, k in zip(sealers, keypairs, strict=True))
        assert rows(one) == rows(two)


def test_back_end_without_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_columns(None) is choose_columns(True) is VectorColumns
    assert choose_columns(False) is ScalarColumns
    monkeypatch.setattr(columns, "has_numpy", lambda: False)
    assert choose_columns(None) is ScalarColumns
    with pytest.raises(LocalProtocolError):
        choose_columns(True)


# ---------------------------------------------------------------- opening


def wire(packets: Sequence[bytes], *, first: int = 0, key: int = 1, index: int = 5) -> list[bytes]:
    """The packets sealed one by one, by a plain AEAD."""
    aead = ChaCha20Poly1305(bytes([key]) * 32)
    return [
        struct.pack("<IIQ", 4, index, n) + aead.encrypt(bytes(4) + n.to_bytes(8, "little"), packet, None)
        for n, packet in enumerate(packets, first)
    ]


def open_all(
    backend: Backend, bursts: Sequence[Burst], sessions: dict[int, Keypair], now: float = 0.0
) -> tuple[list[object], list[int], dict[str, int]]:
    """What came out, in order (packets as (index, bytes), messages as bytes); sizes of the runs; drops by reason."""
    opener = Opener(backend)
    out: list[object] = []
    runs: list[int] = []
    drops: dict[str, int] = {}
    for burst in bursts:
        items = list(opener.open(burst, sessions, now))  # all of them first: they must stay valid together
        for item in items:
            if isinstance(item, Opened):
                if item.burst is not None:
                    out.extend((item.keypair.index, row) for row in rows(item.burst))
                    runs.append(item.burst.count)
            elif isinstance(item, Message):
                out.append(item.data)
            else:
                assert isinstance(item, Dropped)
                drops[item.reason] = drops.get(item.reason, 0) + item.count
    return out, runs, drops


def numbered(count: int, size: int = 160) -> list[bytes]:
    return [n.to_bytes(4, "big") * (size // 4) for n in range(count)]


def contents(out: list[object]) -> list[bytes]:
    return [item[1] for item in out if isinstance(item, tuple)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("count", [1, 2, 11, 12, 49, 256, 257])
def test_run_is_delivered_as_one_burst(backend: Backend, count: int) -> None:
    packets = numbered(count)
    out, runs, drops = open_all(backend, list(bursts_of(wire(packets))), {5: receiving()})
    assert (contents(out), runs, drops) == (packets, [count], {})


@pytest.mark.parametrize("backend", BACKENDS)
def test_shorter_last_row_and_keepalive_at_the_end(backend: Backend) -> None:
    for tail in (b"t" * 32, b""):
        packets = [*numbered(20), tail]
        [burst] = bursts_of(wire(packets))
        keypair = receiving()
        out, runs, _ = open_all(backend, [burst], {5: keypair})
        assert contents(out) == [packet for packet in packets if packet]
        assert runs == [len(contents(out))]
        assert keypair.replay.highest == 20


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("lost", [[0], [5], [3, 4, 5, 30], list(range(1, 36))])
def test_loss_leaves_one_run_of_what_remains(backend: Backend, lost: list[int]) -> None:
    packets = numbered(49)
    kept = [i for i in range(49) if i not in lost]
    messages = wire(packets)
    keypair = receiving()
    out, runs, drops = open_all(backend, list(bursts_of([messages[i] for i in kept])), {5: keypair})
    assert contents(out) == [packets[i] for i in kept]
    assert (runs, drops) == ([len(kept)], {})
    late, _, drops = open_all(backend, list(bursts_of(messages)), {5: keypair})
    assert contents(late) == [packets[i] for i in lost]
    assert drops == {"replayed": len(kept)}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [0, 7, 48])
def test_forged_row_costs_only_itself(backend: Backend, bad: int) -> None:
    packets = numbered(49)
    messages = wire(packets)
    messages[bad] = messages[bad][:-1] + bytes([messages[bad][-1] ^ 1])
    keypair = receiving()
    out, _, drops = open_all(backend, list(bursts_of(messages)), {5: keypair})
    assert contents(out) == [packet for i, packet in enumerate(packets) if i != bad]
    assert drops == {"bad-tag": 1}
    again, _, _ = open_all(backend, list(bursts_of(wire(packets))), {5: keypair})
    assert contents(again) == [packets[bad]]  # a forgery does not use up its counter


@pytest.mark.parametrize("backend", BACKENDS)
def test_forged_shorter_last_row_costs_only_itself(backend: Backend) -> None:
    messages = wire([*numbered(20), b"t" * 32])
    messages[-1] = messages[-1][:-1] + bytes([messages[-1][-1] ^ 1])
    out, _, drops = open_all(backend, list(bursts_of(messages)), {5: receiving()})
    assert (contents(out), drops) == (numbered(20), {"bad-tag": 1})


@pytest.mark.parametrize("backend", BACKENDS)
def test_reordered_and_duplicated_rows_still_leave_in_one_burst(backend: Backend) -> None:
    packets, messages = numbered(30), wire(numbered(30))
    order = [0, 2, 1, 2, 3, *range(4, 30), 29]
    out, runs, drops = open_all(backend, list(bursts_of([messages[i] for i in order])), {5: receiving()})
    assert contents(out) == [packets[i] for i in (0, 2, 1, 3, *range(4, 30))]
    assert (runs, drops) == ([30], {"replayed": 2})


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_sessions_in_one_burst_keep_their_order(backend: Backend) -> None:
    one, two = wire(numbered(15)), wire(numbered(15), key=2, index=6)
    sessions = {5: receiving(), 6: receiving(2, 6)}
    out, runs, drops = open_all(backend, list(bursts_of(one + two)), sessions)
    assert [index for index, _ in [item for item in out if isinstance(item, tuple)]] == [5] * 15 + [6] * 15
    assert (runs, drops) == ([15, 15], {})


@pytest.mark.parametrize("backend", BACKENDS)
def test_handshake_message_between_data_keeps_its_place(backend: Backend) -> None:
    data = wire(numbered(26, 116))  # sealed 148 bytes, as long as an initiation
    initiation = bytes([1, 0, 0, 0]) + bytes(144)
    out, runs, drops = open_all(backend, list(bursts_of([*data[:13], initiation, *data[13:]])), {5: receiving()})
    assert out[13] == initiation
    assert contents(out) == numbered(26, 116)
    assert (runs, drops) == ([13, 13], {})


@pytest.mark.parametrize("backend", BACKENDS)
def test_counters_at_the_limit(backend: Backend) -> None:
    first = REJECT_AFTER_MESSAGES - 20
    out, _, drops = open_all(backend, list(bursts_of(wire(numbered(30), first=first))), {5: receiving()})
    assert (contents(out), drops) == (numbered(20), {"replayed": 10})
    top = wire(numbered(20), first=2**64 - 20)
    assert open_all(backend, list(bursts_of(top)), {5: receiving()})[2] == {"replayed": 20}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("jump", [8128, 8129, 10**6, 2**60])
def test_jump_inside_a_burst_moves_the_window_row_by_row(backend: Backend, jump: int) -> None:
    far, near = wire([b"far" * 16], first=jump), wire(numbered(20, 48))
    out, _, drops = open_all(backend, list(bursts_of(far + near)), {5: receiving()})
    if jump == 8128:
        assert contents(out) == [b"far" * 16, *numbered(20, 48)]
    else:
        late = jump == 8129  # only counter 0 is too old
        assert contents(out) == [b"far" * 16, *(numbered(20, 48)[1:] if late else [])]
        assert drops == {"replayed": 1 if late else 20}


@pytest.mark.parametrize("backend", BACKENDS)
def test_wrapping_counters_are_no_run(backend: Backend) -> None:
    messages = [struct.pack("<IIQ", 4, 5, (2**64 - 10 + n) % 2**64) + bytes(160) for n in range(20)]
    assert open_all(backend, list(bursts_of(messages)), {5: receiving()})[2] == {"replayed": 10, "bad-tag": 10}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("count", [3, 30])
def test_old_and_unknown_sessions(backend: Backend, count: int) -> None:
    bursts = list(bursts_of(wire(numbered(count))))
    assert open_all(backend, bursts, {}) == ([], [], {"unknown-session": count})
    assert open_all(backend, bursts, {5: receiving()}, 180.0) == ([], [], {"expired-session": count})
    assert len(open_all(backend, bursts, {5: receiving()}, 179.9)[0]) == count


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_truncation_is_counted(backend: Backend) -> None:
    [message] = wire([b"x" * 64])
    for size in range(len(message)):
        out, _, drops = open_all(backend, [Burst.of(message[:size])], {5: receiving()})
        assert (out, drops) == ([], {"bad-tag" if size >= 32 else "malformed": 1})


@pytest.mark.parametrize("backend", BACKENDS)
def test_buffer_that_grows_is_handled(backend: Backend) -> None:
    packets = [bytes([i]) * 40_000 for i in range(20)]
    out, runs, _ = open_all(backend, list(bursts_of(wire(packets))), {5: receiving()})
    assert (contents(out), runs) == (packets, [20])


@pytest.mark.parametrize("backend", BACKENDS)
def test_receive_buffer_is_reused_at_other_offsets_and_counts(backend: Backend) -> None:
    opener, sessions = Opener(backend), {5: receiving()}
    buffer = memoryview(bytearray(100_000))
    n = 0
    for count, base in [(20, 0), (40, 0), (15, 0), (20, 33), (20, 0), (12, 33)]:
        packets = [bytes([n + i]) * 160 for i in range(count)]
        data = b"".join(wire(packets, first=n))
        buffer[base : base + len(data)] = data
        [opened] = list(opener.open(Burst(buffer, base, 192, count, 192, 192), sessions, 0.0))
        assert isinstance(opened, Opened)
        assert opened.burst is not None
        assert rows(opened.burst) == packets
        n += count


SHUFFLE = st.lists(
    st.tuples(
        st.sampled_from(["good"] * 8 + ["drop", "dup", "swap", "flip", "junk", "other", "short"]), st.integers(0, 255)
    ),
    min_size=1,
    max_size=90,
)


@given(SHUFFLE)
@settings(max_examples=150, deadline=None)
def test_both_back_ends_deliver_the_same_under_faults(plan: list[tuple[str, int]]) -> None:
    messages: list[bytes] = []
    ours, theirs = iter(wire(numbered(len(plan)))), iter(wire(numbered(len(plan)), key=2, index=6))
    for fault, value in plan:
        if fault == "junk":
            messages.append(random.Random(value).randbytes(value))
            continue
        message = next(theirs if fault == "other" else ours)
        if fault == "flip":
            at = value % len(message)
            message = message[:at] + bytes([message[at] ^ 0x10]) + message[at + 1 :]
        if fault == "short":
            message = message[: value % len(message)]
        if fault != "drop":
            messages.append(message)
        if fault == "dup":
            messages.append(message)
        if fault == "swap" and len(messages) > 1:
            messages[-2:] = [messages[-1], messages[-2]]
    results = [
        open_all(backend, list(bursts_of(messages)), {5: receiving(), 6: receiving(2, 6)}) for backend in BACKENDS
    ]
    assert results[0] == results[1]
    alone = open_all(ScalarColumns, [Burst.of(m) for m in messages], {5: receiving(), 6: receiving(2, 6)})
    assert results[0][0] == alone[0]
    assert results[0][2] == alone[2]
