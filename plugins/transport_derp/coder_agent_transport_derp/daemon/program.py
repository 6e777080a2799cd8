"""The relay as a program: listeners, STUN, mesh, admission, figures; and an end that nobody notices."""

from __future__ import annotations

import asyncio
import errno
import logging
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

import anyio
import anyio.abc
import h11

from coder_agent.base.addresses import AddrPort
from coder_agent.cli.listening import HostPort
from coder_agent.errors import ConfigError
from coder_agent.hooks import Egress, Purpose
from coder_agent.hooks.egress import OPEN
from coder_agent.hooks.interfaces import DialOptions
from coder_agent.stun_responder import serve_stun
from coder_agent.tls_server import TlsGate

from ..meta_certificate import RENEW_SECONDS
from ..relay import DerpRelay
from ..settings import DerpSettings
from .admission import Gate, UrlVerifier
from .door import Door
from .figures import exposition, page
from .mesh import MeshDialer
from .options import RelayProgramOptions

log = logging.getLogger(__name__)

BACKLOG = 4096
"""Connections that the kernel keeps for us: all clients of a region come back at once when a relay restarts."""
RECONNECT_IN = 0.5
"""Seconds (to twice that) after which clients are asked to come back when we stop."""
DRAIN_POLL = 0.1
METRICS_TIMEOUT = 10.0


@dataclass(slots=True)
class RelayProgram:
    """A running relay. `reload` reads certificate and limits again; `drain` says goodbye."""

    options: RelayProgramOptions
    relay: DerpRelay
    door: Door
    address: AddrPort
    verifier: UrlVerifier | None
    started: float
    stun: AddrPort | None = None
    metrics: AddrPort | None = None
    mesh: list[MeshDialer] = field(default_factory=list)
    draining: bool = False
    limits: Callable[[], DerpSettings] | None = None
    """Where the limits of clients are read again; raises ConfigError."""
    egress: Egress = OPEN
    _gate: TlsGate | None = None
    _server: asyncio.Server | None = field(default=None, repr=False)

    def figures(self) -> dict[str, int]:
        """Everything counted: the relay's own, its mesh links, admission."""
        found = dict(self.relay.metrics())
        found["mesh_links"] = len(self.mesh)
        found["mesh_links_up"] = sum(dialer.is_up for dialer in self.mesh)
        found["waiting_connections"] = len(self.door.waiting)
        if self._gate is not None:
            found["tls_handshakes_waiting"] = len(self._gate.shaking)
            found["tls_handshake_failures"] = self._gate.failures
        if self.verifier is not None:
            found["verify_failures"] = self.verifier.failures
        if self.egress.policy is not None:  # what an air gap kept this relay from
            for purpose in Purpose:
                found[f"airgap_refused_{purpose.value.replace('-', '_')}"] = self.egress.refused[purpose.value]
        return found

    def reload(self) -> None:
        """SIGHUP: certificate and limits may have changed. What cannot be used leaves the old in force."""
        self.reload_limits()
        self.reload_certificate()

    def reload_limits(self) -> None:
        """What one client may send, for those who log in from now on."""
        if self.limits is None:
            return
        try:
            now = self.limits()
        except ConfigError as exc:
            log.error("the old limits stay in force: %s", exc.message)
            return
        rate, burst = now.relay_client_rate, now.relay_client_burst
        core = self.relay.core
        if (rate, burst) != core.rate_limit():
            core.settings = replace(core.settings, client_rate=rate, client_burst=burst)
            log.info("new clients may send %d bytes per second, %d at once (0 = no limit)", rate, burst)

    def reload_certificate(self) -> None:
        """The certificate may have been renewed. A bad one leaves the old one in force."""
        if self._gate is None:
            return
        try:
            self.options.tls(self.relay)  # on a context of its own first: a bad file must not end up in the one in use
            self.options.load(self._gate.context, self.relay)
            log.info("the certificate was read again")
        except ConfigError as exc:
            log.error("the old certificate stays in force: %s", exc.message)

    async def drain(self) -> None:
        """Take no one new, tell clients to come back, and relay on until they left or the time is over."""
        self.draining = True
        if self._server is not None:
            self._server.close()
        core = self.relay.core
        core.announce_restart(RECONNECT_IN, max(self.options.drain, 30.0))
        with anyio.move_on_after(self.options.drain):
            while core.metrics()["clients"]:  # noqa: ASYNC110  (at the end of the program only)
                await anyio.sleep(DRAIN_POLL)


def raise_file_limit() -> None:
    """A connection is a file descriptor, and the soft limit is 1024 on most systems: take what we may have."""
    if sys.platform != "win32":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@asynccontextmanager
