"""What a deployment allows its programs to talk to: the question, and the answer."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple, Protocol


class Purpose(StrEnum):
    """Why somebody wants to talk to an address. Names are stable: they are labels of a metric."""

    CONNECT = "connect"
    PROXY = "proxy"
    LOOKUP = "lookup"
    STUN = "stun"
    PING = "ping"
    PEER = "peer"
    RELAY = "relay"
    PORT_MAPPING = "port-mapping"


class Verdict(NamedTuple):
    """May it be done? `rule` says by which rule, in words an operator understands."""

    allowed: bool
    rule: str


class EgressPolicy(Protocol):
    """What the hook `coder_egress_policy` returns. Asked before a name is looked up, before a connection is made, and
    before an address of a peer, a relay or a STUN server is used; not per packet."""

    name: str

    def judge(self, host: str, address: str | None, port: int, purpose: Purpose) -> Verdict:
        """May `host` (a name, or an address) be talked to at `port`?

        `address` None: `host` is about to be looked up, or handed to a proxy; else it is what was found. `port` 0: not
        known yet, or none. Junk is refused, not raised for.
        """
        ...

    def trust(self, host: str, reason: str) -> None:
        """The program was told by its user to talk to `host`: that is its coder server."""
        ...
