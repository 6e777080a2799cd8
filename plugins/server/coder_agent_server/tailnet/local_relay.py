"""The embedded relay as the server's own node reaches it: in memory, never through the access URL.

Through the URL it would go out by whatever proxy, firewall or TLS stands before this server (coder issue 6595).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from coder_agent.errors import TransportBroken
from coder_agent.hooks.interfaces import RelayBackend

from .memory_transport import memory_pair


@dataclass(frozen=True, slots=True)
class EmbeddedRelay:
    """A `coder_agent.hooks.server_tailnet.LocalRelay`: the relay behind ``/derp``."""

    backend: RelayBackend
    region: int

    def connect(self, protocol: asyncio.BufferedProtocol) -> asyncio.Transport:
        """A fresh connection to the relay. Raises TransportBroken."""
        ours, theirs = memory_pair(asyncio.get_running_loop())
        ours.set_protocol(protocol)
        protocol.connection_made(ours)
        self.backend.accept(theirs, b"", None)
        if theirs.is_closing():
            ours.abort()
            raise TransportBroken("the embedded relay takes no more connections")
        return ours
