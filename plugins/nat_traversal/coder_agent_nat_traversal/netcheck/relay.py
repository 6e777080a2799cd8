"""Does a relay carry packets? Two clients log in, and one sends the other a packet.

Source: coder coderd/healthcheck/derphealth/derp.go.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import anyio

from coder_agent.base.burst import Burst
from coder_agent.base.derp_map import DerpNode
from coder_agent.base.keys import NodePrivate, NodePublic
from coder_agent.errors import CoderAgentError, ConfigError, TransportBroken
from coder_agent.hooks import DialOptions
from coder_agent.http import CertificateNotTrusted
from coder_agent.protocols.derp.client import ClientEvent, DerpClient, LoggedIn, PacketsReceived, PongReceived

from ..https import measure_https
from .relay_wire import RelayWire, UpgradeRefused, open_wire
from .report import RelayCheck

TIMEOUT = 3.0
"""Seconds for everything about one relay."""
RESEND = 0.25
"""Seconds between packets to the other client: a relay drops what has nowhere to go yet."""
RETRY_PAUSE = 0.5
"""Seconds between two tries."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard to try: `seconds` for everything, at most `tries` times. `vouch`: within it, the relay may ask the coder
    server whether that key is known. `websocket`: do not try the upgrade."""

    seconds: float = TIMEOUT
    tries: int = 1
    websocket: bool = False
    vouch: Callable[[NodePublic], AbstractContextManager[None]] = lambda key: nullcontext()


async def check_relay(node: DerpNode, options: DialOptions, effort: Effort | None = None) -> RelayCheck:
    """Latency and exchange, by WebSocket where the upgrade is refused. Never raises for what the network does."""
    effort = effort or Effort()
    check = _Check(node, options, effort)
    with anyio.move_on_after(effort.seconds):
        for number in range(effort.tries):
            if number:
                await anyio.sleep(RETRY_PAUSE)
            if await check.once():
                break
    return replace(check.result, logs=tuple(tuple(lines) for lines in check.logs))


class _Check:
    """One relay's check. `result` is what is known so far, also when time is up."""

    def __init__(self, node: DerpNode, options: DialOptions, effort: Effort) -> None:
        self._node, self._options, self._effort = node, options, effort
        self._late = f"{node.host_name} takes longer than {effort.seconds:g} s"
        self.logs: list[list[str]] = []
        self.result = RelayCheck(error=self._late)

    async def once(self) -> bool:
        """Try once. True: trying again is of no use."""
        answer = await measure_https(self._node, self._options)
        self.result = RelayCheck(answer.latency, answer.family, error=answer.error, hint=answer.hint)
        if answer.latency is None:
            self.logs.append([f"GET /derp/latency-check: {answer.error}"])
            return "certificate" in answer.error
        late = f"two clients of {self._node.host_name} did not reach each other within {self._effort.seconds:g} s"
        self.result = replace(self.result, error=late)
        try:
            await self._by_any_way()
        except CoderAgentError as error:
            self.result = replace(self.result, error=error.message, hint=error.hint or "")
            return isinstance(error, (CertificateNotTrusted, ConfigError))
        return True

    async def _by_any_way(self) -> None:
        known = self.result
        why, hint = "", ""
        if not self._effort.websocket:
            try:
                round_trip = await self._exchange(websocket=False)
                self.result = replace(known, exchanged=True, round_trip=round_trip, error="")
                return
            except UpgradeRefused as refusal:
                why, hint = f"{refusal.message}; ", refusal.hint or ""
        known = self.result = replace(known, uses_websocket=True)
        try:
            round_trip = await self._exchange(websocket=True)
        except CoderAgentError as error:
            raise TransportBroken(f"{why}{error.message}", hint=hint or error.hint) from error
        why = why and f"{why}tunnels use a WebSocket, which is slower"
        self.result = replace(known, exchanged=True, round_trip=round_trip, error=why, hint=hint)

    async def _exchange(self, *, websocket: bool) -> float:
        sender, receiver = _Client(), _Client()
        self.logs += [sender.log, receiver.log]
        return await _exchange(sender, receiver, self._node, self._options, self._effort, websocket)


async def _exchange(
    sender: _Client, receiver: _Client, node: DerpNode, options: DialOptions, effort: Effort, websocket: bool
) -> float:
    """Seconds from one client to the relay and back, once the other has got its packet. Raises CoderAgentError."""
    try:
        with effort.vouch(sender.key.public()), effort.vouch(receiver.key.public()):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(sender.run, node, options, websocket)
                tasks.start_soon(receiver.run, node, options, websocket)
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
        self._wire: RelayWire | None = None
        self.log: list[str] = []

    async def run(self, node: DerpNode, options: DialOptions, websocket: bool) -> None:
        """Connect, log in, read until cancelled. Raises CoderAgentError."""
        how = "a WebSocket" if websocket else "Upgrade: DERP"
        self.log.append(f"{self.key.public().short} connects to {node.host_name} by {how}")
        try:
            wire = self._wire = await open_wire(node, options, websocket=websocket)
        except CoderAgentError as error:
            self.log.append(error.message)
            raise
        try:
            while True:
                for event in self._derp.feed(await wire.receive(), anyio.current_time()):
                    self._note(event)
                if output := self._derp.take_output():
                    await wire.send(output)
        finally:
            with anyio.CancelScope(shield=True):
                await wire.aclose()

    async def send(self, to: _Client) -> None:
        """A packet for the other client."""
        data = self._derp.send(Burst.of(os.urandom(32)), to.key.public(), anyio.current_time())
        if data is not None and self._wire is not None:
            await self._wire.send(bytes(data))

    async def ping(self) -> float:
        """Seconds to the relay and back."""
        assert self._wire is not None
        self._derp.ping(os.urandom(8))
        started = anyio.current_time()
        await self._wire.send(self._derp.take_output())
        await self.ponged.wait()
        return anyio.current_time() - started

    def _note(self, event: ClientEvent) -> None:
        if isinstance(event, LoggedIn):
            self.log.append("logged in")
            self.ready.set()
        elif isinstance(event, PacketsReceived):
            if not self.received.is_set():
                self.log.append("received the other's packet")
            self.received.set()
        elif isinstance(event, PongReceived):
            self.ponged.set()


def _first(group: BaseExceptionGroup[BaseException]) -> CoderAgentError | None:
    for error in group.exceptions:
        found = _first(error) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(found, CoderAgentError):
            return found
    return None
