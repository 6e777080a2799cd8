"""A relay on a port of its own, in a few lines: for tests and for measuring. The program is `coder derp` (daemon/)."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from coder_agent.base.addresses import AddrPort
from coder_agent.tls_server import TlsGate

from .daemon.door import HEAD_LIMIT as HEAD_LIMIT
from .daemon.door import HEAD_TIMEOUT as HEAD_TIMEOUT
from .daemon.door import Door
from .relay import DerpRelay


@asynccontextmanager
async def serve_relay(
    relay: DerpRelay,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    tls: ssl.SSLContext | None = None,
    door: Door | None = None,
) -> AsyncGenerator[AddrPort]:
    """Listen on `host`:`port` (0 = any) and relay until the block ends. Yields the address listened on."""
    loop = asyncio.get_running_loop()
    async with relay.open():
        entrance = door or Door(relay)
        protocol = entrance.protocol if tls is None else TlsGate(tls, entrance.protocol).protocol
        server = await loop.create_server(protocol, host, port, backlog=1024)
        try:
            address = server.sockets[0].getsockname()
            yield AddrPort.of(address[0], address[1])
        finally:
            server.close()
            for task in entrance.sockets:
                task.cancel()
