"""Replay and the places of viewers in a terminal's output."""

from __future__ import annotations

import pytest
from coder_agent_terminal.history import KEEP, History
from hypothesis import given
from hypothesis import strategies as st


def replay(history: History) -> bytes:
    return history.read(history.replay_from(), 1 << 30)


def test_the_last_64_kib_stay() -> None:
    assert KEEP == 65536
    history = History()
    history.append(b"x" * 100_000)
    history.append(b"\n" + b"y" * 65_535)
    assert (history.end, history.start) == (165_536, 100_000)
    assert replay(history) == b"y" * 65_535  # from the next line


def test_all_is_replayed_while_nothing_is_gone() -> None:
    history = History(keep=10)
    history.append("é\nlater".encode())
    assert replay(history) == "é\nlater".encode()


def test_a_replay_begins_with_a_whole_character() -> None:
    history = History(keep=5)
    history.append("ééé".encode())
    assert replay(history) == "éé".encode()
    history = History(keep=4)
    history.append("a😀".encode() + b"bc")
    assert replay(history) == b"bc"


def test_a_slow_viewer_keeps_output_up_to_the_limit() -> None:
    history = History(keep=4, limit=10)
    history.append(b"0123456789", oldest=0)
    assert history.start == 0
    history.append(b"ab", oldest=0)
    assert history.start == 2  # what was at 0 is gone: the viewer there has lost its place
    assert history.read(2, 3) == b"234"
    with pytest.raises(ValueError, match="is gone"):
        history.read(1, 1)
    history.append(b"c", oldest=12)
    assert (history.start, history.end) == (9, 13)


@given(st.lists(st.tuples(st.binary(max_size=40), st.integers(0, 30)), max_size=30))
def test_a_viewer_reads_every_byte_or_is_told_that_its_place_is_gone(steps: list[tuple[bytes, int]]) -> None:
    history = History(keep=16, limit=48)
    written, read = b"", b""
    for data, size in steps:
        history.append(data, oldest=len(read))
        written += data
        assert len(history.read(history.start, 1 << 30)) <= max(16, 48)
        if len(read) < history.start:
            return
        read += history.read(len(read), size)
        assert written.startswith(read)
    assert history.end == len(written)
