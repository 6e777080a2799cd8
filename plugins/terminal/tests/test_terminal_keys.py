"""Orders among keystrokes, modes to undo, replays that are partly known."""

from __future__ import annotations

import pytest
from coder_agent_terminal.escapes import Escapes, Order
from coder_agent_terminal.screen import Modes, Seen, without_questions
from hypothesis import given
from hypothesis import strategies as st


def typed(text: bytes, step: int = 1, escape: str | None = "~") -> list[bytes | Order]:
    escapes = Escapes(escape)
    found: list[bytes | Order] = []
    for at in range(0, len(text), step):
        for part in escapes.feed(text[at : at + step]):
            if isinstance(part, bytes) and found and isinstance(found[-1], bytes):
                found[-1] += part
            else:
                found.append(part)
    return found


@pytest.mark.parametrize("step", [1, 100])
@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (b"~.", [Order.LEAVE]),
        (b"ls\r~.", [b"ls\r", Order.LEAVE]),
        (b"ls\n~?x", [b"ls\n", Order.HELP, b"x"]),
        (b"\x03~p", [b"\x03", Order.PATH]),
        (b"a~.", [b"a~."]),
        (b"~~.", [b"~."]),
        (b"~x", [b"~x"]),
        (b"~\r~.", [b"~\r", Order.LEAVE]),
        (b"~?~.", [Order.HELP, Order.LEAVE]),
    ],
    ids=["first", "after-enter", "newline", "after-ctrl-c", "inside", "twice", "other", "enter", "two"],
)
def test_orders_stand_at_the_beginning_of_a_line(text: bytes, parts: list[bytes | Order], step: int) -> None:
    assert typed(text, step) == parts


def test_a_tilde_alone_waits_for_the_next_key() -> None:
    assert Escapes().feed(b"~") == []


@given(st.binary())
def test_without_an_escape_character_everything_is_for_the_shell(text: bytes) -> None:
    assert b"".join(part for part in typed(text, 3, None) if isinstance(part, bytes)) == text


@given(st.binary())
def test_what_has_no_tilde_goes_through_as_it_is(text: bytes) -> None:
    text = text.replace(b"~", b"-")
    assert typed(text) == ([text] if text else [])


def test_modes_that_a_program_left_on_are_undone() -> None:
    modes = Modes()
    for piece in (b"\x1b[?1049h\x1b[?1;1000;10", b"06h\x1b[?25l text \x1b[?1l"):
        modes.feed(piece)
    assert modes.undo() == b"\x1b[?1000l\x1b[?1006l\x1b[?1049l\x1b[?25h\x1b[0m"
    assert modes.undo() == b""


def test_a_program_that_cleaned_up_leaves_nothing_to_undo() -> None:
    modes = Modes()
    modes.feed(b"\x1b[?1049h\x1b[?25l...\x1b[?25h\x1b[?1049l\x1b[?7h$ ")
    assert modes.undo() == b""


@given(st.binary(max_size=9000), st.binary(min_size=1, max_size=50), st.integers(0, 9000))
def test_a_replay_goes_on_where_the_screen_stopped(shown: bytes, news: bytes, cut: int) -> None:
    seen = Seen()
    seen.feed(b"<start>" + shown)
    replay = (b"<start>" + shown + news)[min(cut, len(shown)) :]
    rest = seen.news_of(replay)
    assert news.endswith(rest) or rest == replay


def test_what_was_shown_is_not_shown_again() -> None:
    seen = Seen()
    seen.feed(b"one\r\ntwo\r\n$ ")
    assert seen.news_of(b"one\r\ntwo\r\n$ echo three\r\nthree\r\n") == b"echo three\r\nthree\r\n"
    assert seen.news_of(b"quite another shell\r\n$ x") == b"quite another shell\r\n$ x"
    assert Seen().news_of(b"first") == b"first"


def test_questions_in_old_output_are_not_asked_again() -> None:
    old = b"a\x1b[cb\x1b[>0cc\x1b[6nd\x1b[?6ne\x1b]11;?\x07f\x1b[>q\x1bP+q544e\x1b\\g\x1b[31mh\x1b]0;title\x07"
    assert without_questions(old) == b"abcdefg\x1b[31mh\x1b]0;title\x07"
