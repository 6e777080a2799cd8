"""Lines between `coder port-forward` and the agent's forward service."""

from __future__ import annotations

import pytest
from coder_agent_port_forward.protocol import (
    Code,
    Op,
    Refusal,
    Request,
    decode_reply,
    decode_request,
    encode_refusal,
    encode_request,
)
from hypothesis import given
from hypothesis import strategies as st

from coder_agent.errors import RemoteProtocolError


@pytest.mark.parametrize(
    "request_",
    [Request(Op.CONNECT, host="db.internal", port=5432), Request(Op.LISTEN, port=9000), Request(Op.ACCEPT, id="abc")],
    ids=["connect", "listen", "accept"],
)
def test_requests_survive_the_wire(request_: Request) -> None:
    assert decode_request(encode_request(request_).rstrip(b"\n")) == request_


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"op": "delete"}',
        b'{"op": "connect", "port": 80}',
        b'{"op": "connect", "host": "a", "port": 0}',
        b'{"op": "connect", "host": "a", "port": true}',
        b'{"op": "connect", "host": "a\\u0000", "port": 80}',
        b'{"op": "connect", "host": ["a"], "port": 80}',
        b'{"op": "listen", "port": 65536}',
        b'{"op": "listen", "port": "80"}',
        b'{"op": "accept", "id": 5}',
        b"\xff",
    ],
)
def test_junk_is_a_refusal(line: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        decode_request(line)
    assert caught.value.code is Code.MALFORMED


@given(st.binary(max_size=100))
def test_no_line_breaks_either_side(line: bytes) -> None:
    with pytest.raises(Refusal):
        decode_request(line)
    try:
        decode_reply(line)
    except (Refusal, RemoteProtocolError):
        pass


def test_refusals_come_over_with_their_sentence_and_nothing_worse() -> None:
    with pytest.raises(Refusal, match="not today") as caught:
        decode_reply(encode_refusal(Refusal(Code.POLICY, "not today")))
    assert caught.value.code is Code.POLICY
    with pytest.raises(Refusal, match=r"^\?\[2J") as caught:
        decode_reply(b'{"error": "\\u001b[2J", "code": "new"}')
    assert caught.value.code is Code.REFUSED
