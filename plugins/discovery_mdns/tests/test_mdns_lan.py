"""What is announced and what is believed, as values."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface

import pytest
from coder_agent_discovery_mdns.lan import MAX_ANNOUNCED, MAX_PER_PEER, Found, Lan, announced, believable, lans_of
from coder_agent_discovery_mdns.names import SERVICE_TYPE, instance_name, name_of
from hypothesis import given
from hypothesis import strategies as st

from coder_agent.base.addresses import AddrPort
from coder_agent.base.keys import NodePublic


def lan(name: str, *addresses: str) -> Lan:
    return Lan(name, 2, tuple(ip_interface(one) for one in addresses))


HOME = lan("eth0", "192.168.1.10/24", "fd00:1::10/64")


def test_the_name_is_a_hash_of_the_key_and_fits_into_a_label() -> None:
    key = NodePublic(bytes(range(32)))
    assert instance_name(key) == "e11e1b8c4f2d712b59cceda5cca59d12"
    assert instance_name(NodePublic(bytes(32))) != instance_name(key)
    assert key.raw.hex()[:8] not in instance_name(key)


@pytest.mark.parametrize(
    ("service", "name"),
    [
        (f"abc.{SERVICE_TYPE}", "abc"),
        (f"ABC.{SERVICE_TYPE.upper()}", "abc"),
        (f"a.b.{SERVICE_TYPE}", ""),
        ("abc._http._tcp.local.", ""),
        ("abc", ""),
        ("", ""),
    ],
)
def test_only_services_of_our_type_have_a_name(service: str, name: str) -> None:
    assert name_of(service) == name


def test_interfaces_that_reach_no_lan_are_left_out() -> None:
    interfaces = [
        lan("lo", "127.0.0.1/8", "::1/128"),
        lan("wg0", "10.8.0.2/32"),
        lan("tailnet0", "fd7a:115c:a1e0::1/48", "fd60:627a:a42b::1/48"),
        lan("eth0", "192.168.1.10/24", "fe80::1/64", "fd00:1::10/64"),
        lan("usb0", "169.254.7.7/16"),
    ]
    assert lans_of(interfaces) == [HOME, lan("usb0", "169.254.7.7/16")]
    assert [one.name for one in lans_of(interfaces, ["usb0"])] == ["usb0"]


def test_addresses_are_announced_for_the_families_that_listen() -> None:
    assert announced([HOME], ipv4=True, ipv6=True) == ("192.168.1.10", "fd00:1::10")
    assert announced([HOME], ipv4=True, ipv6=False) == ("192.168.1.10",)
    assert announced([HOME], ipv4=False, ipv6=False) == ()
    many = lan("eth0", *(f"10.0.{number}.1/24" for number in range(100)))
    assert len(announced([many], ipv4=True, ipv6=True)) == MAX_ANNOUNCED


def test_neighbours_are_believed_and_nobody_else() -> None:
    said = (
        "192.168.1.20", "192.168.1.20", "fd00:1::20",  # a neighbour, twice in one family
        "192.168.1.10",  # ourselves
        "192.168.1.0", "192.168.1.255",  # the network, everybody
        "203.0.113.9", "2001:db8::9", "224.0.0.251", "127.0.0.1", "0.0.0.0", "::", "fe80::9", "nonsense",
    )  # fmt: skip
    endpoints, ignored = believable(Found(said, 5000, 6000), [HOME], ipv4=True, ipv6=True)
    assert endpoints == [AddrPort("192.168.1.20", 5000), AddrPort("fd00:1::20", 6000)]
    assert ignored == len(said) - 3
    assert believable(Found(said, 5000, 6000), [HOME], ipv4=True, ipv6=False)[0] == endpoints[:1]
    assert believable(Found(said, 0, 70000), [HOME], ipv4=True, ipv6=True) == ([], len(said))


def test_a_thousand_addresses_are_a_handful() -> None:
    said = tuple(f"192.168.{number >> 8}.{number & 255}" for number in range(256, 1256))
    endpoints, ignored = believable(Found(said, 1, 1), [lan("eth0", "192.168.0.1/16")], ipv4=True, ipv6=True)
    assert len(endpoints) == MAX_PER_PEER
    assert ignored == 1000 - MAX_PER_PEER


@given(st.lists(st.ip_addresses().map(str) | st.text(max_size=20), max_size=40), st.integers(-9, 99999))
def test_whatever_is_announced_what_is_believed_lies_in_our_subnets(said: list[str], port: int) -> None:
    endpoints, ignored = believable(Found(tuple(said), port, port), [HOME], ipv4=True, ipv6=True)
    assert ignored + len(endpoints) <= len(said)
    for endpoint in endpoints:
        assert endpoint.port == port
        assert any(ip_address(endpoint.host) in one.network for one in HOME.addresses)
