"""Figures of a forward, and the gate that bounds connections."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from coder_agent_port_forward.books import Book, amount
from coder_agent_port_forward.display import describe, failure, row
from coder_agent_port_forward.gate import MAX_OPENING, Gate
from coder_agent_port_forward.grammar import Forward, Protocol

FORWARD = Forward(Protocol.TCP, 8080, 80)


def test_rates_are_those_since_the_last_look() -> None:
    book = Book(FORWARD)
    book.tick(10.0)
    book.sent, book.received = 2000, 500
    book.tick(12.0)
    assert (book.send_rate, book.receive_rate) == (1000, 250)
    book.tick(13.0)
    assert (book.send_rate, book.receive_rate) == (0, 0)


def test_many_failures_are_a_line_a_second() -> None:
    book = Book(FORWARD)
    told = [book.fail("refused", at / 100) for at in range(250)]
    assert [count for count in told if count] == [1, 100, 100]
    assert (book.failed, book.last_error) == (250, "refused")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (250_000, "250 kB"), (1.2e9, "1.2 GB"), (5e12, "5.0 TB")],
)
def test_amounts(count: float, text: str) -> None:
    assert amount(count) == text


def test_lines_are_coders() -> None:
    assert describe(Book(FORWARD)) == (
        "Forwarding 'tcp://127.0.0.1:8080' locally to 'tcp://127.0.0.1:80' in the workspace"
    )
    assert failure(Book(FORWARD), "refused", 1) == "tcp://127.0.0.1:80: connection failed: refused"
    assert "3 connections" in failure(Book(FORWARD), "refused", 3)


def test_a_row_has_a_cell_for_each_column() -> None:
    book = Book(FORWARD, active=1, opened=2, sent=3000, failed=1, last_error="refused")
    assert row(book) == [
        "tcp://127.0.0.1:8080", "tcp://127.0.0.1:80", "1", "2", "3.0 kB (0 B/s)", "0 B (0 B/s)", "1", "refused"
    ]  # fmt: skip


def test_the_gate_holds_no_more_than_its_limit() -> None:
    gate = Gate(2)
    assert [gate.enter() for _ in range(3)] == [True, True, False]
    gate.leave()
    assert gate.enter()


def test_openings_wait_for_their_turn() -> None:
    gate = Gate(1000)
    started: list[int] = []

    def start(number: int) -> Callable[[], None]:
        return lambda: started.append(number)

    for number in range(MAX_OPENING + 5):
        gate.open(start(number))
    assert started == list(range(MAX_OPENING))
    gate.opened()
    gate.opened()
    assert started == list(range(MAX_OPENING + 2))
    assert gate.opening == MAX_OPENING
