"""Our own disco messages: what one end knows about its network, and the call to guess ports. Over a relay only.

Their types are far from Tailscale's (1–11 at the time of writing). A stock peer drops what it cannot parse without a
word, because it may be from a newer version: tailscale wgengine/magicsock/magicsock.go (handleDiscoMessage, on a failed
disco.Parse) and disco/disco.go (Parse: "unknown message type").

Integers are big-endian, addresses as in messages.py. Bytes behind what a message needs are ignored, so that it can
grow; another version is a message that we do not know.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...base.addresses import AddrPort
from ...base.nat_facts import NatFacts, PathReport

ENDPOINT_SIZE = 18
MAX_TRIED = 32
MAX_SEEN_FROM = 8
MAX_RULE = 64
"""Bounds of a message's lists, and bytes of its text: 850 bytes at most, one packet of any relay."""
_LIMIT_16 = 0xFFFF
_FIXED = struct.Struct(">BBBBBhHHHHH")
"""flags, known, values, protocols, NAT layers, port step, MTU, listen port, sent, answered, seen."""
_ASK, _DIRECT, _TOO_SMALL = 1, 2, 4
_TRISTATE = (
    "udp", "ipv4", "ipv6", "mapping_varies", "port_mapped", "gateway_asked", "captive_portal", "direct_allowed",
)  # fmt: skip
"""The facts that are yes, no or not known; the first is the lowest bit."""
_PROTOCOLS = ("pmp", "pcp", "upnp")
_NO_ADDRESS = bytes(ENDPOINT_SIZE)
NO_REPORT = PathReport()
"""Of somebody who knows nothing yet."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Says what we know about our network and how the search for a direct path to the peer went.

    Layout: flags 1 (1 = tell me yours, 2 = direct now, 4 = some address answers small packets only) ‖ known 1 ‖
    values 1 (one bit per fact that is yes or no) ‖ port-mapping protocols 1 ‖ NAT layers 1 ‖ port step 2, signed ‖
    MTU 2 ‖ listen port 2 ‖ pings sent 2 ‖ answered 2 ‖ seen 2 ‖ public IPv4 18 ‖ public IPv6 18 (zeros = not known) ‖
    n 1 ‖ rule, n bytes of UTF-8 ‖ n 1 ‖ addresses tried, n × 18 ‖ n 1 ‖ sources of pings seen, n × 18. Counts stop at
    65535.
    """

    TYPE: ClassVar[int] = 0x70
    report: PathReport = NO_REPORT
    ask: bool = False

    def encode(self) -> bytes:
        """The plaintext. Lists and text beyond their bounds are cut."""
        report, facts = self.report, self.report.facts
        flags = self.ask * _ASK | report.is_direct * _DIRECT | report.too_small * _TOO_SMALL
        known = values = 0
        for bit, name in enumerate(_TRISTATE):
            value = getattr(facts, name)
            known |= (value is not None) << bit
            values |= bool(value) << bit
        protocols = sum(1 << bit for bit, name in enumerate(_PROTOCOLS) if name in facts.port_mapping)
        counts = (facts.mtu, facts.listen_port, report.sent, report.answered, report.seen)
        step = facts.port_step if -0x8000 <= facts.port_step < 0x8000 else 0
        layers = max(0, min(facts.nat_layers, 255))
        fixed = _FIXED.pack(flags, known, values, protocols, layers, step, *(max(0, min(n, _LIMIT_16)) for n in counts))
        rule = facts.direct_rule.encode()[:MAX_RULE]
        return b"".join(
            (
                bytes((self.TYPE, 0)),
                fixed,
                _pack(facts.public_v4),
                _pack(facts.public_v6),
                bytes((len(rule),)) + rule,
                _pack_list(report.tried[:MAX_TRIED]),
                _pack_list(report.seen_from[-MAX_SEEN_FROM:]),
            )
        )


