"""The rules of docs/airgap.md, corner by corner."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from coder_agent_airgap.entries import Entry, address_of, name_of
from coder_agent_airgap.policy import AirgapPolicy
from hypothesis import given
from hypothesis import strategies as st

from coder_agent.base.egress import Purpose

ALLOW = (
    "relay.corp.example:443",
    "Bücher.example",
    "*.lab.corp.example",
    "203.0.113.0/24",
    "198.51.100.7:3478",
    "2001:db8:1::/48",
    "[2001:db8:2::9]:443",
)


def policy(*allow: str, private: bool = True) -> AirgapPolicy:
    made = AirgapPolicy([Entry.parse(text) for text in allow or ALLOW], private=private)
    made.trust("coder.corp.example", "the address of the coder server")
    made.trust("192.0.2.80", "the address of the coder server")
    return made


@pytest.mark.parametrize(
    ("host", "address", "port", "allowed"),
    [
        # the coder server, at every port, wherever its name leads
        ("coder.corp.example", None, 443, True),
        ("coder.corp.example", "8.8.8.8", 3478, True),
        ("CODER.corp.Example.", None, 443, True),
        ("192.0.2.80", None, 1, True),
        ("192.0.2.81", None, 1, False),
        ("evil.coder.corp.example", None, 443, False),
        ("coder.corp.example.evil.test", None, 443, False),
        # names: as they would be looked up
        ("relay.corp.example", None, 443, True),
        ("relay.corp.example", None, 80, False),
        ("relay.corp.example", None, 0, True),  # the port is not known yet
        ("relay.corp.example", "8.8.8.8", 443, True),  # a listed name, wherever it leads
        ("relay.corp.example", "8.8.8.8", 80, False),
        ("relay.corp.example..", None, 443, False),
        ("bücher.example", None, 443, True),
        ("xn--bcher-kva.example", None, 443, True),
        ("XN--BCHER-KVA.EXAMPLE", None, 443, True),
        ("bucher.example", None, 443, False),
        ("a.lab.corp.example", None, 22, True),
        ("a.b.lab.corp.example.", None, 22, True),
        ("lab.corp.example", None, 22, False),
        ("evillab.corp.example", None, 22, False),
        ("other.example", None, 443, False),
        # DNS rebinding, and addresses that a map states beside a name that nobody listed
        ("other.example", "10.0.0.5", 443, True),
        ("other.example", "8.8.8.8", 443, False),
        ("localhost", None, 80, True),
        ("localhost", "127.0.0.1", 80, True),
        ("localhost", "::1", 80, True),
        ("localhost", "10.0.0.5", 80, False),
        ("localhost", "8.8.8.8", 80, False),
        ("a.localhost", None, 80, False),
        # addresses
        ("203.0.113.9", None, 1, True),
        ("203.0.114.9", None, 1, False),
        ("203.0.113.9", "8.8.8.8", 1, False),  # the address that is connected to counts
        ("8.8.8.8", "203.0.113.9", 1, True),
        ("", "203.0.113.9", 1, True),
        ("", "8.8.8.8", 1, False),
        ("198.51.100.7", None, 3478, True),
        ("198.51.100.7", None, 3479, False),
        ("2001:db8:1:2::3", None, 9, True),
        ("[2001:db8:1:2::3]", None, 9, True),
        ("2001:db8:2::9", None, 443, True),
        ("2001:db8:2::9", None, 444, False),
        ("2001:DB8:0001::1", None, 9, True),
        # IPv4 in IPv6
        ("::ffff:203.0.113.9", None, 1, True),
        ("::ffff:8.8.8.8", None, 1, False),
        ("::ffff:10.0.0.1", None, 1, True),
        ("::ffff:7f00:1", None, 1, True),
        ("::8.8.8.8", None, 1, False),
        ("64:ff9b::808:808", None, 1, False),
        ("64:ff9b::a00:1", None, 1, False),
        ("2002:a00:1::1", None, 1, False),
        # private
        ("10.255.255.255", None, 1, True),
        ("11.0.0.0", None, 1, False),
        ("172.15.255.255", None, 1, False),
        ("172.16.0.0", None, 1, True),
        ("172.31.255.255", None, 1, True),
        ("172.32.0.0", None, 1, False),
        ("192.168.0.1", None, 1, True),
        ("192.169.0.1", None, 1, False),
        ("127.255.0.1", None, 1, True),
        ("0.0.0.0", None, 1, True),
        ("0.0.0.1", None, 1, False),
        ("::", None, 1, True),
        ("169.254.1.1", None, 1, True),
        ("100.64.0.1", None, 1, False),
        ("fe80::1%eth0", None, 1, True),
        ("fe80::1%8.8.8.8", None, 1, True),
        ("fec0::1", None, 1, False),
        ("fdff::1", None, 1, True),
        ("fe00::1", None, 1, False),
        ("224.0.0.251", None, 5353, True),
        ("ff02::fb", None, 5353, True),
        ("ff0e::fb", None, 5353, False),
        ("224.0.1.1", None, 1, False),
        ("239.255.255.250", None, 1900, True),
        ("255.255.255.255", None, 1, True),
        # spellings that inet_aton knows: names that nobody listed
        ("134744072", None, 1, False),
        ("0x8080808", None, 1, False),
        ("127.1", None, 1, False),
        ("010.0.0.1", None, 1, False),
        # junk
        ("", None, 1, False),
        (".", None, 1, False),
        ("a b", None, 1, False),
        ("relay.corp.example\n", None, 443, False),
        ("relay.corp.example\0.evil.test", None, 443, False),
        ("x" * 64 + ".lab.corp.example", None, 443, False),
        ("a." * 130 + "lab.corp.example", None, 443, False),
        ("relay.corp.example", "not an address", 443, False),
        ("*.lab.corp.example", None, 443, False),
    ],
)
def test_what_is_inside(host: str, address: str | None, port: int, allowed: bool) -> None:
    verdict = policy().judge(host, address, port, Purpose.CONNECT)
    assert verdict.allowed is allowed, verdict
    assert verdict.rule


@pytest.mark.parametrize("host", ["10.0.0.1", "127.0.0.1", "::1", "fe80::1", "localhost", "224.0.0.251", "0.0.0.0"])
def test_private_addresses_can_be_switched_off(host: str) -> None:
    assert not policy(private=False).judge(host, None, 1, Purpose.PEER).allowed
    assert policy(host, private=False).judge(host, None, 1, Purpose.PEER).allowed


def test_rules_are_named_in_the_words_of_the_operator() -> None:
    made = policy()
    assert made.judge("coder.corp.example", None, 1, Purpose.CONNECT).rule == (
        "coder.corp.example is the address of the coder server"
    )
    assert made.judge("Relay.corp.example", None, 443, Purpose.CONNECT).rule == (
        "relay.corp.example:443 is on the allow-list"
    )
    assert made.judge("10.0.0.1", None, 1, Purpose.CONNECT).rule == "private (RFC 1918)"
    assert made.judge("x.test", None, 1, Purpose.CONNECT).rule == (
        "the name is not on the allow-list and is not looked up"
    )
    assert made.rules()[:3] == [
        "coder.corp.example is the address of the coder server",
        "192.0.2.80 is the address of the coder server",
        "relay.corp.example:443 is on the allow-list",
    ]
    assert made.rules()[-1] == "private, link-local and loopback addresses"


def test_trusting_twice_is_trusting_once_and_junk_is_ignored() -> None:
    made = AirgapPolicy(())
    for host in ("a.test", "A.test", "a.test", "a b", "", "::ffff:192.0.2.1"):
        made.trust(host, "mine")
    assert made.judge("192.0.2.1", None, 1, Purpose.CONNECT).allowed
    assert made.rules()[:-1] == ["a.test is mine", "A.test is mine", "::ffff:192.0.2.1 is mine"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is not a host"),
        ("https://relay.example", "is not a host"),
        ("relay.example:0", "is not a port"),
        ("relay.example:65536", "is not a port"),
        ("relay.example:https", "is not a port"),
        ("relay.example:", "is not a port"),
        ("10.0.0.1/8", r"is 10\.0\.0\.0/8 meant\?"),
        ("10.0.0.0/33", "is not a network"),
        ("fd00::1/8", "is fd00::/8 meant"),
        ("300.1.1.1", "is neither"),
        ("127.1", "is neither"),
        ("134744072", "is neither"),
        ("a b.example", "is neither"),
        ("*", "is neither"),
        ("*.", "is neither"),
        ("a.*.example", "is neither"),
        ("[2001:db8::1]:x", "is not a port"),
    ],
)
def test_entries_that_mean_nothing_are_refused_with_a_sentence(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Entry.parse(text)


@given(st.text(max_size=40), st.none() | st.text(max_size=20) | st.ip_addresses().map(str), st.integers(0, 65535))
def test_no_text_raises_and_nothing_unlisted_is_looked_up(host: str, address: str | None, port: int) -> None:
    verdict = policy().judge(host, address, port, Purpose.LOOKUP)
    if verdict.allowed and address is None:
        literal, name = address_of(host), name_of(host)
        assert literal is not None or name in ("localhost", "coder.corp.example") or "corp.example" in str(name)


@given(st.ip_addresses())
def test_an_address_is_inside_exactly_if_a_network_says_so(address: object) -> None:
    parsed = ip_address(str(address))
    allowed = policy("192.0.2.0/24", private=False).judge(str(address), None, 1, Purpose.PEER).allowed
    plain = getattr(parsed, "ipv4_mapped", None) or parsed
    assert allowed is (plain.version == 4 and str(plain).startswith("192.0.2."))
