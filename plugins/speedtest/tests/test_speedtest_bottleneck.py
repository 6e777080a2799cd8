"""What limited a test: from the figures of both ends, and from those of a stock peer, which tells none."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from coder_agent_speedtest.bottleneck import Figures, Limit, Used, find
from coder_agent_speedtest.cli import document
from coder_agent_speedtest.pcap import PcapWriter
from coder_agent_speedtest.protocol import Direction, Interval, encode_reply, parse_reply
from coder_agent_speedtest.run import Counter, Measured, Result
from hypothesis import given
from hypothesis import strategies as st

NAMES = ("the workspace", "this machine")


@pytest.mark.parametrize(
    ("sender", "receiver", "relay", "limit", "says"),
    [
        (Used(0.4, 0.0), Used(0.97), "", Limit.RECEIVER_CPU, "the CPU of this machine: receiving took 97% of a core"),
        (Used(0.99, 0.0), Used(0.9), "", Limit.SENDER_CPU, "the CPU of the workspace: sending took 99% of a core"),
        (Used(0.3, 0.03), Used(0.95), "", Limit.RECEIVER_CPU, "this machine"),
        (Used(0.3, 0.03), Used(0.2), "", Limit.LOSS, "loss: 3.0% of the packets"),
        (Used(0.3, 0.03), Used(0.2), "fra", Limit.LOSS, "via relay fra"),
        (Used(0.3, 0.001), Used(0.2), "fra", Limit.RELAY, "the relay fra, or the ways to it"),
        (Used(0.3, 0.001), Used(0.2), "", Limit.PATH, "the path: the workspace used 30% of a core"),
        (Used(0.3, 0.02), Used(0.3, None, 0.6), "", Limit.RECEIVER_CPU, "30% of a core, and waited for one 60% of"),
        (Used(), Used(0.2), "", Limit.PATH, "how much was lost is not known"),
        (Used(), Used(0.9), "fra", Limit.RECEIVER_CPU, "this machine"),
    ],
    ids=[
        "receiver",
        "sender",
        "busy and lossy",
        "loss",
        "relayed loss",
        "relay",
        "path",
        "crowded",
        "stock",
        "stock busy",
    ],
)
def test_the_bottleneck(sender: Used, receiver: Used, relay: str, limit: Limit, says: str) -> None:
    found = find(sender, receiver, NAMES, relay)
    assert found.limit is limit
    assert says in found.text


def test_what_was_used_is_a_difference() -> None:
    used = Used.between(Figures(10.0, 5.0, 0.5, 1000, 10), Figures(12.0, 6.0, 1.0, 3000, 30))
    assert used == Used(0.5, 0.01, 0.25)
    assert Used.between(None, Figures(1, 1)) == Used.between(Figures(1, 1), Figures(1, 2)) == Used()
    assert Used.between(Figures(0, 0), Figures(1, 0)).loss is None  # it sent nothing


@given(st.builds(Figures, *[st.floats(0, 1e9)] * 3, st.integers(0, 1 << 40), st.integers(0, 1 << 40)))
def test_figures_survive_the_reply(figures: Figures) -> None:
    assert parse_reply(encode_reply(figures=figures).rstrip()) == figures


@pytest.mark.parametrize("reply", [b"{}", b'{"figures":1}', b'{"figures":{}}', b'{"figures":{"clock":"x","cpu":1}}'])
def test_a_stock_or_strange_reply_has_no_figures(reply: bytes) -> None:
    assert parse_reply(reply) is None


def result(*measured: Measured) -> Result:
    return Result(measured, "direct", find(Used(), Used(), NAMES, ""))


def test_one_way_has_the_stock_document() -> None:
    row = Interval(1_000_000, 0.0, 1.0)
    told = document(result(Measured(Direction.DOWNLOAD, [row], row)))
    assert told["overall"] == {"start_time_seconds": 0.0, "end_time_seconds": 1.0, "throughput_mbits": 8.0}
    assert told["intervals"] == [told["overall"]]
    assert set(told) == {"overall", "intervals", "path", "bottleneck"}


def test_both_ways_are_told_apart_and_summed() -> None:
    down, up = Interval(1_000_000, 0.0, 1.0), Interval(500_000, 0.0, 0.5)
    told = document(result(Measured(Direction.DOWNLOAD, [down], down), Measured(Direction.UPLOAD, [up], up)))
    rows = told["intervals"]
    assert isinstance(rows, list)
    assert [row["direction"] for row in rows] == ["up", "down"]
    assert told["overall"] == {"start_time_seconds": 0.0, "end_time_seconds": 1.0, "throughput_mbits": 16.0}


def test_streams_share_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 10.5, 11.0, 11.25])
    monkeypatch.setattr("coder_agent_speedtest.run.time.monotonic", lambda: next(times))
    seen: list[Interval] = []
    counter = Counter(Direction.UPLOAD, lambda direction, row: seen.append(row))
    for size in (0, 100, 200, 50):  # as two streams would
        counter.add(size)
    assert counter.finish().total == Interval(350, 0.0, 1.25)
    assert seen == [Interval(300, 0.0, 1.0), Interval(50, 1.0, 1.25)]


class FullDisk(io.BytesIO):
    """A file on a disk with room for the header and one packet."""

    def write(self, data: object) -> int:
        if self.tell() > 100:
            raise OSError(28, "No space left on device")
        return super().write(data)  # type: ignore[arg-type]


def test_a_full_disk_ends_the_capture_and_not_the_connection() -> None:
    writer = PcapWriter(FullDisk(), 0.0, 0.0)
    for _ in range(3):
        writer.write("in", bytes(100), 1.0)
    writer.close()
    assert writer.packets == 1
    assert writer.error is not None
    assert writer.error.strerror == "No space left on device"


def test_a_real_full_disk() -> None:
    writer = PcapWriter(Path("/dev/full").open("wb"), 0.0, 0.0)  # noqa: SIM115  (close() is what is tested)
    writer.write("in", bytes(100), 1.0)
    writer.close()
    assert writer.error is not None