@dataclass(frozen=True, slots=True)
class GuessMyPort:
    """Says "my NAT gave each of my many sockets a port that you cannot know: guess one, at my public address".

    The address is the one that the sender's `Facts` told; there is none in here to be lied about. Layout: attempt 1 ‖
    flags 1 (1 = stop guessing) ‖ sockets 2, open and pinged towards every public address that the peer told.
    """

    TYPE: ClassVar[int] = 0x71
    attempt: int
    sockets: int
    stop: bool = False

    def encode(self) -> bytes:
        """The plaintext."""
        return struct.pack(">BBBBH", self.TYPE, 0, self.attempt & 0xFF, self.stop, min(self.sockets, _LIMIT_16))


def parse_facts(version: int, body: bytes) -> Facts | None:
    """Read the body of a `Facts`; None if it is cut short or breaks a bound. Never raises."""
    try:
        return _parse_facts(body) if version == 0 else None
    except (struct.error, IndexError, ValueError):
        return None


def _parse_facts(body: bytes) -> Facts:
    flags, known, values, protocols, layers, step, mtu, port, sent, answered, seen = _FIXED.unpack_from(body)
    reader = _Reader(body, _FIXED.size)
    public_v4, public_v6 = reader.endpoint(), reader.endpoint()
    rule = reader.take(reader.count(MAX_RULE)).decode(errors="ignore")
    yes_or_no = {name: bool(values >> bit & 1) for bit, name in enumerate(_TRISTATE) if known >> bit & 1}
    facts = NatFacts(
        port_step=step,
        public_v4=public_v4 if public_v4 and not public_v4.is_ipv6 else None,
        public_v6=public_v6 if public_v6 and public_v6.is_ipv6 else None,
        port_mapping=frozenset(name for bit, name in enumerate(_PROTOCOLS) if protocols >> bit & 1),
        mtu=mtu,
        direct_rule="".join(filter(str.isprintable, rule)),  # a stranger's words end up on a user's terminal
        listen_port=port,
        nat_layers=layers,
        **yes_or_no,
    )
    tried, seen_from = reader.endpoints(MAX_TRIED), reader.endpoints(MAX_SEEN_FROM)
    is_direct, too_small = bool(flags & _DIRECT), bool(flags & _TOO_SMALL)
    return Facts(PathReport(facts, sent, answered, seen, tried, seen_from, is_direct, too_small), bool(flags & _ASK))


def parse_guess(version: int, body: bytes) -> GuessMyPort | None:
    """Read the body of a `GuessMyPort`; None if it is cut short. Never raises."""
    if version != 0 or len(body) < 4:
        return None
    return GuessMyPort(body[0], int.from_bytes(body[2:4], "big"), bool(body[1] & 1))


class _Reader:
    """Takes pieces from a body, one after the other. Raises ValueError where it ends too early."""

    def __init__(self, body: bytes, at: int) -> None:
        self._body = body
        self._at = at

    def take(self, size: int) -> bytes:
        piece = self._body[self._at : self._at + size]
        if len(piece) != size:
            raise ValueError("too short")
        self._at += size
        return piece

    def count(self, limit: int) -> int:
        count = self.take(1)[0]
        if count > limit:
            raise ValueError("too many")
        return count

    def endpoint(self) -> AddrPort | None:
        raw = self.take(ENDPOINT_SIZE)
        return None if raw == _NO_ADDRESS else unpack_endpoint(raw)

    def endpoints(self, limit: int) -> tuple[AddrPort, ...]:
        return tuple(unpack_endpoint(self.take(ENDPOINT_SIZE)) for _ in range(self.count(limit)))


def pack_endpoint(addr: AddrPort) -> bytes:
    """IP 16 ‖ port 2."""
    return addr.packed16() + addr.port.to_bytes(2, "big")


def unpack_endpoint(raw: bytes) -> AddrPort:
    """The reverse, of 18 bytes."""
    return AddrPort.of(raw[:16], int.from_bytes(raw[16:18], "big"))


def _pack(addr: AddrPort | None) -> bytes:
    return _NO_ADDRESS if addr is None else pack_endpoint(addr)


def _pack_list(addresses: Sequence[AddrPort]) -> bytes:
    return bytes((len(addresses),)) + b"".join(map(pack_endpoint, addresses))
