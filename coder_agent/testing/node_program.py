"""What a node does as a process of its own in a test: forward like an agent, and dial like a client.

Inner TCP to any port goes to the same port of loopback; `dial` opens ports of loopback that lead through the tunnel. So
both ends of every conversation are foreign programs (curl, iperf3), and kernels' TCP judges ours.

The test hears by lines of JSON, ``{"event": …}`` (processes.py reads them):

    listening   a local port (`port`) leads to `to` of the peer
    ready       everything is set up
    stats       at the end: counters by room, and what TCP knows of its last connections
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterable
from ipaddress import IPv6Address

import anyio
import anyio.abc

from ..errors import CoderAgentError
from ..hooks.events import Event, PathChanged
from ..node import TailnetNode
from ..runtime.loopback import forward_loopback
from ..runtime.pipe import pipe


def say(event: str, **facts: object) -> None:
    """Tell the test."""
    print(json.dumps({"event": event, **facts}), flush=True)


def say_path(event: Event) -> None:
    """Tell the test which way packets go (a node's `emit`)."""
    if isinstance(event, PathChanged):
        say("path", kind=event.kind.value, path=str(event.path), reason=event.reason)


async def run_node(node: TailnetNode, peer: IPv6Address, dial: Iterable[int]) -> None:
    """Serve until SIGTERM. `dial`: ports of `peer` to be reached from loopback."""
    forward_loopback(node)
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async with anyio.create_task_group() as tasks:
            for port in dial:
                await tasks.start(_lead, node, peer, port)
            say("ready")
            async for _ in signals:
                break
            tasks.cancel_scope.cancel()
    engine = node.engine
    transports = {t.name: dict(t.stats()) for t in (engine.direct, engine.relay) if t is not None}
    say("stats", engine=engine.counters, wireguard=engine.device.counters, tcp=engine.stack.counters, **transports)


async def _lead(node: TailnetNode, peer: IPv6Address, port: int, *, task_status: anyio.abc.TaskStatus[None]) -> None:
    async def serve(local: anyio.abc.SocketStream) -> None:
        async with local:
            try:
                stream = await node.dial_tcp(peer, port)
            except CoderAgentError as exc:
                say("refused", to=port, why=str(exc))
                return
            async with stream:
                await pipe(local, stream)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        say("listening", port=listener.extra(anyio.abc.SocketAttribute.local_port), to=port)
        task_status.started()
        await listener.serve(serve)
