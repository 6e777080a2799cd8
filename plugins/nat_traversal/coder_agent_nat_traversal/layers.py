"""How many NATs lie before us? Counted by where packets with a small hop limit die.

A STUN request with a hop limit of 1 dies at the first router, which says so by ICMP from its inside address; one with 2
at the second. Routers with private addresses, up to the first public one (or the STUN server itself), are counted as
NATs. A private network that is merely routed is counted too: too many is the safe side, for the number only decides
whether a port mapping of the nearest router is worth proposing. A silent router means: not known.

Linux only: elsewhere ICMP errors of a UDP socket are not told to unprivileged programs. Source: ip(7), IP_RECVERR.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network

import anyio

from coder_agent.base.derp_map import DerpMap
from coder_agent.base.nat_facts import NatFacts
from coder_agent.hooks import CandidateContext, Egress, Purpose
from coder_agent.hooks.egress import OPEN
from coder_agent.protocols.stun import encode_request

from .plan import literal_address, stun_port

MAX_HOPS = 5
"""More private networks in a row than this are not seen."""
HOP_TIMEOUT = 0.6
"""Seconds for the word of a router: it is near."""
TXID_SIZE = 12
IP_RECVERR, IP_TTL = 11, 2
"""Not in Python's socket module. Source: linux/in.h."""
ORIGIN_ICMP, TIME_EXCEEDED = 2, 11
"""sock_extended_err: ee_origin, ee_type. Source: linux/errqueue.h."""
_PRIVATE = tuple(map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")))
"""RFC 1918, and RFC 6598 between customers and a carrier's NAT."""
ARRIVED = "arrived"
"""Instead of a router's address: the server itself answered."""


def count_layers(hops: Sequence[str]) -> int:
    """NATs, from the routers' addresses, the nearest first; "" = silent. 0 = not known, or none at all."""
    for layers, hop in enumerate(hops):
        if not hop:
            return 0
        if hop == ARRIVED or not any(IPv4Address(hop) in network for network in _PRIVATE):
            return layers
    return 0


def offender_of(control: Sequence[tuple[int, int, bytes]]) -> str:
    """The router that a packet died at, from the control messages of an error queue; "" if they say nothing of it.

    Layout: sock_extended_err (errno u32 ‖ origin u8 ‖ type u8 ‖ code u8 ‖ pad u8 ‖ info u32 ‖ data u32) ‖ sockaddr_in
    (family u16 ‖ port u16 ‖ address 4).
    """
    for level, kind, data in control:
        if level == socket.IPPROTO_IP and kind == IP_RECVERR and len(data) >= 24:
            _, origin, icmp_type = struct.unpack_from("=IBB", data)
            if origin == ORIGIN_ICMP and icmp_type == TIME_EXCEEDED:
                return str(IPv4Address(data[20:24]))
    return ""


def stun_server(derp_map: DerpMap) -> tuple[str, int] | None:
    """Some STUN server of the map whose IPv4 address it states."""
    for region in derp_map.regions.values():
        for node in region.nodes:
            address, port = literal_address(node, "v4"), stun_port(node)
            if address and port:
                return address, port
    return None


class NatLayers:
    """Counts once the relay map is known, and again when the network changed. Publishes no candidate."""

    name = "layers"

    def __init__(self, egress: Egress = OPEN, *, is_supported: bool = sys.platform == "linux") -> None:
        self._egress = egress
        self._is_supported = is_supported

    async def run(self, context: CandidateContext) -> None:
        """Report `NatFacts.nat_layers`."""
        counted: tuple[object, ...] = ()
        while True:
            await context.wait_refresh()
            server = stun_server(context.derp_map())
            situation = (server, context.direct.bound_ports())
            if not self._is_supported or server is None or situation == counted:
                continue
            counted = situation
            if not self._egress.allows(*server, Purpose.STUN):
                continue
            layers = count_layers(await _hops(server))
            if layers:
                context.report_nat(NatFacts(nat_layers=layers))


async def _hops(server: tuple[str, int]) -> list[str]:
    """Ask hop by hop until a public router or the server answers, or one is silent."""
    found: list[str] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        for limit in range(1, MAX_HOPS + 1):
            sock.setsockopt(socket.IPPROTO_IP, IP_TTL, limit)
            try:
                sock.sendto(encode_request(os.urandom(TXID_SIZE)), server)
            except OSError:
                return found
            found.append(await _word(sock))
            if found[-1] in ("", ARRIVED) or count_layers([*found, ARRIVED]) < len(found):
                break
    return found


async def _word(sock: socket.socket) -> str:
    """What came of one request: a router's address, `ARRIVED`, or "" for silence."""
    with anyio.move_on_after(HOP_TIMEOUT):
        while True:
            await anyio.wait_readable(sock)
            try:
                _, control, _, _ = sock.recvmsg(2048, 512, socket.MSG_ERRQUEUE)
            except BlockingIOError:
                pass
            except OSError:
                return ""
            else:
                return offender_of(control)
            try:
                sock.recv(2048)
            except BlockingIOError:
                continue
            except OSError:
                continue
            return ARRIVED
    return ""
