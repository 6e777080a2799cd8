"""NAT-PMP and PCP with one gateway: what we asked, and which datagrams are answers to it. Pure.

A datagram counts only if it comes from the gateway's port 5351, answers something asked a moment ago, and, for a PCP
mapping, carries our nonce. Everything else is dropped with its reason.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...base.addresses import AddrPort
from ..effects import Dropped
from . import natpmp, pcp
from .epoch import EpochClock
from .natpmp import GATEWAY_PORT, Datagram
from .values import Protocol, Site

PATIENCE = 5.0
"""Seconds for which an answer counts. Slow gateways exist; a later datagram answers nothing of ours."""


@dataclass(frozen=True, slots=True)
class Present:
    """The gateway answers this protocol; `usable` False: with a no. `address`: its outside address, if it said."""

    protocol: Protocol
    usable: bool
    address: str = ""


@dataclass(frozen=True, slots=True)
class Granted:
    """Our port was mapped. `address` "" = the reply does not say (NAT-PMP)."""

    protocol: Protocol
    address: str
    port: int
    lifetime: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """The mapping was refused; `word` is the protocol's result."""

    protocol: Protocol
    word: str


@dataclass(frozen=True, slots=True)
class Restarted:
    """The epoch says that the gateway has lost what it knew."""


Event = Present | Granted | Refusal | Restarted | Dropped


