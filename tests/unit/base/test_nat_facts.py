"""Facts about a network: what a newer measurement overrides, and what it leaves."""

from __future__ import annotations

from coder_agent.base.nat_facts import NatFacts

KNOWN = NatFacts(udp=True, port_mapping=frozenset({"upnp"}), port_mapped=True, gateway_asked=True, listen_port=41641)


def test_what_is_not_known_keeps_its_last_value() -> None:
    assert KNOWN.updated(NatFacts()) == KNOWN
    assert KNOWN.updated(NatFacts(udp=False)).udp is False
    assert KNOWN.updated(NatFacts(udp=False)).listen_port == 41641


def test_a_gateway_that_was_asked_again_speaks_only_what_it_speaks_now() -> None:
    moved = KNOWN.updated(NatFacts(port_mapped=False, gateway_asked=True))
    assert moved.port_mapping == frozenset()
    assert moved.port_mapped is False
    assert KNOWN.updated(NatFacts(port_mapped=False, gateway_asked=False)).port_mapping == frozenset()


def test_the_step_of_ports_belongs_to_the_last_look_at_the_mapping() -> None:
    stepping = NatFacts(mapping_varies=True, port_step=2)
    assert stepping.updated(NatFacts(mapping_varies=True)).port_step == 0
    assert stepping.updated(NatFacts(udp=True)).port_step == 2
