"""Which hosts an agent's users get to."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from coder_agent_port_forward.outbound import OutboundPolicy
from coder_agent_port_forward.settings import PortForwardSettings
from pydantic import ValidationError


@pytest.mark.parametrize(
    ("text", "host", "address", "allowed"),
    [
        ("none", "example.com", "93.184.216.34", False),
        ("all", "example.com", "93.184.216.34", True),
        ("all", "example.com", "2001:db8::1", True),
        ("all", "metadata", "169.254.169.254", False),
        ("all", "printer", "fe80::1", False),
        ("all", "sneaky.example", "127.0.0.1", False),
        ("all", "sneaky.example", "::ffff:127.0.0.1", False),
        ("all", "sneaky.example", "::ffff:169.254.169.254", False),
        ("all", "0.0.0.0", "0.0.0.0", False),
        ("all", "224.0.0.1", "224.0.0.1", False),
        ("10.0.0.0/8", "db.internal", "10.1.2.3", True),
        ("10.0.0.0/8", "db.internal", "11.1.2.3", False),
        ("10.0.0.0/8", "db.internal", "2001:db8::1", False),
        ("169.254.169.254", "169.254.169.254", "169.254.169.254", True),
        ("db.internal", "db.internal", "11.1.2.3", True),
        ("db.internal", "DB.Internal.", "11.1.2.3", True),
        ("db.internal", "x.db.internal", "11.1.2.3", False),
        ("*.internal, 192.0.2.7", "x.internal", "11.1.2.3", True),
        ("*.internal, 192.0.2.7", "internal", "11.1.2.3", False),
        ("*.internal, 192.0.2.7", "notinternal", "11.1.2.3", False),
        ("*.internal, 192.0.2.7", "192.0.2.7", "192.0.2.7", True),
        ("*.internal", "x.internal", "127.0.0.1", False),
    ],
)
def test_hosts_and_addresses(text: str, host: str, address: str, allowed: bool) -> None:
    assert OutboundPolicy.parse(text).allows(host, ip_address(address)) is allowed


@pytest.mark.parametrize(
    ("text", "host", "sense"),
    [("none", "a", False), ("all", "a", True), ("10.0.0.0/8", "a", True), ("b", "a", False), ("*.b", "a.b", True)],
)
def test_names_that_can_only_be_refused_are_not_looked_up(text: str, host: str, sense: bool) -> None:
    assert OutboundPolicy.parse(text).may_resolve(host) is sense


@pytest.mark.parametrize("text", ["10.0.0.1/8", "1.2.3", "*", "a b", "http://x", "a,,b", "x/8"])
def test_nonsense_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="is not a name"):
        OutboundPolicy.parse(text)
    with pytest.raises(ValidationError):
        PortForwardSettings(outbound=text)


def test_nobody_is_let_out_unless_told() -> None:
    assert OutboundPolicy.parse(PortForwardSettings().outbound).nothing
