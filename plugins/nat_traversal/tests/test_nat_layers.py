"""Counting NATs by where packets die."""

from __future__ import annotations

import socket
import struct

import pytest
from coder_agent_nat_traversal.layers import ARRIVED, IP_RECVERR, count_layers, offender_of, stun_server

from coder_agent.base.derp_map import DerpMap, DerpNode, DerpRegion


@pytest.mark.parametrize(
    ("hops", "layers"),
    [
        (["192.168.1.1", "203.0.113.7"], 1),
        (["192.168.1.1", ARRIVED], 1),
        (["192.168.1.1", "100.64.0.1", "203.0.113.7"], 2),
        (["10.0.0.1", "172.16.0.1", "192.168.0.1", ARRIVED], 3),
        (["203.0.113.7"], 0),
        ([ARRIVED], 0),
        (["192.168.1.1", ""], 0),
        (["", "203.0.113.7"], 0),
        (["192.168.1.1"] * 5, 0),
        ([], 0),
    ],
)
def test_private_routers_up_to_the_first_public_one_are_nats(hops: list[str], layers: int) -> None:
    assert count_layers(hops) == layers


def error(origin: int, icmp_type: int, address: str) -> tuple[int, int, bytes]:
    head = struct.pack("=IBBBBII", 113, origin, icmp_type, 0, 0, 0, 0)
    return socket.IPPROTO_IP, IP_RECVERR, head + struct.pack("=HH", socket.AF_INET, 0) + socket.inet_aton(address)


def test_the_router_that_a_packet_died_at_is_read_from_the_error_queue() -> None:
    assert offender_of([(1, 2, b"other"), error(2, 11, "192.168.1.1")]) == "192.168.1.1"


@pytest.mark.parametrize(
    "control",
    [[], [error(2, 3, "192.168.1.1")], [error(1, 11, "192.168.1.1")], [(socket.IPPROTO_IP, IP_RECVERR, b"\0" * 23)]],
    ids=["nothing", "unreachable", "local error", "cut short"],
)
def test_other_errors_say_nothing_of_a_router(control: list[tuple[int, int, bytes]]) -> None:
    assert offender_of(control) == ""


def test_a_server_whose_address_the_map_states_is_asked() -> None:
    def region(number: int, **fields: object) -> DerpRegion:
        node = DerpNode(f"{number}a", number, "relay.example", **fields)  # type: ignore[arg-type]
        return DerpRegion(number, nodes=(node,))

    silent, named = region(1, ipv4="192.0.2.1", stun_port=-1), region(2)
    stated = region(3, ipv4="192.0.2.3", stun_port=3479)
    assert stun_server(DerpMap({1: silent, 2: named})) is None
    assert stun_server(DerpMap({1: silent, 2: named, 3: stated})) == ("192.0.2.3", 3479)