async def open_relay(
    options: RelayProgramOptions, dial: DialOptions, limits: Callable[[], DerpSettings] | None = None
) -> AsyncIterator[RelayProgram]:
    """Serve while the block runs; `limits` is asked at each reload. Raises ConfigError (port taken, bad certificate)
    before anything is served."""
    loop = asyncio.get_running_loop()
    relay = DerpRelay.from_settings(options.relay)
    tls = options.tls(relay)
    verifier = UrlVerifier(options.verify_url, options.verify_fail_open, dial) if options.verify_url else None
    door = Door(relay, token=options.token)
    async with AsyncExitStack() as stack:
        # All that can fail for the operator's reasons comes first: below, a task group would wrap the error.
        gate = None if tls is None else TlsGate(tls, door.protocol)
        protocol = door.protocol if gate is None else gate.protocol
        server = await _listen(stack, options.address, protocol, "address")
        program = RelayProgram(
            options,
            relay,
            door,
            _bound(server),
            verifier,
            loop.time(),
            limits=limits,
            egress=dial.egress,
            _gate=gate,
            _server=server,
        )
        listeners = [server]
        if options.metrics is not None:
            figures = await _listen(stack, options.metrics, lambda: _MetricsProtocol(program), "metrics_address")
            program.metrics = _bound(figures)
            listeners.append(figures)
        if options.stun is not None:
            at, exact = options.stun, not options.stun_is_default
            program.stun = await stack.enter_async_context(serve_stun(at.host, at.port, exact=exact))
        await stack.enter_async_context(relay.open())
        tasks = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(tasks.cancel_scope.cancel)
        stack.callback(_cancel, door)
        _furnish(program, tasks)
        tasks.start_soon(_renew, program)
        for url in options.mesh_with:
            dialer = MeshDialer(relay.core, options.mesh_key or b"", url, dial)
            program.mesh.append(dialer)
            tasks.start_soon(dialer.run)
        for listener in listeners:
            await listener.start_serving()
        yield program


def _furnish(program: RelayProgram, tasks: anyio.abc.TaskGroup) -> None:
    """Hang the program's parts into the relay and its door."""
    clock = asyncio.get_running_loop().time
    core, door = program.relay.core, program.door
    if program.verifier is not None:
        core.admit = lambda key, info, remote: None
        core.on_undecided = Gate(program.verifier, tasks).undecided
    door.healthy = lambda: not program.draining
    door.page = lambda: page(
        program.figures(),
        core.public.raw.hex(),
        "Draining" if program.draining else "Running",
        lambda: clock() - program.started,
    )


async def _renew(program: RelayProgram) -> None:
    """The certificate for fast start has an end; and whoever renews the real one may forget the signal."""
    while True:
        await anyio.sleep(RENEW_SECONDS)
        program.reload_certificate()


def _cancel(door: Door) -> None:
    for task in door.sockets:
        task.cancel()


async def _listen(
    stack: AsyncExitStack,
    at: HostPort,
    protocol: Callable[[], asyncio.BaseProtocol],
    setting: str,
) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    try:
        server = await loop.create_server(protocol, at.host, at.port, backlog=BACKLOG, start_serving=False)
    except OSError as exc:
        hint = "ports below 1024 need root or CAP_NET_BIND_SERVICE" if exc.errno == errno.EACCES else None
        raise ConfigError(f"{setting}: cannot listen on {at}: {exc.strerror or exc}", hint=hint) from exc
    stack.callback(server.close)
    return server


def _bound(server: asyncio.Server) -> AddrPort:
    name = server.sockets[0].getsockname()
    return AddrPort(str(name[0]), int(name[1]))


class _MetricsProtocol(asyncio.Protocol):
    """``GET /metrics``, one request per connection."""

    def __init__(self, program: RelayProgram) -> None:
        self._program = program
        self._http = h11.Connection(h11.SERVER)
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._timer = asyncio.get_running_loop().call_later(METRICS_TIMEOUT, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            self._http.receive_data(data)
            event = self._http.next_event()
            if isinstance(event, h11.Request):
                self._answer(event.target.split(b"?")[0] == b"/metrics")
        except h11.ProtocolError:
            self._transport.close()

    def _answer(self, known: bool) -> None:
        body, kind = exposition(self._program.figures()) if known else (b"not found\n", "text/plain")
        headers = [("Content-Type", kind), ("Content-Length", str(len(body))), ("Connection", "close")]
        for event in (h11.Response(status_code=200 if known else 404, headers=headers), h11.Data(data=body)):
            self._transport.write(self._http.send(event) or b"")
        self._transport.close()
