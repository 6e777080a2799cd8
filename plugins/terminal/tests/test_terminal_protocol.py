"""The reconnecting PTY's wire form: what Go programs write, cut anywhere, huge, or nonsense."""

from __future__ import annotations

import json
from uuid import UUID

import pytest
from coder_agent_terminal.protocol import (
    MAX_INIT,
    MAX_MESSAGE,
    End,
    Ending,
    Init,
    Input,
    MarkReader,
    Size,
    Start,
    UpwardReader,
)
from hypothesis import given
from hypothesis import strategies as st

from coder_agent.errors import RemoteProtocolError

ID = UUID("6f1c7c0e-3b0e-4c29-9b8e-2d3a54a4e0c1")
GO_INIT = bytes.fromhex("8400") + (
    b'{"ID":"6f1c7c0e-3b0e-4c29-9b8e-2d3a54a4e0c1","Height":24,"Width":80,"Command":"","Container":"",'
    b'"ContainerUser":"","BackendType":""}'
)
"""What Go's encoding/json makes of workspacesdk.AgentReconnectingPTYInit, behind its length."""
texts = st.text(max_size=200)
sizes = st.builds(Size, st.integers(1, 65535), st.integers(1, 65535))


def read_all(data: bytes, step: int) -> tuple[Init | None, list[Input]]:
    reader = UpwardReader()
    found = []
    for at in range(0, len(data), step):
        reader.feed(data[at : at + step])
        while (message := reader.next()) is not None:
            found.append(message)
    reader.end()
    return reader.init, found


def test_the_init_is_what_a_go_client_writes() -> None:
    init = Init(ID, Size(24, 80))
    assert init.encode() == GO_INIT
    assert read_all(GO_INIT, 1) == (init, [])


def test_messages_are_what_a_go_client_writes() -> None:
    assert Input("ls\r").encode() == b'{"data":"ls\\r"}'
    assert Input(size=Size(24, 80)).encode() == b'{"height":24,"width":80}'
    assert Input("é", Size(1, 2)).encode() == '{"data":"é","height":1,"width":2}'.encode()
    assert Input().encode() == b"{}"


def test_marks_are_asked_for_in_a_field_that_go_ignores() -> None:
    assert json.loads(Init(ID, marks=True).encode()[2:])["Marks"] is True
    assert b"Marks" not in Init(ID).encode()


@given(
    st.builds(Init, st.uuids().filter(lambda id: id.int), sizes, texts, texts, texts, texts, st.booleans()),
    st.lists(st.builds(Input, texts, sizes), max_size=5),
    st.integers(1, 300),
)
def test_what_is_written_is_read_however_it_is_cut(init: Init, messages: list[Input], step: int) -> None:
    data = init.encode() + b"".join(message.encode() for message in messages)
    assert read_all(data, step) == (init, messages)


def test_keys_may_be_written_in_any_case_and_space_between_messages_is_allowed() -> None:
    body = json.dumps({"id": str(ID), "height": 3, "WIDTH": 4, "command": "x", "unknown": [1]}).encode()
    messages = b' {"Data":"a"}\r\n\t{"HEIGHT":1,"width":2} '
    init, found = read_all(len(body).to_bytes(2, "little") + body + messages, 7)
    assert init == Init(ID, Size(3, 4), "x")
    assert found == [Input("a"), Input(size=Size(1, 2))]


def test_braces_and_quotes_inside_of_data_mean_nothing() -> None:
    for text in ('}{"', "\\", '\\"', '{"data":"\\u007d', "\x1b[A\x00"):
        message = Input(text)
        assert read_all(GO_INIT + message.encode() * 2, 1) == (Init(ID, Size(24, 80)), [message] * 2)


def test_half_a_surrogate_pair_becomes_a_replacement_character() -> None:
    assert Input.parse(rb'{"data":"a\ud800b"}').data == "a\ufffdb"
    assert Input.parse(rb'{"data":"\ud83d\ude00"}').data == "😀"


@pytest.mark.parametrize("cut", range(len(GO_INIT)))
def test_an_init_that_is_cut_is_refused_at_every_byte(cut: int) -> None:
    reader = UpwardReader()
    reader.feed(GO_INIT[:cut])
    assert (reader.next(), reader.init) == (None, None)
    with pytest.raises(RemoteProtocolError, match="before the opening message was complete"):
        reader.end()


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"", "not JSON"),
        (b"hello", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 60000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "no valid ID"),
        (b'{"ID":"42"}', "no valid ID"),
        (b'{"ID":42}', "id is not a string"),
        (b'{"ID":"00000000-0000-0000-0000-000000000000"}', "has no ID"),
        (b'{"ID":"%s","Height":-1}' % str(ID).encode(), "height is not a number"),
        (b'{"ID":"%s","Height":65536}' % str(ID).encode(), "height is not a number"),
        (b'{"ID":"%s","Width":1e3}' % str(ID).encode(), "width is not a number"),
        (b'{"ID":"%s","Width":true}' % str(ID).encode(), "width is not a number"),
        (b'{"ID":"%s","Command":{}}' % str(ID).encode(), "command is not a string"),
    ],
    ids=[
        "empty", "no-json", "no-utf8", "deep", "list", "no-id", "short-id", "number-id", "nil-id", "negative", "huge",
        "float", "bool", "object",
    ],
)  # fmt: skip
def test_an_init_that_makes_no_sense_is_refused(body: bytes, complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=complaint):
        UpwardReader().feed(len(body).to_bytes(2, "little") + body)


