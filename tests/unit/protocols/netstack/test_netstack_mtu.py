"""Packets of the size that the way to a peer carries: negotiated, grown, and cut anew when the way shrinks."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import pytest

from coder_agent.protocols.netstack import StackConfig
from coder_agent.protocols.netstack.segmenter import Segmenters
from coder_agent.testing.stack_link import StackLink, Weather

LARGE = StackConfig(accepted_mtu=8940)
MIB = 1 << 20
MSS_AT = 62
"""IPv6 header 40, TCP header 20, kind and length of the first option."""


def sizes_seen(link: StackLink) -> dict[Hashable, set[int]]:
    """Sizes of packets by destination, filled as they pass."""
    seen: dict[Hashable, set[int]] = {"left": set(), "right": set()}

    def look(target: Hashable, packet: bytes) -> bool:
        seen[target].add(len(packet))
        return False

    link.on_packet = look
    return seen


def drop_above(size: int) -> Callable[[Hashable, bytes], bool]:
    return lambda target, packet: len(packet) > size


def grow(link: StackLink, mtu: int) -> None:
    link.left.set_mtu("right", mtu, link.now)
    link.right.set_mtu("left", mtu, link.now)


def test_the_syn_says_what_we_take_and_data_stays_small_until_the_path_is_proven() -> None:
    link = StackLink(config=LARGE)
    offers: list[int] = []

    def look(target: Hashable, packet: bytes) -> bool:
        if packet[53] & 2:
            offers.append(int.from_bytes(packet[MSS_AT : MSS_AT + 2], "big"))
        return False

    link.on_packet = look
    link.connect()
    assert offers == [8880, 8880]
    seen = sizes_seen(link)
    transfer = link.transfer(MIB)
    link.run(transfer.finished)
    assert max(seen["right"]) == 1280
    assert transfer.intact


def test_by_default_nothing_is_offered() -> None:
    link = StackLink()
    connection, _ = link.connect()
    link.left.set_mtu("right", 8940, link.now)
    assert connection.sender.mss == 1220, "the other end's SYN asked for no more"


@pytest.mark.parametrize("vector", [True, False])
@pytest.mark.parametrize("timestamps", [True, False])
@pytest.mark.parametrize("mtu", [1340, 1420, 1440, 7940, 8940])
def test_a_running_transfer_grows_and_shrinks(mtu: int, timestamps: bool, vector: bool) -> None:
    config = StackConfig(accepted_mtu=8940, timestamps=timestamps)
    link = StackLink(Weather(rate=50e6, queue=500), config=config, vector=(vector, vector))
    seen = sizes_seen(link)
    transfer = link.transfer(4 * MIB)
    link.run(lambda: transfer.received > MIB)
    assert max(seen["right"]) == 1280
    grow(link, mtu)
    link.run(lambda: transfer.received > 2 * MIB)
    assert max(seen["right"]) == mtu
    grow(link, 1280)
    link.pause(0.05)
    seen["right"].clear()
    link.run(transfer.finished)
    assert max(seen["right"], default=0) <= 1280
    assert transfer.intact


def test_bursts_still_fit_one_send() -> None:
    link = StackLink(config=LARGE)
    transfer = link.transfer(8 * MIB)
    for mtu in (1280, 1440, 8940):
        grow(link, mtu)
        link.left.woken()
        for _, burst in link.left.transmit(link.now):
            assert (burst.length + 32) * burst.count <= 65_507
            assert burst.count <= 64
        link.pause(0.02)
    link.run(transfer.finished)


def test_what_a_shrunken_path_lost_is_cut_anew_and_arrives() -> None:
    link = StackLink(Weather(delay=0.02, rate=20e6, queue=1000), config=LARGE)
    grow(link, 1440)
    transfer = link.transfer(2 * MIB)
    link.run(lambda: transfer.received > MIB)
    link.on_packet = drop_above(1340)
    link.run(lambda: link.left.flow("right").stuck, limit=5)
    resent = link.left.flow("right").resent
    grow(link, 1340)
    assert link.left.flow("right").resent == resent, "bytes, not segments of another size"
    link.run(transfer.finished, limit=20)
    assert transfer.intact


def test_a_path_that_loses_everything_alike_is_not_called_stuck_below_1280() -> None:
    link = StackLink(Weather(delay=0.02), config=LARGE)
    transfer = link.transfer(2 * MIB)
    link.run(lambda: transfer.received > MIB // 2)
    link.on_packet = drop_above(1000)
    link.pause(3)
    assert not link.left.flow("right").stuck
    link.on_packet = None
    link.run(transfer.finished)


def test_a_peer_that_takes_less_by_its_own_word_gets_less() -> None:
    link = StackLink(config=LARGE, right_config=StackConfig(mtu=1280, accepted_mtu=1300))
    grow(link, 8940)
    seen = sizes_seen(link)
    transfer = link.transfer(MIB)
    link.run(transfer.finished)
    assert max(seen["right"]) == 1300


def test_connections_follow_their_peer() -> None:
    link = StackLink(config=LARGE)
    connection, _ = link.connect()
    link.left.set_mtu("right", 1440, link.now)
    assert connection.sender.mss == 1380
    link.left.remove_peer("right")
    assert connection.sender.mss == 1220


def test_sizes_that_peers_invent_do_not_fill_memory() -> None:
    segmenters = Segmenters(1280, vector=False)
    usual = segmenters.usual
    for mtu in range(1281, 1400):
        assert segmenters.of(mtu).max_rows >= 7
    assert segmenters.of(1280) is usual
    assert len(segmenters._others) <= 8
