"""Two nodes that know each other, in one process, with real sockets on 127.0.0.1.

async with node_pair([UdpTransportFactory(UdpSettings())]) as (a, b):
    stream = await a.dial_tcp(B, 80)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv6Address

import anyio

from ..base.addresses import AddrPort
from ..hooks.interfaces import Candidate, CandidateContext, CandidateKind, TransportFactory
from ..node import NodeConfig, TailnetNode, open_node
from ..protocols.netstack.config import StackConfig

A, B = IPv6Address("fd7a:115c:a1e0::a"), IPv6Address("fd7a:115c:a1e0::b")
PATIENCE = 60.0
"""Seconds for a node to learn its own port."""


@dataclass
class _Loopback:
    """A candidate source that knows just 127.0.0.1."""

    name: str = "loopback"

    async def run(self, context: CandidateContext) -> None:
        port, _ = context.direct.bound_ports()
        assert port is not None
        context.publish(self.name, [Candidate(AddrPort("127.0.0.1", port), CandidateKind.LOCAL)])
        await anyio.sleep_forever()


@asynccontextmanager
async def node_pair(
    transports: Sequence[TransportFactory], *, stack: StackConfig | None = None
) -> AsyncIterator[tuple[TailnetNode, TailnetNode]]:
    """Nodes at A and B, introduced to each other."""
    stack = stack or StackConfig()
    configs = [NodeConfig(addresses=[own], transports=transports, sources=[_Loopback()], stack=stack) for own in (A, B)]
    async with open_node(configs[0]) as a, open_node(configs[1]) as b:
        with anyio.fail_after(PATIENCE):
            for node in (a, b):
                while not node.self_node().endpoints:
                    await anyio.lowlevel.checkpoint()
        a.upsert_peer(b.self_node())
        b.upsert_peer(a.self_node())
        yield a, b
