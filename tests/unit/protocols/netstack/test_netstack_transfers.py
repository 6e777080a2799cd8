"""Whole transfers between two stacks over a bad link, in virtual time, checked by checksum."""

from __future__ import annotations

import pytest

from coder_agent.protocols.netstack import StackConfig, State
from coder_agent.testing.stack_link import StackLink, Weather

MIB = 1 << 20

WEATHERS = {
    "clean": Weather(),
    "1 % loss": Weather(loss=0.01),
    "5 % loss": Weather(loss=0.05),
    "reordering": Weather(reorder=0.02, jitter=0.002),
    "duplicates": Weather(duplicate=0.05),
    "whole bursts lost": Weather(burst_loss=0.02),
    "everything": Weather(loss=0.01, reorder=0.01, duplicate=0.01, jitter=0.002, burst_loss=0.005),
    "relay with a queue of 32": Weather(rate=25e6, queue=32, delay=0.005),
}


@pytest.mark.parametrize("weather", list(WEATHERS))
@pytest.mark.parametrize("vector", [(True, True), (True, False), (False, True)], ids=["vv", "vs", "sv"])
def test_transfer_arrives_intact(weather: str, vector: tuple[bool, bool]) -> None:
    link = StackLink(WEATHERS[weather], seed=len(weather), vector=vector)
    transfer = link.transfer(8 * MIB)
    link.run(transfer.finished)
    assert transfer.intact


@pytest.mark.slow
@pytest.mark.parametrize("weather", ["clean", "1 % loss", "5 % loss", "reordering", "duplicates", "whole bursts lost"])
def test_sixty_four_mebibytes_each_way_at_once(weather: str) -> None:
    link = StackLink(WEATHERS[weather], seed=3, config=StackConfig(timestamps=weather == "reordering"))
    one, other = link.connect()
    there, back = link.transfer(64 * MIB, one, other), link.transfer(64 * MIB, other, one)
    link.run(lambda: there.finished() and back.finished(), limit=3600)
    assert there.intact
    assert back.intact


def test_loss_is_repaired_without_time_outs_as_long_as_something_arrives() -> None:
    link = StackLink(Weather(loss=0.01, delay=0.01), seed=5)
    transfer = link.transfer(8 * MIB)
    link.run(transfer.finished)
    assert transfer.source is not None
    assert transfer.source.sender.retransmits < 2 * link.lost
    assert transfer.source.sender.timeouts <= 2


def test_duplicates_and_mild_reordering_cause_hardly_any_retransmission() -> None:
    link = StackLink(Weather(duplicate=0.05, delay=0.01, jitter=0.001), seed=5)
    transfer = link.transfer(8 * MIB)
    link.run(transfer.finished)
    assert transfer.source is not None
    assert transfer.source.sender.retransmits < 100


def test_a_clean_path_is_filled() -> None:
    """Window, autotuning and slow start: 4 MiB per 40 ms round trip is 839 Mbit/s; half of it on average is fine."""
    link = StackLink(Weather(delay=0.02))
    transfer = link.transfer(64 * MIB)
    begin = link.now
    link.run(transfer.finished)
    assert transfer.target is not None
    assert transfer.target.receiver.limit == 4 * MIB
    assert link.now - begin < 64 / 4 * 0.04 * 3


def test_receive_window_does_not_grow_for_a_slow_sender() -> None:
    link = StackLink(Weather(rate=1e6, delay=0.02))
    transfer = link.transfer(4 * MIB)
    link.run(transfer.finished)
    assert transfer.target is not None
    assert transfer.target.receiver.limit == StackConfig().initial_window


@pytest.mark.parametrize("seconds", [1.0, 7.0, 10.0, 60.0])
def test_transfer_survives_a_cut_and_goes_on_soon(seconds: float) -> None:
    link = StackLink(Weather(delay=0.005), seed=1)
    transfer = link.transfer(400 * MIB)
    link.pause(0.3)
    link.weather.cut = True
    link.pause(seconds)
    before = transfer.received
    link.weather.cut = False
    link.run(lambda: transfer.received > before, limit=2.5)
    link.run(transfer.finished)
    assert transfer.intact


