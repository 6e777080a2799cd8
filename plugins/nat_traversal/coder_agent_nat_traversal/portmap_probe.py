"""Which port mapping protocols does the gateway answer? Asks, maps nothing."""

from __future__ import annotations

import socket

import anyio

from coder_agent.protocols.effects import Dropped
from coder_agent.protocols.portmap import ssdp
from coder_agent.protocols.portmap.dialog import GatewayDialog, Present
from coder_agent.protocols.portmap.natpmp import GATEWAY_PORT
from coder_agent.protocols.portmap.values import Protocol, Site

from .gateway import Gateway, find_gateway
from .lan_socket import open_udp, receive, send

PROBE_TIMEOUT = 0.25
"""Seconds for all answers. Source: tailscale net/portmapper/portmapper.go (250 ms)."""
TRY_AGAIN = 0.1
"""Seconds after which the questions are sent once more: on Wi-Fi a lone datagram gets lost."""
ALL = frozenset(protocol.value for protocol in Protocol)


async def probe_gateway(
    gateway: Gateway | None = None, *, protocols: frozenset[str] = ALL, timeout: float = PROBE_TIMEOUT
) -> frozenset[str]:
    """Which of `protocols` (of ``pmp pcp upnp``) the gateway answers with a yes within `timeout` seconds.

    `gateway` None = find it; without a private IPv4 gateway nothing is sent and nothing found. Returns as soon as all
    have answered. Never raises for network reasons.
    """
    gateway = gateway or await find_gateway()
    if gateway is None or not protocols:
        return frozenset()
    found: set[str] = set()
    with anyio.move_on_after(timeout):
        async with anyio.create_task_group() as tasks:
            if protocols & {"pmp", "pcp"}:
                tasks.start_soon(_probe_datagrams, gateway, protocols, found)
            if "upnp" in protocols:
                tasks.start_soon(_probe_ssdp, gateway, found)
    return frozenset(found)


def send_searches(sock: socket.socket, gateway: str) -> None:
    """The three questions of SSDP: to the gateway alone (which opens our own firewall for it), and to everybody."""
    everything, devices = ssdp.encode_search(ssdp.ALL), ssdp.encode_search(ssdp.GATEWAY_DEVICE)
    send(sock, everything, gateway, ssdp.PORT)
    send(sock, everything, ssdp.GROUP, ssdp.PORT)
    send(sock, devices, ssdp.GROUP, ssdp.PORT)


async def _probe_datagrams(gateway: Gateway, protocols: frozenset[str], found: set[str]) -> None:
    dialog = GatewayDialog(Site(gateway.address, gateway.own, 0), bytes(12))
    open_ = {protocol for protocol in (Protocol.PMP, Protocol.PCP) if protocol in protocols}
    try:
        sock = open_udp(gateway.own)
    except OSError:  # our address has just gone
        return
    with sock:
        for patience in (TRY_AGAIN, float("inf")):
            for protocol in open_:
                send(sock, dialog.presence(protocol, anyio.current_time()), gateway.address, GATEWAY_PORT)
            with anyio.move_on_after(patience):
                while open_:
                    await anyio.wait_readable(sock)
                    got = receive(sock)
                    for event in dialog.receive(*got, anyio.current_time()) if got else ():
                        if isinstance(event, Present):
                            open_.discard(event.protocol)
                            if event.usable:
                                found.add(event.protocol.value)


async def _probe_ssdp(gateway: Gateway, found: set[str]) -> None:
    try:
        sock = open_udp(gateway.own)
    except OSError:  # our address has just gone
        return
    with sock:
        send_searches(sock, gateway.address)
        while True:
            await anyio.wait_readable(sock)
            got = receive(sock)
            if got and got[1].host == gateway.address and not isinstance(ssdp.parse_answer(got[0]), Dropped):
                found.add(Protocol.UPNP.value)
                return
