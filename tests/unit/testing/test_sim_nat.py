"""The simulated NATs: both axes of RFC 4787, apart."""

from __future__ import annotations

import pytest

from coder_agent.base.addresses import AddrPort
from coder_agent.testing.sim_nat import Filtering, Mapping, Nat

INSIDE = AddrPort("192.168.1.2", 41641)
A = AddrPort("203.0.113.1", 1000)
A_OTHER_PORT = AddrPort("203.0.113.1", 1001)
B = AddrPort("203.0.113.2", 1000)


@pytest.mark.parametrize(
    ("mapping", "ports"),
    [
        (Mapping.ENDPOINT_INDEPENDENT, [20000, 20000, 20000]),
        (Mapping.ADDRESS_DEPENDENT, [20000, 20000, 20001]),
        (Mapping.ADDRESS_AND_PORT_DEPENDENT, [20000, 20001, 20002]),
    ],
)
def test_mapping(mapping: Mapping, ports: list[int]) -> None:
    nat = Nat("198.51.100.1", mapping, Filtering.ENDPOINT_INDEPENDENT)
    assert [nat.outbound(INSIDE, target, 0).port for target in (A, A_OTHER_PORT, B)] == ports
    assert [nat.outbound(INSIDE, target, 1).port for target in (A, A_OTHER_PORT, B)] == ports


@pytest.mark.parametrize(
    ("filtering", "admitted"),
    [
        (Filtering.ENDPOINT_INDEPENDENT, [True, True, True]),
        (Filtering.ADDRESS_DEPENDENT, [True, True, False]),
        (Filtering.ADDRESS_AND_PORT_DEPENDENT, [True, False, False]),
    ],
)
def test_filtering(filtering: Filtering, admitted: list[bool]) -> None:
    nat = Nat("198.51.100.1", Mapping.ENDPOINT_INDEPENDENT, filtering)
    outside = nat.outbound(INSIDE, A, 0)
    came_in = [nat.inbound(source, outside, 1) for source in (A, A_OTHER_PORT, B)]
    assert came_in == [INSIDE if ok else None for ok in admitted]


def test_nothing_comes_in_at_a_port_never_used() -> None:
    nat = Nat("198.51.100.1", Mapping.ENDPOINT_INDEPENDENT, Filtering.ENDPOINT_INDEPENDENT)
    assert nat.inbound(A, AddrPort("198.51.100.1", 20000), 0) is None


def test_mappings_are_kept_by_outbound_packets_only() -> None:
    nat = Nat("198.51.100.1", Mapping.ENDPOINT_INDEPENDENT, Filtering.ENDPOINT_INDEPENDENT, lifetime=30)
    outside = nat.outbound(INSIDE, A, 0)
    assert nat.inbound(A, outside, 29) == INSIDE
    assert nat.inbound(A, outside, 31) is None
    assert nat.outbound(INSIDE, A, 31) != outside
