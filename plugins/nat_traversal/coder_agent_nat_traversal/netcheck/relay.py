"""Does a relay carry packets? Two clients log in, and one sends the other a packet.

Source: coder coderd/healthcheck/derphealth/derp.go.
"""

from __future__ import annotations

import os
from dataclasses import replace

import anyio
import anyio.abc

from coder_agent.base.burst import Burst
from coder_agent.base.derp_map import DerpNode
from coder_agent.base.keys import NodePrivate
from coder_agent.errors import CoderAgentError, RemoteProtocolError, TransportBroken
from coder_agent.hooks import DialOptions
from coder_agent.http import dial, headers_of, merge_headers
from coder_agent.protocols.derp.client import ClientEvent, DerpClient, LoggedIn, PacketsReceived, PongReceived

from ..https import CONNECT_TIMEOUT, measure_https, relay_endpoint, relay_options
from .report import RelayCheck

TIMEOUT = 3.0
"""Seconds for everything about one relay."""
RESEND = 0.25
"""Seconds between packets to the other client: a relay drops what has nowhere to go yet."""
MAX_HEAD = 8 << 10


async def check_relay(node: DerpNode, options: DialOptions, *, websocket: bool = False) -> RelayCheck:
    """Latency and exchange at once. Never raises for what the network does. `websocket`: tunnels are told to use a
    WebSocket there, which this does not try."""
    result = RelayCheck(error=f"{node.host_name} takes longer than {TIMEOUT:g} s")
    with anyio.move_on_after(TIMEOUT):
        answer = await measure_https(node, options)
        result = RelayCheck(answer.latency, answer.family, error=answer.error, hint=answer.hint)
        if answer.latency is None:
            return result
        if websocket:
            return replace(result, uses_websocket=True)
        result = replace(result, error=f"two clients of {node.host_name} did not reach each other within {TIMEOUT:g} s")
        try:
            round_trip = await _exchange(node, options)
        except _UpgradeRefused as error:
            return replace(result, uses_websocket=True, error=error.message, hint=error.hint or "")
        except CoderAgentError as error:
            return replace(result, error=error.message, hint=error.hint or "")
        return replace(result, exchanged=True, round_trip=round_trip, error="")
    return result


class _UpgradeRefused(TransportBroken):
    """Something in between does not let `Upgrade: DERP` through."""


async def _exchange(node: DerpNode, options: DialOptions) -> float:
    """Seconds from one client to the relay and back, once the other has got its packet."""
    sender, receiver = _Client(), _Client()
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sender.run, node, options)
            tasks.start_soon(receiver.run, node, options)
            await sender.ready.wait()
            await receiver.ready.wait()
            while not receiver.received.is_set():
                await sender.send(receiver)
                with anyio.move_on_after(RESEND):
                    await receiver.received.wait()
            round_trip = await sender.ping()
            tasks.cancel_scope.cancel()
        return round_trip
    except BaseExceptionGroup as group:
        error = _first(group)
        if error is None:
            raise
        raise error from group


class _Client:
    """One DERP client with a key of its own."""

    def __init__(self) -> None:
        self.key = NodePrivate.generate(os.urandom)
        self.ready, self.received, self.ponged = anyio.Event(), anyio.Event(), anyio.Event()
        self._derp = DerpClient(self.key, rng=os.urandom, now=anyio.current_time())
        self._stream: anyio.abc.ByteStream | None = None

    async def run(self, node: DerpNode, options: DialOptions) -> None:
        """Connect, log in, read until cancelled. Raises CoderAgentError."""
        options = relay_options(node, options)
        endpoint, address = relay_endpoint(node, "/derp")
        stream = self._stream = await dial(endpoint, options, timeout=CONNECT_TIMEOUT, address=address)
        try:
            head = {"Host": endpoint.host_header, "Upgrade": "DERP", "Connection": "Upgrade"}
            lines = "".join(
                f"{name}: {value}\r\n" for name, value in merge_headers(await headers_of(options), head).items()
            )
            await stream.send(f"GET {endpoint.path} HTTP/1.1\r\n{lines}\r\n".encode())
            await self._read(stream, await _upgraded(stream, str(endpoint)))
        except (anyio.EndOfStream, anyio.BrokenResourceError, OSError) as exc:
            raise TransportBroken(f"the relay {endpoint} closed the connection") from exc
        finally:
            await anyio.aclose_forcefully(stream)

    async def send(self, to: _Client) -> None:
        """A packet for the other client."""
        data = self._derp.send(Burst.of(os.urandom(32)), to.key.public(), anyio.current_time())
        if data is not None and self._stream is not None:
            await self._stream.send(bytes(data))

    async def ping(self) -> float:
        """Seconds to the relay and back."""
        assert self._stream is not None
        self._derp.ping(os.urandom(8))
        started = anyio.current_time()
        await self._stream.send(self._derp.take_output())
        await self.ponged.wait()
        return anyio.current_time() - started

    async def _read(self, stream: anyio.abc.ByteStream, data: bytes) -> None:
        while True:
            for event in self._derp.feed(data, anyio.current_time()):
                self._note(event)
            if output := self._derp.take_output():
                await stream.send(output)
            data = await stream.receive()

    def _note(self, event: ClientEvent) -> None:
        if isinstance(event, LoggedIn):
            self.ready.set()
        elif isinstance(event, PacketsReceived):
            self.received.set()
        elif isinstance(event, PongReceived):
            self.ponged.set()


async def _upgraded(stream: anyio.abc.ByteStream, where: str) -> bytes:
    """What followed the answer's head. Raises TransportBroken, RemoteProtocolError."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += await stream.receive()
        if len(data) > MAX_HEAD:
            raise RemoteProtocolError(f"the relay {where} answers with headers without end")
    head, _, rest = data.partition(b"\r\n\r\n")
    status = head.split(b"\r\n", 1)[0].split(b" ")[1:2]
    if status == [b"101"]:
        return rest
    if status and status[0][:1] == b"4":
        raise _UpgradeRefused(
            f"{where} refuses the upgrade to DERP (HTTP {status[0].decode('latin-1')}); tunnels will use a WebSocket",
            hint="a proxy in between may strip the Upgrade header",
        )
    raise TransportBroken(f"{where} does not answer as a relay does")


def _first(group: BaseExceptionGroup[BaseException]) -> CoderAgentError | None:
    for error in group.exceptions:
        found = _first(error) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(found, CoderAgentError):
            return found
    return None
