"""Tokens and admission, without tailcat; tests/interop lets tailcat itself read what is written here."""

from __future__ import annotations

import base64
from ipaddress import IPv6Address

import pytest

from coder_agent.base.derp_map import DerpNode
from coder_agent.base.keys import DiscoPublic, NodePublic
from coder_agent.testing.tailcat import (
    Token,
    inner_address,
    is_meow_pong,
    meow_ping,
    meow_pong,
    peer_node,
    read_meow_ping,
)

KEY, DISCO, PSK = NodePublic(bytes(range(32))), DiscoPublic(bytes(range(32, 64))), bytes(range(64, 96))


def test_a_token_byte_for_byte() -> None:
    relay = DerpNode("1a", 1, "127.0.0.1", ipv4="127.0.0.1", stun_port=-1, derp_port=3443, insecure_for_tests=True)
    text = Token(KEY, DISCO, PSK, relay).text()
    assert text.startswith("tc")
    assert "=" not in text
    expected = (
        b"\xa4\x61p\x58\x20" + KEY.raw + b"\x61k\x58\x20" + DISCO.raw
        + b"\x61r\x81\xa1\x61N\x81\xa6\x61h\x69127.0.0.1\x614\x69127.0.0.1\x616\x64none"
        + b"\x61s\x20\x61d\x19\x0d\x73\x61x\xf5" + b"\x61q\x58\x20" + PSK
    )  # fmt: skip
    assert base64.urlsafe_b64decode(text[2:] + "==") == expected


def test_a_token_without_a_pre_shared_key_has_none() -> None:
    with_key = Token(KEY, DISCO, PSK, DerpNode("1a", 1, "relay.invalid"))
    without = Token(KEY, DISCO, None, with_key.relay)
    assert len(with_key.text()) - len(without.text()) == 48  # 36 bytes of CBOR


def test_the_inner_address_starts_with_the_key() -> None:
    assert inner_address(KEY) == IPv6Address("fd7a:115c:a1e0:1:203:405:607:809")
    node = peer_node(KEY, DISCO, 7)
    assert [str(network) for network in node.allowed_ips] == ["fd7a:115c:a1e0:1:203:405:607:809/128"]
    assert (node.key, node.disco, node.preferred_derp) == (KEY, DISCO, 7)


def test_admission() -> None:
    ping = meow_ping(KEY, DISCO)
    assert ping == b"meow\x01" + KEY.raw + DISCO.raw
    assert len(ping) == 69
    assert read_meow_ping(ping) == DISCO
    assert is_meow_pong(meow_pong())
    assert is_meow_pong(meow_pong() + b"\x03")  # with capabilities
    assert not is_meow_pong(ping)


@pytest.mark.parametrize("size", range(69))
def test_a_short_request_is_none(size: int) -> None:
    assert read_meow_ping(meow_ping(KEY, DISCO)[:size]) is None
