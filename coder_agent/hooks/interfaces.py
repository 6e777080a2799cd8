"""The seams: what plugins implement and what they are handed. Typed Protocols, no behaviour.

Hooks (hookspecs.py) run once, during composition, and return objects that satisfy these protocols; everything
asynchronous happens on the objects. Data-path calls are synchronous, run on the event loop's thread and must not block.
What belongs to transports is written in transports.py, what belongs to a server in serving.py; this file has it all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from .serving import Authenticator as Authenticator
from .serving import DerpMapSource as DerpMapSource
from .serving import ExtendsChain as ExtendsChain
from .serving import Identity as Identity
from .serving import RelayBackend as RelayBackend
from .serving import ServerContext as ServerContext
from .serving import WebSocketLike as WebSocketLike
from .transports import DialOptions as DialOptions
from .transports import DirectTransport as DirectTransport
from .transports import DoubtingTransport as DoubtingTransport
from .transports import MeasuringTransport as MeasuringTransport
from .transports import PacketSink as PacketSink
from .transports import RecoveringTransport as RecoveringTransport
from .transports import RelayTransport as RelayTransport
from .transports import Transport as Transport
from .transports import TransportContext as TransportContext
from .transports import TransportFactory as TransportFactory
from .transports import WarmTransport as WarmTransport

if TYPE_CHECKING:  # annotations only: `coder --help` imports this module and shall not pay for keys and tasks
    from uuid import UUID

    import anyio.abc

    from ..base.addresses import AddrPort
    from ..base.derp_map import DerpMap
    from ..base.keys import NodePublic
    from ..base.nat_facts import NatFacts
    from ..base.node import Node

API_VERSION = 1
"""Version of this file. A plugin module may state ``__coder_api__ = 1``; another number is refused at load."""


# ---------------------------------------------------------------- NAT traversal


class CandidateKind(StrEnum):
    """Where a candidate endpoint comes from (tailscale magicsock.go determineEndpoints), in order of publication."""

    PORTMAPPED = "portmapped"
    STUN = "stun"
    STUN_LOCAL_PORT = "stun4localport"
    STATIC = "static"
    LOCAL = "local"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One endpoint at which peers may reach us."""

    addr: AddrPort
    kind: CandidateKind


class CandidateContext(Protocol):
    """What a candidate source may see and do."""

    @property
    def key(self) -> NodePublic:
        """Our own node's key."""
        ...

    @property
    def direct(self) -> DirectTransport:
        """The data socket: STUN must leave through it, for it is that socket's mapping that peers need."""
        ...

    def derp_map(self) -> DerpMap:
        """The relay map in force."""
        ...

    def publish(self, source: str, candidates: Sequence[Candidate]) -> None:
        """Replace all that `source` said before."""
        ...

    def send(self, data: bytes, addr: AddrPort) -> None:
        """Send one datagram through the data socket."""
        ...

    def on_stun(self, handler: Callable[[bytes, AddrPort, float], None]) -> Callable[[], None]:
        """Hand every received STUN packet (data, source, now) to `handler`. Returns the call that unsubscribes."""
        ...

    def report_latency(self, region: int, family: Literal["v4", "v6"], seconds: float) -> None:
        """A relay region's measured latency: chooses the home region and goes into our published node."""
        ...

    def report_mapping_varies(self, varies: bool | None) -> None:
        """Does our NAT give each destination another port? None = not known."""
        ...

    def report_nat(self, facts: NatFacts) -> None:
        """What this source learnt about our network; what it leaves unknown keeps its last value."""
        ...

    def request_rebind(self, reason: str) -> None:
        """The network under us changed (a restarted gateway, say): fresh sockets, look for everything again."""
        ...

    def peers(self) -> Sequence[Node]:
        """The peers that the node knows now."""
        ...

    def on_peers(self, handler: Callable[[], None]) -> Callable[[], None]:
        """Call `handler` whenever `peers` has changed. Returns the call that unsubscribes."""
        ...

    def suggest(self, source: str, peer: NodePublic, endpoints: Sequence[AddrPort]) -> None:
        """`source` saw `peer` at these addresses (on the LAN, say): try them. Replaces what it said of that peer; it is
        forgotten with the peer."""
        ...

    async def wait_refresh(self) -> str:
        """Return, with the reason, when candidates should be looked for again (re-STUN triggers). The first call
        returns at once with ``"start"``."""
        ...


class CandidateSource(Protocol):
    """Proposes endpoints of ours (STUN, interfaces, port mapping, mDNS, static configuration)."""

    name: str

    async def run(self, context: CandidateContext) -> None:
        """Publish candidates until cancelled. An exception is logged and the source restarted with back-off."""
        ...


# ---------------------------------------------------------------- services of an agent


class AgentService(Protocol):
    """A service that an agent offers inside the tunnel, on TCP `port` (coder tailnet/conn.go)."""

    name: str
    port: int

    async def serve(self, stream: anyio.abc.ByteStream) -> None:
        """Serve one connection until it ends. Cancelled when the agent stops; the stream is closed afterwards."""
        ...


@dataclass(frozen=True, slots=True)
class AgentFacts:
    """Which workspace an agent serves, as its server says (coder agent/proto/agent.proto, Manifest).

    `directory` may be empty or start with ``~``; `environment` is meant for shells and programs of the workspace.
    Of its node, as soon as there is one: `nat` is what it knows about its own network, `home` its relay region (0 =
    none), `counters` what it sent, received and dropped.
    """

    url: str
    agent_id: UUID
    workspace_id: UUID
    agent_name: str = ""
    workspace_name: str = ""
    owner_username: str = ""
    directory: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    nat: NatFacts | None = None
    home: int = 0
    counters: Mapping[str, int] = field(default_factory=dict)


@runtime_checkable
class LivingService(AgentService, Protocol):
    """An agent service that outlives its connections (it keeps shells, say), or that must know whom it serves."""

    def open(self, facts: Callable[[], AgentFacts]) -> AbstractAsyncContextManager[None]:
        """Entered before the first `serve`, left after the last one was cancelled: end there what must not survive the
        agent, under a shield, for the agent is being cancelled, and within five seconds. `facts` answers what the
        server said last."""
        ...


# ---------------------------------------------------------------- commands, settings


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """A command, described without importing what it runs (start-up time is a feature).

    `target` is ``module:function``; the function is an ordinary typer command, sync or async, and finds the `Cli`
    object (settings, plugins, credentials) in ``typer.Context.obj``. `program`: which of our two programs. `group`:
    the command is reached as ``coder GROUP NAME``. `hidden` commands work but are not listed.
    """

    name: str
    help: str
    target: str
    program: Literal["coder", "coder-agent"] = "coder"
    group: str = ""
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class SettingsSpec:
    """A plugin's own section ``[plugins.NAME]``. `target` is ``module:Model``, a pydantic model with defaults.

    A field may name further environment variables beside ``CODER_PLUGIN_<NAME>__<KEY>`` with
    ``Field(json_schema_extra={"env": "CODER_ACCESS_URL"})``.
    """

    plugin: str
    target: str
