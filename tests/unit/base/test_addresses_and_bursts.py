"""Endpoints, overlay addresses, and bursts."""

from __future__ import annotations

from ipaddress import IPv6Address
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coder_agent.base.addresses import CODER_PREFIX, TAILSCALE_PREFIX, AddrPort, node_id, overlay_address
from coder_agent.base.burst import Burst

AGENT = UUID("aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa")


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("203.0.113.7:41641", "203.0.113.7", 41641),
        ("[2001:db8::1]:41641", "2001:db8::1", 41641),
        ("[::ffff:203.0.113.7]:1", "203.0.113.7", 1),  # un-mapped: one endpoint has one form
    ],
)
def test_endpoints_are_read_in_canonical_form(text: str, host: str, port: int) -> None:
    assert AddrPort.parse(text) == AddrPort(host, port) == (host, port)
    assert hash(AddrPort.parse(text)) == hash((host, port))


@pytest.mark.parametrize("text", ["", "1.2.3.4", "1.2.3.4:", "1.2.3.4:65536", "1.2.3.4:-1", "2001:db8::1:5", "host:5"])
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        AddrPort.parse(text)


@pytest.mark.parametrize("text", ["foo", "1.2.3.4", "1.2.3.4:http", "1.2.3.4:"])
def test_what_an_endpoint_looks_like_is_said(text: str) -> None:
    """It is a user's setting: `endpoints` of nat_traversal."""
    with pytest.raises(ValueError, match=r"is not an address with a port, as in 1\.2\.3\.4:41641"):
        AddrPort.parse(text)


@given(st.ip_addresses(), st.integers(0, 65535))
def test_endpoints_round_trip(address: object, port: int) -> None:
    endpoint = AddrPort.of(str(address), port)
    assert AddrPort.parse(str(endpoint)) == endpoint
    assert AddrPort.of(endpoint.packed16(), port) == endpoint


def test_overlay_addresses_are_the_uuid_behind_the_prefix() -> None:
    assert overlay_address(TAILSCALE_PREFIX, AGENT) == IPv6Address("fd7a:115c:a1e0:4aaa:8aaa:aaaa:aaaa:aaaa")
    assert overlay_address(CODER_PREFIX, AGENT) == IPv6Address("fd60:627a:a42b:4aaa:8aaa:aaaa:aaaa:aaaa")


def test_node_ids_are_not_negative() -> None:
    assert node_id(UUID(int=5)) == 5
    assert node_id(UUID(int=(1 << 64) - 3)) == 3  # -3 as int64, absolute


@given(st.lists(st.binary(min_size=8, max_size=8), min_size=1, max_size=70), st.integers(1, 8), st.integers(0, 5))
def test_a_burst_gives_back_its_rows_and_copies_them_closely(rows: list[bytes], last: int, gap: int) -> None:
    buffer = bytearray()
    for row in rows:
        buffer += bytes(gap) + row
    burst = Burst(memoryview(buffer), gap, 8 + gap, len(rows), 8, last, gap)
    expected = [*rows[:-1], rows[-1][:last]]
    assert [bytes(row) for row in burst.rows()] == expected
    assert burst.size_bytes == sum(map(len, expected))
    copy = burst.copy()
    buffer[:] = bytes(len(buffer))
    assert [bytes(row) for row in copy.rows()] == expected
    assert copy.contiguous
    assert burst.contiguous is (gap == 0 or len(rows) == 1)


def test_a_burst_of_one_packet_is_a_view() -> None:
    packet = bytearray(b"packet")
    burst = Burst.of(packet)
    packet[0] = ord("P")
    assert bytes(burst.row(0)) == b"Packet"
    assert burst.size_bytes == 6
