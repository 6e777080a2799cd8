"""The agent's HTTP API inside the tunnel, on port 4: what its server and its users ask it about itself.

``GET /`` greets; ``GET /api/v0/listening-ports`` answers ``{"ports": [{"process_name", "network", "port"}]}``;
``GET /api/v0/containers`` that there are none: we do not ask Docker, and a stock `coder show` wants an answer;
``GET /api/v0/netcheck`` what the agent knows about its network; ``GET /debug/manifest`` whom it serves; as text,
without secrets, ``GET /debug/logs`` the last lines of its log and ``GET /debug/prometheus`` its counters.
Everything else is 404, which stock clients take for "the agent is outdated" and go on. Source: coder agent/api.go.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import anyio.abc

if TYPE_CHECKING:
    import h11

    from coder_agent.hooks.interfaces import AgentFacts

    from .listening import ListeningPort

PORT = 4
"""Source: coder tailnet/conn.go, WorkspaceAgentHTTPAPIServerPort."""
REQUEST_SECONDS = 30.0
"""For a request to arrive, and for its answer to be taken."""
MAX_HEAD = 16 << 10
CACHE_SECONDS = 1.0
"""A second look within this time shows the same. Source: coder agent/ports_supported.go."""
MAX_CONNECTIONS = 32
"""At once; more wait. Everybody who may use the workspace may connect."""
ALWAYS = ("/", "/api/v0/listening-ports", "/api/v0/containers", "/debug/logs")
OF_FACTS = ("/api/v0/netcheck", "/debug/manifest", "/debug/prometheus")
"""What is told once it is known whom the agent serves."""


class AgentApiService:
    """`coder_agent.hooks.interfaces.LivingService`."""

    name = "agent-api"
    port = PORT

    def __init__(
        self, look: Callable[[], list[ListeningPort]] | None = None, log: Callable[[], str] = lambda: ""
    ) -> None:
        self._look = look
        self._log = log
        self._seen: tuple[float, list[ListeningPort]] | None = None
        self._free: anyio.CapacityLimiter | None = None
        self._facts: Callable[[], AgentFacts] | None = None

    @asynccontextmanager
    async def open(self, facts: Callable[[], AgentFacts]) -> AsyncIterator[None]:
        """From now on it is known whom the agent serves."""
        self._facts = facts
        yield

    async def serve(self, stream: anyio.abc.ByteStream) -> None:
        """One connection: requests one after the other, until either side has enough."""
        if self._free is None:
            self._free = anyio.CapacityLimiter(MAX_CONNECTIONS)
        async with self._free:
            with anyio.move_on_after(None) as scope:
                await self._serve(stream, scope)

    async def _serve(self, stream: anyio.abc.ByteStream, scope: anyio.CancelScope) -> None:
        import h11  # at first use: an idle agent does without

        machine = h11.Connection(h11.SERVER, MAX_HEAD)
        try:
            while machine.our_state is not h11.MUST_CLOSE:
                scope.deadline = anyio.current_time() + REQUEST_SECONDS
                request = await _read(stream, machine)
                if request is None:
                    return
                status, document = await self._answer(request.method.decode(), request.target.decode("latin-1"))
                await _reply(stream, machine, status, document, head=request.method == b"HEAD")
                if machine.their_state is not h11.DONE:
                    return
                machine.start_next_cycle()
        except h11.RemoteProtocolError as exc:
            if machine.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                await _reply(stream, machine, exc.error_status_hint, {"message": "This is no HTTP request."})
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return

    async def _answer(self, method: str, target: str) -> tuple[int, object]:
        path = target.partition("?")[0]
        if path not in ALWAYS and (self._facts is None or path not in OF_FACTS):
            return 404, {"message": "Route not found."}
        if method not in ("GET", "HEAD"):
            return 405, {"message": "Method not allowed."}
        if path == "/":
            return 200, {"message": "Hello from the agent!"}
        if path == "/api/v0/containers":
            return 200, {"containers": []}
        if path == "/debug/logs":
            return 200, self._log()
        if self._facts is not None and path in OF_FACTS:
            return 200, _about(path, self._facts())
        ports = await self.ports()
        return 200, {"ports": [{"process_name": one.process_name, "network": "tcp", "port": one.port} for one in ports]}

    async def ports(self) -> list[ListeningPort]:
        """What listens now, or did a moment ago."""
        now = time.monotonic()
        if self._seen is None or now - self._seen[0] >= CACHE_SECONDS:
            from .listening import listening_ports

            self._seen = (now, await anyio.to_thread.run_sync(self._look or listening_ports))
        return self._seen[1]


def _about(path: str, facts: AgentFacts) -> object:
    from .agent_documents import manifest_document, metrics_text, netcheck_document  # at first use

    if path == "/debug/prometheus":
        return metrics_text(facts.counters)
    return netcheck_document(facts) if path == "/api/v0/netcheck" else manifest_document(facts)


async def _read(stream: anyio.abc.ByteStream, machine: h11.Connection) -> h11.Request | None:
    """The next request, its body thrown away; None at the end."""
    import h11

    request: h11.Request | None = None
    while True:
        event = machine.next_event()
        if event is h11.NEED_DATA:
            try:
                machine.receive_data(await stream.receive())
            except anyio.EndOfStream:
                machine.receive_data(b"")
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.EndOfMessage):
            return request
        elif isinstance(event, h11.ConnectionClosed):
            return None


async def _reply(
    stream: anyio.abc.ByteStream, machine: h11.Connection, status: int, document: object, *, head: bool = False
) -> None:
    import h11

    text = isinstance(document, str)
    body = (str(document) if text else json.dumps(document, separators=(",", ":"))).encode()
    kind = "text/plain; charset=utf-8" if text else "application/json"
    headers = [("Content-Type", kind), ("Content-Length", str(len(body)))]
    data = machine.send(h11.Response(status_code=status, headers=headers)) or b""
    if not head:
        data += machine.send(h11.Data(data=body)) or b""
    await stream.send(data + (machine.send(h11.EndOfMessage()) or b""))
