"""What carries packets: transports, what they are opened with, and what more some of them can do.

Part of interfaces.py, by which plugins import it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from .egress import OPEN, Egress

if TYPE_CHECKING:  # annotations only: `coder --help` imports this module and shall not pay for keys and tasks
    from ..base.burst import Burst
    from ..base.derp_map import DerpMap
    from ..base.keys import NodePrivate
    from ..base.paths import Path
    from .events import EventSink
    from .server_tailnet import LocalRelay


class PacketSink(Protocol):
    """Where a transport delivers. Called on the loop's thread; a burst is borrowed until the call returns."""

    def on_burst(self, burst: Burst, path: Path) -> None:
        """Ciphertext, disco or STUN packets that came by `path` (DerpPath.key = the sender)."""
        ...

    def on_drained(self) -> None:
        """One wake-up of the transport is over: time to acknowledge, wake the application and send."""
        ...

    def on_writable(self, transport: Transport) -> None:
        """A `send` of this transport that answered False may be tried again."""
        ...

    def on_path_error(self, path: Path, error: OSError) -> None:
        """A send failed for a reason that says something about the path (EHOSTUNREACH, EPERM …)."""
        ...


class Transport(Protocol):
    """Carries ciphertext. Never decides anything; never sees plaintext."""

    name: str
    headroom: int
    """Bytes this transport likes to have before each packet (0 for UDP, 37 for DERP). It copes with less by copying."""

    def send(self, burst: Burst, path: Path) -> bool:
        """Send now, without waiting. True: taken (or lost like any datagram). False: full; nothing was taken, and
        `PacketSink.on_writable` follows when there is room again. Never raises for network reasons.
        """
        ...

    def stats(self) -> Mapping[str, int]:
        """Counters since the start; names are stable."""
        ...


class DirectTransport(Transport, Protocol):
    """Carries UdpPath."""

    def bound_ports(self) -> tuple[int | None, int | None]:
        """Local UDP ports for IPv4 and IPv6; None where that family could not be bound."""
        ...

    def rebind(self) -> None:
        """Reopen the sockets, keeping the ports if possible (after a link change or a telling send error). Extra
        sockets are closed."""
        ...

    def open_extra(self, count: int) -> Sequence[int]:
        """Open up to `count` more IPv4 sockets on ports of the kernel's choice and return their names
        (`UdpPath.local`), fewer where the system has no more. What they receive comes to the same sink."""
        ...

    def close_extra(self, names: Sequence[int]) -> None:
        """Close extra sockets; unknown names are ignored."""
        ...


@runtime_checkable
class MeasuringTransport(Transport, Protocol):
    """A direct transport that can forbid fragmentation, too. With one that cannot, tunnel packets stay at 1280 B."""

    def send_whole(self, burst: Burst, path: Path) -> bool:
        """Send a burst of one packet; neither this machine nor any router may cut it up. False = it cannot be sent
        like that: it is too large for the local link, or there is no way to forbid it here."""
        ...


class RelayTransport(Transport, Protocol):
    """Carries DerpPath; dials regions on demand."""

    def set_map(self, derp_map: DerpMap) -> None:
        """A new relay map: connections to regions that changed or vanished are closed."""
        ...

    def set_home(self, region: int) -> None:
        """Keep a connection to `region` for ever and tell relays which one is home. 0 = none yet."""
        ...

    def forced_websocket(self) -> Mapping[int, str]:
        """Regions that fell back to WebSocket, with the reason (Node.derp_forced_websocket)."""
        ...

    def connected(self, region: int) -> bool:
        """True once ServerInfo of that region has arrived and the connection still lives."""
        ...


@runtime_checkable
class RecoveringTransport(RelayTransport, Protocol):
    """A relay transport that can be told of what may have killed its connections. One that cannot finds out itself,
    by its own time-outs."""

    def reconnect(self, reason: str) -> None:
        """Connections may be dead without a sign (the machine slept): replace those that are needed, close the rest."""
        ...

    def link_changed(self) -> None:
        """The network under us changed: connections whose own address is gone are dead, others may be. Replace the
        former at once, and the latter if the relay does not answer within a few seconds; end every pause."""
        ...


@runtime_checkable
class WarmTransport(RelayTransport, Protocol):
    """A relay transport that can connect to a region before anything is sent there. With one that cannot, the second
    relay of a node (docs/hostile-networks.md) is dialled when it is needed."""

    def keep_warm(self, region: int) -> None:
        """Data may be sent through `region` from one moment to the next: connect now if need be, and count this as a
        use. Called every few seconds while it holds."""
        ...


@runtime_checkable
class DoubtingTransport(RelayTransport, Protocol):
    """A relay transport that can find out whether a connection still lives."""

    def doubt(self, region: int) -> None:
        """Ask the relay for an answer; a connection on which none comes within two seconds is closed."""
        ...


@dataclass(slots=True)
class DialOptions:
    """How outgoing HTTP, WebSocket and relay connections are made.

    `headers` go on every request, and so do the lines ``Name=value`` that the program `header_command` prints, which
    finds `server_url` in CODER_URL (`coder_agent.http.headers_of` puts them together). `ca_file` adds a CA to the
    system's; `client_cert_file` and `client_key_file` are shown to servers that ask for a certificate. `proxy` is a
    URL, None (as the environment says) or "" (none). `egress` is
    asked before anything is looked up or connected to.
    """

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    ca_file: str | None = None
    insecure: bool = False
    proxy: str | None = field(default=None, repr=False)
    header_command: str = ""
    server_url: str = ""
    client_cert_file: str | None = None
    client_key_file: str | None = None
    egress: Egress = field(default=OPEN, repr=False, compare=False)


@dataclass(slots=True)
class TransportContext:
    """What a transport is opened with."""

    sink: PacketSink
    node_key: NodePrivate
    emit: EventSink
    listen_port: int = 0
    force_websockets: bool = False
    dial: DialOptions = field(default_factory=DialOptions)
    local_relay: LocalRelay | None = None
    """A relay transport reaches this one's region without dialling."""


class TransportFactory(Protocol):
    """What `coder_transports` returns. `kind` says which Path it carries: one transport of each kind is used."""

    name: str
    kind: Literal["direct", "relay"]

    def open(self, context: TransportContext) -> AbstractAsyncContextManager[Transport]:
        """Bind, start tasks (in a task group of its own), yield the transport; close everything on exit."""
        ...
