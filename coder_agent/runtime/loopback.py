"""What makes a node the workspace's: whatever peers send to a port without a service goes to a program on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ..protocols.netstack.listening import SynRequest
from .datagrams import UdpPorts
from .engine import Engine
from .loopback_tcp import LoopbackTcp
from .loopback_udp import LoopbackUdp
from .mounts import no_mounts


class Forwardable(Protocol):
    """What is needed of a node."""

    engine: Engine
    udp: UdpPorts
    on_syn: Callable[[SynRequest], None]


@dataclass(frozen=True, slots=True)
class Loopback:
    """Both halves of it."""

    tcp: LoopbackTcp
    udp: LoopbackUdp

    def close(self) -> None:
        """Reset all connections, close all sockets."""
        self.tcp.close()
        self.udp.close()


def forward_loopback(
    node: Forwardable,
    permits: Callable[[int], bool] = lambda port: True,
    mounts: Callable[[int], str | None] = no_mounts,
) -> Loopback:
    """Forward TCP and UDP of `node`'s peers from now on, to the ports that `permits` allows. `mounts` as in
    LoopbackTcp."""
    loopback = Loopback(
        LoopbackTcp(node.engine, permits=permits, mounts=mounts),
        LoopbackUdp(node.udp, asyncio.get_running_loop(), permits=permits),
    )
    node.on_syn = loopback.tcp.receive
    return loopback
