"""What is inside? Pure: no name is looked up to find out.

A *name* is judged as such: the operator listed it, then wherever it leads is inside, or he did not, then it is not even
looked up. An *address* (written by the user, stated by a relay map, published by a peer) is judged by the networks,
also when it comes with a name: only what the resolver found for a listed name is inside because of the name.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_network

from coder_agent.base.egress import Purpose, Verdict

from .entries import Address, Entry, address_of, name_of

PRIVATE = {
    "10.0.0.0/8": "private (RFC 1918)",
    "172.16.0.0/12": "private (RFC 1918)",
    "192.168.0.0/16": "private (RFC 1918)",
    "127.0.0.0/8": "loopback",
    "0.0.0.0/32": "this machine",
    "169.254.0.0/16": "link-local",
    "224.0.0.0/24": "multicast on the link",
    "239.255.0.0/16": "multicast on the site (RFC 2365)",
    "255.255.255.255/32": "broadcast on the link",
    "::1/128": "loopback",
    "::/128": "this machine",
    "fe80::/10": "link-local",
    "fc00::/7": "private (RFC 4193)",
    "ff02::/16": "multicast on the link",
}
"""What `private` means. Not in it: 100.64.0.0/10 (RFC 6598), which is a provider's network and not ours, and every
form that wraps an IPv4 address for a translator outside (64:ff9b::/96, 2002::/16)."""
_NETWORKS = [(ip_network(text), words) for text, words in PRIVATE.items()]
LOCAL_NAME = "localhost"
"""The one name that may be looked up without being listed: it is in every hosts file (RFC 6761 §6.3). Names below it
are not, for some resolvers ask DNS about them."""


class AirgapPolicy:
    """The allow-list, the coder server, and (`private`) what cannot leave the site. hooks: EgressPolicy."""

    name = "airgap"

    def __init__(self, entries: Sequence[Entry], *, private: bool = True) -> None:
        self._entries = tuple(entries)
        self._private = private
        self._trusted: list[tuple[Entry, str]] = []

    def trust(self, host: str, reason: str) -> None:
        """`host` is inside, at every port. What is neither a name nor an address is ignored."""
        address, name = address_of(host), name_of(host)
        if address is not None:
            entry = Entry(host, network=ip_network(address))
        elif name is not None:
            entry = Entry(host, name=name)
        else:
            return
        if (entry, reason) not in self._trusted:
            self._trusted.append((entry, reason))

    def rules(self) -> list[str]:
        """What is inside, in words."""
        listed = [f"{entry.text} is on the allow-list" for entry in self._entries]
        trusted = [f"{entry.text} is {reason}" for entry, reason in self._trusted]
        return [*trusted, *listed, *(["private, link-local and loopback addresses"] if self._private else [])]

    def judge(self, host: str, address: str | None, port: int, purpose: Purpose) -> Verdict:
        """hooks: EgressPolicy.judge."""
        literal = address_of(host)
        found = address_of(address) if address is not None else literal
        if address is not None and found is None:
            return Verdict(False, "what was found is not an address")
        if literal is not None:  # the address that counts is the one that is connected to
            return self._judge_address(found if found is not None else literal, port)
        if not host and found is not None:
            return self._judge_address(found, port)
        name = name_of(host)
        if name is None:
            return Verdict(False, "this is neither a name nor an address")
        return self._judge_name(name, found, port)

    def _judge_name(self, name: str, found: Address | None, port: int) -> Verdict:
        for entry, reason in self._trusted:
            if entry.covers_name(name, port):
                return Verdict(True, f"{entry.text} is {reason}")
        for entry in self._entries:
            if entry.covers_name(name, port):
                return Verdict(True, f"{entry.text} is on the allow-list")
        if self._private and name == LOCAL_NAME:
            if found is None or found.is_loopback:
                return Verdict(True, "localhost is this machine")
            return Verdict(False, "localhost does not lead to this machine here")
        if found is None:
            return Verdict(False, "the name is not on the allow-list and is not looked up")
        return self._judge_address(found, port)

    def _judge_address(self, address: Address, port: int) -> Verdict:
        for entry, reason in self._trusted:
            if entry.covers_address(address, port):
                return Verdict(True, f"{entry.text} is {reason}")
        for entry in self._entries:
            if entry.covers_address(address, port):
                return Verdict(True, f"{entry.text} is on the allow-list")
        for network, words in _NETWORKS:
            if network.version == address.version and address in network:
                return Verdict(self._private, words if self._private else f"{words}, and private is off")
        return Verdict(False, "a public address that is not on the allow-list")