class GatewayDialog:
    """All that is said to and heard from port 5351 of one gateway about one port of ours."""

    def __init__(self, site: Site, nonce: bytes) -> None:
        self.site = site
        self._nonce = nonce
        self._clocks = {Protocol.PMP: EpochClock(is_pcp=False), Protocol.PCP: EpochClock(is_pcp=True)}
        self._open: dict[tuple[Protocol, int], float] = {}
        """What was asked (protocol, opcode), until when an answer counts."""

    def presence(self, protocol: Protocol, now: float) -> bytes:
        """A question that changes nothing: the outside address (NAT-PMP), ANNOUNCE (PCP). The answer has the epoch."""
        self._open[protocol, 0] = now + PATIENCE
        return natpmp.ADDRESS_REQUEST if protocol is Protocol.PMP else pcp.encode_announce(self.site.own)

    def mapping(self, protocol: Protocol, wanted: AddrPort, lifetime: int, now: float) -> bytes:
        """Ask for (or renew) the mapping; `wanted` is what we would like, 0.0.0.0 = any address."""
        self._open[protocol, 1] = now + PATIENCE
        return self._map(protocol, wanted, lifetime)

    def deletion(self, protocol: Protocol, external: AddrPort) -> bytes:
        """Give the mapping back. NAT-PMP wants no external port here (RFC 6886 §3.4)."""
        return self._map(protocol, external if protocol is Protocol.PCP else AddrPort(pcp.ANY_ADDRESS, 0), 0)

    def _map(self, protocol: Protocol, wanted: AddrPort, lifetime: int) -> bytes:
        if protocol is Protocol.PMP:
            return natpmp.encode_map_request(self.site.port, wanted.port, lifetime)
        return pcp.encode_map(
            pcp.MapRequest(self.site.own, self._nonce, self.site.port, wanted.port, lifetime, wanted.host)
        )

    def receive(self, data: Datagram, source: AddrPort, now: float) -> list[Event]:
        """A datagram arrived at the socket from which we ask."""
        if source != (self.site.gateway, GATEWAY_PORT):
            return [Dropped("portmap-stranger")]
        match data[:1]:
            case b"\x00":
                return self._pmp(natpmp.parse_reply(data), now)
            case b"\x02":
                return self._pcp(pcp.parse_reply(data), now)
        return [Dropped("portmap-wrong-version")]

    def is_news(self, data: Datagram, source: AddrPort) -> bool | Dropped:
        """Is this multicast announcement our gateway's? Anybody can forge it, so all it is good for is to ask."""
        if source.host != self.site.gateway:
            return Dropped("portmap-stranger")
        reply = pcp.parse_reply(data) if data[:1] == b"\x02" else natpmp.parse_reply(data)
        if isinstance(reply, Dropped):
            return reply
        return isinstance(reply, natpmp.AddressReply | pcp.AnnounceReply)

    # ------------------------------------------------------------ inside

    def _was_asked(self, protocol: Protocol, opcode: int, now: float) -> bool:
        return now <= self._open.get((protocol, opcode), float("-inf"))

    def _pmp(self, reply: natpmp.Reply | Dropped, now: float) -> list[Event]:
        if isinstance(reply, Dropped):
            return [reply]
        if isinstance(reply, natpmp.Refused):
            return self._pmp_refused(reply, now)
        opcode = natpmp.OP_ADDRESS if isinstance(reply, natpmp.AddressReply) else natpmp.OP_MAP_UDP
        if not self._was_asked(Protocol.PMP, opcode, now):
            return [Dropped("portmap-unasked")]
        if isinstance(reply, natpmp.AddressReply):
            return [*self._epoch(Protocol.PMP, reply.epoch, now), Present(Protocol.PMP, True, reply.address)]
        if reply.internal != self.site.port:
            return [Dropped("portmap-wrong-port")]
        granted = Granted(Protocol.PMP, "", reply.external, reply.lifetime)
        return [*self._epoch(Protocol.PMP, reply.epoch, now), granted]

    def _pmp_refused(self, reply: natpmp.Refused, now: float) -> list[Event]:
        """Version refused in a NAT-PMP reply: it was the PCP question that a NAT-PMP gateway did not understand."""
        if reply.word == "unsupported-version" and self._was_asked(Protocol.PCP, 0, now):
            return [Present(Protocol.PCP, False)]
        if not self._was_asked(Protocol.PMP, reply.opcode, now):
            return [Dropped("portmap-unasked")]
        if reply.opcode == natpmp.OP_MAP_UDP:
            return [Refusal(Protocol.PMP, reply.word)]
        return [Present(Protocol.PMP, False)]

    def _pcp(self, reply: pcp.Reply | Dropped, now: float) -> list[Event]:
        if isinstance(reply, Dropped):
            return [reply]
        if isinstance(reply, pcp.Refused):
            return self._pcp_refused(reply, now)
        opcode = pcp.OP_ANNOUNCE if isinstance(reply, pcp.AnnounceReply) else pcp.OP_MAP
        if not self._was_asked(Protocol.PCP, opcode, now):
            return [Dropped("portmap-unasked")]
        if isinstance(reply, pcp.AnnounceReply):
            return [*self._epoch(Protocol.PCP, reply.epoch, now), Present(Protocol.PCP, True)]
        if reply.nonce != self._nonce:
            return [Dropped("portmap-wrong-nonce")]
        if reply.internal != self.site.port:
            return [Dropped("portmap-wrong-port")]
        granted = Granted(Protocol.PCP, reply.address, reply.external, reply.lifetime)
        return [*self._epoch(Protocol.PCP, reply.epoch, now), granted]

    def _pcp_refused(self, reply: pcp.Refused, now: float) -> list[Event]:
        """Version refused in a PCP reply: a gateway without NAT-PMP answers those questions so (RFC 6887 app. A)."""
        if reply.word == "unsupported-version" and self._was_asked(Protocol.PMP, reply.opcode, now):
            return [Present(Protocol.PMP, False)]
        if not self._was_asked(Protocol.PCP, reply.opcode, now):
            return [Dropped("portmap-unasked")]
        if reply.nonce and reply.nonce != self._nonce:
            return [Dropped("portmap-wrong-nonce")]
        if reply.opcode == pcp.OP_MAP:
            return [Refusal(Protocol.PCP, reply.word)]
        return [Present(Protocol.PCP, False)]

    def _epoch(self, protocol: Protocol, epoch: int, now: float) -> list[Event]:
        return [Restarted()] if self._clocks[protocol].observe(epoch, now) else []
