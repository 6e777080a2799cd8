"""The two ways to a relay's byte stream: `Upgrade: DERP`, and a WebSocket where something in between refuses that."""

from __future__ import annotations

from typing import Protocol

import anyio
import anyio.abc

from coder_agent.base.derp_map import DerpNode
from coder_agent.errors import CoderAgentError, ConfigError, RemoteProtocolError, TransportBroken
from coder_agent.hooks import DialOptions
from coder_agent.http import dial, headers_of, merge_headers, open_websocket

from ..https import CONNECT_TIMEOUT, relay_endpoint, relay_options

MAX_HEAD = 8 << 10


class RelayWire(Protocol):
    """Bytes from and to a relay. Both directions raise TransportBroken when the connection ended."""

    async def receive(self) -> bytes: ...
    async def send(self, item: bytes, /) -> None: ...
    async def aclose(self) -> None: ...


class UpgradeRefused(TransportBroken):
    """Something in between does not let `Upgrade: DERP` through."""


async def open_wire(node: DerpNode, options: DialOptions, *, websocket: bool) -> RelayWire:
    """Connect to `node`, up to where DERP begins. Raises CoderAgentError."""
    options = relay_options(node, options)
    return await (_by_websocket if websocket else _by_upgrade)(node, options)


async def _by_websocket(node: DerpNode, options: DialOptions) -> RelayWire:
    endpoint, address = relay_endpoint(node, "/derp")
    url = f"{'wss' if endpoint.secure else 'ws'}://{endpoint.host_header}{endpoint.path}"
    try:
        return await open_websocket(url, options=options, timeout=CONNECT_TIMEOUT, subprotocol="derp", address=address)
    except (TransportBroken, ConfigError):
        raise
    except CoderAgentError as error:  # an error document, of our API or of somebody in between
        raise TransportBroken(f"{endpoint} refuses a WebSocket: {error.message}") from error


async def _by_upgrade(node: DerpNode, options: DialOptions) -> RelayWire:
    endpoint, address = relay_endpoint(node, "/derp")
    fields = merge_headers(
        await headers_of(options), {"Host": endpoint.host_header, "Upgrade": "DERP", "Connection": "Upgrade"}
    )
    wire = _Upgraded(await dial(endpoint, options, timeout=CONNECT_TIMEOUT, address=address), str(endpoint))
    try:
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        await wire.send(f"GET {endpoint.path} HTTP/1.1\r\n{lines}\r\n".encode())
        await wire.handshake()
    except BaseException:
        await wire.aclose()
        raise
    return wire


class _Upgraded:
    """A connection; `early` is what came with the answer's head."""

    def __init__(self, stream: anyio.abc.ByteStream, name: str) -> None:
        self._stream = stream
        self._name = name
        self._early = b""

    async def receive(self) -> bytes:
        """Some bytes."""
        if self._early:
            early, self._early = self._early, b""
            return early
        try:
            return await self._stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError, OSError) as exc:
            raise self._closed() from exc

    async def send(self, item: bytes, /) -> None:
        """Send all of it."""
        try:
            await self._stream.send(item)
        except (anyio.BrokenResourceError, OSError) as exc:
            raise self._closed() from exc

    async def aclose(self) -> None:
        """Close without a word."""
        await anyio.aclose_forcefully(self._stream)

    async def handshake(self) -> None:
        """Read the answer's head. Raises UpgradeRefused, TransportBroken, RemoteProtocolError."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += await self.receive()
            if len(data) > MAX_HEAD:
                raise RemoteProtocolError(f"the relay {self._name} answers with headers without end")
        head, _, self._early = data.partition(b"\r\n\r\n")
        status = head.split(b"\r\n", 1)[0].split(b" ")[1:2]
        if status == [b"101"]:
            return
        if status and status[0].isdigit() and (status[0][:1] in (b"2", b"3", b"4") or status[0] in (b"501", b"505")):
            raise UpgradeRefused(
                f"{self._name} refuses the upgrade to DERP (HTTP {status[0].decode('latin-1')})",
                hint="a proxy in between may strip the Upgrade header",
            )
        raise TransportBroken(f"{self._name} does not answer as a relay does")

    def _closed(self) -> TransportBroken:
        return TransportBroken(f"the relay {self._name} closed the connection")
