"""The port mapping source in a process of its own, with a UDP socket in the place of the data socket.

    portmap_node.py PROTOCOLS LIFETIME [probe]    PROTOCOLS: of pmp,pcp,upnp

Prints its log, and JSON lines: ``port`` (the data socket's), ``published`` (the addresses on offer), ``facts``,
``datagram`` (what came to the data socket, and from where) and ``released`` at the end, which SIGTERM brings.
"""

from __future__ import annotations

import json
import logging
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any, cast

import anyio
from coder_agent_nat_traversal.gateway import find_gateway
from coder_agent_nat_traversal.portmap import PortMapSource
from coder_agent_nat_traversal.portmap_probe import probe_gateway

from coder_agent.base.nat_facts import NatFacts
from coder_agent.hooks import Candidate, CandidateContext
from coder_agent.protocols.portmap.values import Protocol

PROBE_TIMEOUT = 10.0
"""Seconds: the probe returns once all have answered, and the machine of the tests may be busy."""


def tell(event: str, **facts: Any) -> None:
    """One event."""
    print(json.dumps({"event": event, **facts}), flush=True)


class Sockets:
    """The part of a direct transport that is asked."""

    def __init__(self, port: int) -> None:
        self.port = port

    def bound_ports(self) -> tuple[int | None, int | None]:
        """IPv4 only."""
        return self.port, None


class Node:
    """The part of a node that the source sees."""

    def __init__(self, port: int) -> None:
        self.direct = Sockets(port)
        self._started = False

    def publish(self, source: str, candidates: Sequence[Candidate]) -> None:
        """Say what is on offer."""
        tell("published", addresses=[str(candidate.addr) for candidate in candidates])

    def report_nat(self, facts: NatFacts) -> None:
        """Say what was learnt."""
        tell("facts", protocols=sorted(facts.port_mapping), mapped=facts.port_mapped, asked=facts.gateway_asked)

    async def wait_refresh(self) -> str:
        """Once, at the start."""
        if self._started:
            await anyio.sleep_forever()
        self._started = True
        return "start"


async def hear(data: socket.socket) -> None:
    """Report what comes."""
    while True:
        await anyio.wait_readable(data)
        text, source = data.recvfrom(2048)
        tell("datagram", text=text.decode(), source=f"{source[0]}:{source[1]}")


async def main(names: str, lifetime: str, is_probing: bool) -> None:
    """Run until SIGTERM."""
    data = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    data.setblocking(False)
    data.bind(("", 0))
    tell("port", port=data.getsockname()[1])
    if is_probing:
        gateway = await find_gateway()
        found = await probe_gateway(timeout=PROBE_TIMEOUT)
        tell("probe", gateway=gateway.address if gateway else None, found=sorted(found))
    source = PortMapSource(frozenset(Protocol(name) for name in names.split(",")), lifetime=int(lifetime))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hear, data)
        tasks.start_soon(source.run, cast(CandidateContext, Node(data.getsockname()[1])))
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                tasks.cancel_scope.cancel()
    tell("released")


if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG, stream=sys.stdout, format="%(message)s")
    anyio.run(main, sys.argv[1], sys.argv[2], sys.argv[3:] == ["probe"])