def test_path_change_resumes_at_once() -> None:
    """Also just when the other end is about to send a keepalive, whose acknowledgement nobody would look at."""
    link = StackLink(Weather(delay=0.005), seed=1)
    transfer = link.transfer(200 * MIB)
    link.pause(0.3)
    link.weather.cut = True
    link.pause(30.0)
    before = transfer.received
    link.weather.cut = False
    link.left.path_changed("right", link.now)
    link.run(lambda: transfer.received > before, limit=0.05)


def test_a_path_that_stays_cut_fails_both_ends() -> None:
    link = StackLink(Weather(delay=0.005), seed=1)
    one, other = link.connect()
    one.write(b"into the void")
    link.weather.cut = True
    link.run(lambda: one.state is State.CLOSED, limit=130)
    assert one.error == "timeout"
    link.run(lambda: other.state is State.CLOSED, limit=7500)  # it has nothing to send: it only probes
    assert other.error == "timeout"


def test_reader_that_pauses_stops_the_sender_and_nothing_is_lost() -> None:
    link = StackLink(Weather(delay=0.005), seed=1)
    one, other = link.connect()
    data = bytes(range(256)) * 40_000
    written = one.write(data[: 6 * MIB])
    link.pause(20.0)
    assert other.receiver.limit <= other.readable < other.receiver.limit + 256  # the unit of the window field
    assert one.sender.board.in_flight == 0
    got = b""
    while len(got) < written:
        got += b"".join(other.read(100_000))
        link.pause(0.02)
    assert got == data[:written]


def test_slow_reader_gets_everything() -> None:
    link = StackLink(Weather(delay=0.001, loss=0.02), seed=9)
    one, other = link.connect()
    written = one.write(bytes(3 * MIB))
    one.shutdown_write()
    total = 0
    while not other.eof:
        total += sum(len(chunk) for chunk in other.read(5000))
        link.pause(0.003)
    assert total == written


def test_request_and_answer_take_one_round_trip_each() -> None:
    link = StackLink(Weather(delay=0.01))
    one, other = link.connect()
    for _ in range(10):
        begin = link.now
        one.write(b"question")
        link.run(lambda: other.readable == 8)
        other.read()
        other.write(b"answer")
        link.run(lambda: one.readable == 6)
        one.read()
        assert link.now - begin == pytest.approx(0.02)


def test_many_connections_share_the_link() -> None:
    link = StackLink(Weather(loss=0.005), seed=2)
    transfers = [link.transfer(MIB // 2) for _ in range(20)]
    link.run(lambda: all(transfer.finished() for transfer in transfers))
    assert all(transfer.intact for transfer in transfers)


def test_connections_close_completely() -> None:
    link = StackLink(Weather(loss=0.05), seed=4)
    pairs = [link.connect() for _ in range(10)]
    for one, other in pairs:
        one.close(link.now)
        other.close(link.now)
    link.pause(30)
    assert link.left.connections() == link.right.connections() == []
    assert link.left.deadline() is None or link.left.deadline() == pytest.approx(link.now, abs=100)


def test_large_packets_between_our_own_nodes() -> None:
    link = StackLink(Weather(loss=0.01), config=StackConfig(mtu=8900))
    transfer = link.transfer(8 * MIB)
    link.run(transfer.finished)
    assert transfer.intact
    assert transfer.source is not None
    assert transfer.source.sender.mss == 8840


def test_peers_of_different_mtu_meet_at_the_smaller() -> None:
    link = StackLink(config=StackConfig(mtu=8900), right_config=StackConfig(mtu=1280))
    there = link.transfer(MIB)
    link.run(there.finished)
    assert there.intact
    assert there.source is not None
    assert there.source.sender.mss == 1220


def test_timestamps_are_used_when_offered_by_either() -> None:
    for stamping in (0, 1):
        configs = [StackConfig(timestamps=side == stamping) for side in (0, 1)]
        link = StackLink(Weather(loss=0.01), config=configs[0], right_config=configs[1])
        transfer = link.transfer(MIB)
        link.run(transfer.finished)
        assert transfer.intact
        assert transfer.source is not None
        assert transfer.source.timestamps == (stamping == 0)