def test_the_largest_init_is_read_and_a_larger_one_is_not_written() -> None:
    room = MAX_INIT - len(Init(ID).encode()) + 2
    init = Init(ID, command="x" * room)
    assert len(init.encode()) == 2 + MAX_INIT
    assert read_all(init.encode(), 4096)[0] == init
    with pytest.raises(ValueError, match="too long"):
        Init(ID, command="x" * (room + 1)).encode()


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"x", "does not begin with a brace"),
        (b"[1]", "does not begin with a brace"),
        (b"}", "does not begin with a brace"),
        (b'{"data":}', "not JSON"),
        (b"{]", "not JSON"),
        (b"{" + b'"a":{' * 4, "nested deeper"),
        (b'{"data":7}', "data is not a string"),
        (b'{"height":99999}', "height is not a number"),
        (b'{"data":"' + b"a" * MAX_MESSAGE, "longer than"),
    ],
    ids=["no-json", "list", "brace", "no-value", "mismatch", "deep", "number", "tall", "endless"],
)
def test_a_message_that_makes_no_sense_is_refused(data: bytes, complaint: str) -> None:
    reader = UpwardReader()
    reader.feed(GO_INIT)
    reader.feed(b'{"data":"fine"}' + data)
    assert reader.next() == Input("fine")
    with pytest.raises(RemoteProtocolError, match=complaint):
        reader.next()


def test_a_stream_that_ends_in_a_message_is_refused() -> None:
    reader = UpwardReader()
    reader.feed(GO_INIT + b'{"data":"a')
    with pytest.raises(RemoteProtocolError, match="in the middle of a message"):
        reader.end()


@given(st.binary(max_size=300))
def test_junk_raises_nothing_but_protocol_errors(junk: bytes) -> None:
    for start in (b"", GO_INIT):
        reader = UpwardReader()
        try:
            reader.feed(start + junk)
            while reader.next() is not None:
                pass
        except RemoteProtocolError:
            pass


# ---------------------------------------------------------------- marks


def show(data: bytes, step: int) -> tuple[bytes, Start | None, End | None]:
    reader = MarkReader()
    seen = b"".join(reader.feed(data[at : at + step]) for at in range(0, len(data), step))
    rest, end = reader.end()
    return seen + rest, reader.start, end


@given(
    st.binary(max_size=200), st.sampled_from([Start(), Start(0), Start(65536)]), st.integers(0, 255), st.integers(1, 50)
)
def test_marks_are_told_from_output_however_it_is_cut(output: bytes, start: Start, status: int, step: int) -> None:
    end = End(Ending.EXITED, status)
    assert show(start.mark() + output + end.mark(), step) == (output, start, end)


@given(st.binary(max_size=200), st.integers(1, 50))
def test_without_marks_everything_is_output(output: bytes, step: int) -> None:
    assert show(b"$ " + output, step) == (b"$ " + output, None, None)


def test_a_mark_in_the_middle_is_output_of_some_program() -> None:
    fake, start = End(Ending.EXITED, 7).mark(), Start().mark()
    assert show(start + fake + b"$ ", 1) == (fake + b"$ ", Start(), None)
    assert show(start + fake + fake, 1) == (fake, Start(), End(Ending.EXITED, 7))
    assert show(b"a" + start, 1) == (b"a" + start, None, None)


def test_marks_are_what_they_are() -> None:
    assert Start().mark() == b"\x1b]7766;new\x07"
    assert Start(4711).mark() == b"\x1b]7766;kept;4711\x07"
    assert End(Ending.IDLE).mark() == b"\x1b]7766;end;idle;0\x07"


def test_a_lone_escape_is_shown_as_soon_as_it_can_be_no_mark() -> None:
    reader = MarkReader()
    assert reader.feed(b"\x1b[31mred") == b"\x1b[31mred"
    assert reader.feed(b"\x1b") == b""
    assert reader.feed(b"[0m") == b"\x1b[0m"


def test_who_asked_for_no_marks_reads_how_it_ended() -> None:
    assert End(Ending.EXITED, 3).text() == b"\r\n[exited with status 3]\r\n"
    assert b"nobody was looking" in End(Ending.IDLE).text()
