from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coder_agent.protocols.wireguard.replay import REJECT_AFTER_MESSAGES, WINDOW, ReplayWindow


def feed(window: ReplayWindow, *counters: int) -> list[bool]:
    results = []
    for counter in counters:
        accepted = window.accepts(counter)
        if accepted:
            window.mark(counter)
        results.append(accepted)
    return results


def test_each_counter_is_accepted_once() -> None:
    assert feed(ReplayWindow(), 0, 1, 1, 3, 2, 2, 0, 3) == [True, True, False, True, True, False, False, False]


def test_window_ends_8128_behind() -> None:
    window = ReplayWindow()
    assert feed(window, 10_000, 10_000 - 8128, 10_000 - 8129, 10_000 - 8128) == [True, True, False, False]


def test_counters_skipped_by_a_long_jump_are_new() -> None:
    window = ReplayWindow()
    window.mark_run(0, 500)
    assert feed(window, 10**6, 10**6 - 1, 10**6 - WINDOW, 499, 10**6 + 1, 10**6) == [
        True,
        True,
        True,
        False,
        True,
        False,
    ]


def test_jump_of_exactly_the_window_keeps_the_last_bit() -> None:
    window = ReplayWindow()
    assert feed(window, 0, WINDOW, 0, WINDOW + 1, 1, 1) == [True, True, False, True, True, False]


def test_limit_of_a_session() -> None:
    assert REJECT_AFTER_MESSAGES == 2**64 - 2**13 - 1
    assert feed(ReplayWindow(), 2**64 - 2**13 - 2, 2**64 - 2**13 - 1, 2**64 - 1) == [True, False, False]


def test_long_run_fills_the_whole_window() -> None:
    window = ReplayWindow()
    window.mark_run(0, 20_000)
    assert feed(window, *range(20_000 - WINDOW - 2, 20_000)) == [False] * (WINDOW + 2)
    assert feed(window, 20_000) == [True]


class Model:
    """The rule, not its implementation: a set of all counters and a greatest one."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.highest = -1

    def accepts(self, counter: int) -> bool:
        return counter not in self.seen and self.highest - counter <= WINDOW

    def mark(self, counter: int) -> None:
        self.seen.add(counter)
        self.highest = max(self.highest, counter)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 1, 2, 60, WINDOW - 1, WINDOW, WINDOW + 1]), st.integers(-70, 70), st.integers(1, 130)
        )
    )
)
def test_window_agrees_with_a_set(steps: list[tuple[int, int, int]]) -> None:
    window, model = ReplayWindow(), Model()
    for far, near, run in steps:
        for counter in (model.highest - far + near, model.highest + far + near):
            if counter < 0:
                continue
            assert window.accepts(counter) == model.accepts(counter)
            if model.accepts(counter):
                window.mark(counter)
                model.mark(counter)
        first = model.highest + 1 + far
        window.mark_run(first, run)
        for counter in range(first, first + run):
            model.mark(counter)
