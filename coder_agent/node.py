"""The public face of the runtime: one node of the tailnet.

Agent, client and third-party programs build the same thing: keys, overlay addresses, transports and NAT traversal from
plugins, peers from wherever they like (a coder server, a file, a test). Then dial, listen, ping and observe paths.

    async with open_node(NodeConfig(addresses=[ip], transports=factories)) as node:
        node.set_derp_map(derp_map)
        node.upsert_peer(peer)
        stream = await node.dial_tcp(address, 8080)
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from typing import Any, Literal, TypeVarTuple, Unpack

import anyio
import anyio.abc

from .base.addresses import AddrPort
from .base.derp_map import DerpMap
from .base.keys import DiscoPublic, NodePrivate, NodePublic
from .base.nat_facts import NatFacts
from .base.node import Node
from .base.path_rules import PathRules
from .base.paths import Path, PathKind
from .errors import PeerUnreachable, TransportBroken
from .hooks.events import Event, PathChanged, PeerChanged, RelayChanged
from .magicsock.core import Magicsock
from .magicsock.core import PathStatus as PathStatus
from .magicsock.effects import PathUpdate, PongReceived
from .node_config import Keys, cores_of, keys_of, open_transports
from .node_config import NodeConfig as NodeConfig
from .protocols.netstack.listening import SynRequest
from .protocols.netstack.states import State
from .runtime.background import background
from .runtime.candidates import CandidateHub
from .runtime.datagrams import FlowHandler, PortHandler, UdpPorts
from .runtime.datagrams import Origin as Origin
from .runtime.datagrams import TunnelDatagrams as TunnelDatagrams
from .runtime.datagrams import TunnelUdpSocket as TunnelUdpSocket
from .runtime.datagrams import UdpFlow as UdpFlow
from .runtime.engine import Cores, Engine, Tap
from .runtime.home_relays import HomeRelays
from .runtime.link_watch import LinkChange, watch_links
from .runtime.pacing import Pacer as Pacer
from .runtime.pings import Pings
from .runtime.pings import Pong as Pong
from .runtime.sleep_watch import watch_sleep
from .runtime.splice import Dial as Dial
from .runtime.splice import Splice as Splice
from .runtime.splice import reset_socket as reset_socket
from .runtime.streams import TunnelStream as TunnelStream
from .verdict_watch import watch_verdicts

log = logging.getLogger(__name__)
Ts = TypeVarTuple("Ts")

DIAL_TIMEOUT = 15.0
"""Seconds for a TCP handshake inside the tunnel; covers one lost WireGuard initiation (5 s) and a relay dial (10 s)."""

DRAIN_TIMEOUT = 5.0
"""Seconds that a node which is closed gives its closed streams to get their last bytes through."""
DRAIN_POLL = 0.005
CLOSING_STATES = (State.FIN_WAIT_1, State.CLOSING, State.LAST_ACK)
"""Our FIN, and so perhaps data before it, is not acknowledged."""


class TailnetNode:
    """A running node. Made by `open_node`; every method is called on the event loop's thread."""

    def __init__(self, config: NodeConfig, engine_parts: Cores, keys: Keys) -> None:
        self.config = config
        self.key: NodePublic = keys[0].public()
        self.disco: DiscoPublic = keys[1].public()
        self.engine = Engine(engine_parts, self, asyncio.get_running_loop())
        self.on_self_changed: Callable[[Node], None] = lambda node: None
        self.on_link_changed: Callable[[], None] = lambda: None
        """Called when the network under us changed: what the node does not own (the control connection) is to be
        looked after."""
        self.on_woke: Callable[[], None] = lambda: None
        """Called after the machine slept: what the node does not own (the control connection) is to be made anew."""
        self.on_session_ready: Callable[[NodePublic], None] = lambda peer: None
        self.on_unknown: Callable[[bytes, Path], None] = lambda data, path: None
        self.on_syn: Callable[[SynRequest], None] = lambda request: request.reject(self.engine.now())
        self._addresses: list[IPv6Address] = []
        self._peers: dict[NodePublic, Node] = {}
        self._published: Node | None = None
        self._hub: CandidateHub | None = None
        self._relays = HomeRelays(
            self.engine,
            latency=lambda: self._hub.latency() if self._hub is not None else None,
            published=self.self_node,
            changed=self._self_changed,
        )
        self._listeners: dict[int, Callable[[TunnelStream], Awaitable[None]]] = {}
        self.udp = UdpPorts(engine_parts.stack, self.engine.kick, self.engine.now)
        """UDP of this node; `udp.unclaimed` gets what is for no port that is listened on."""
        self._pings = Pings(self.engine)
        self._path_changed = anyio.Event()
        self._tasks: anyio.abc.TaskGroup | None = None
        stack = engine_parts.stack
        stack.on_syn = self._syn
        stack.on_tsmp_pong = self._pings.tunnel_pong
        stack.on_disco_key = self._disco_key_announced
        for address in config.addresses:
            self.add_address(address)

    # ------------------------------------------------------------ ourselves

    @property
    def derp_map(self) -> DerpMap:
        """The relay map in force."""
        return self._relays.map

    @property
    def home(self) -> int:
        """Our home region; 0 = none yet."""
        return self._relays.home

    @property
    def addresses(self) -> Sequence[IPv6Address]:
        """Our overlay addresses; the first is the source of what we dial."""
        return tuple(self._addresses)

    def add_address(self, address: IPv6Address) -> None:
        """One more overlay address of ours."""
        if address not in self._addresses:
            self._addresses.append(address)
            self.engine.stack.add_address(address)
            self._self_changed()

    def self_node(self) -> Node:
        """What we publish about ourselves now. `preferred_derp` is 0 until a home relay is chosen."""
        networks = tuple(IPv6Network((address, 128)) for address in self._addresses)
        hub, permits = self._hub, self.engine.magicsock.rules.permits
        return Node(
            id=self.config.id,
            key=self.key,
            disco=self.disco,
            preferred_derp=self.home,
            addresses=networks,
            allowed_ips=networks,
            endpoints=tuple(filter(permits, hub.endpoints())) if hub is not None else (),
            derp_latency=hub.derp_latency() if hub is not None else {},
            derp_forced_websocket=self.engine.relay.forced_websocket() if self.engine.relay else {},
            as_of=time.time(),
        )

    @property
    def nat_facts(self) -> NatFacts:
        """What is known about our network."""
        return self._hub.nat if self._hub is not None else NatFacts()

    @property
    def mapping_varies(self) -> bool | None:
        """Does our NAT give each destination another port? None: not known."""
        return self._hub.mapping_varies if self._hub is not None else None

    def counters(self) -> dict[str, int]:
        """What was sent, received and dropped (by reason) since the start. Also logged at the end, at level debug."""
        return self.engine.all_counters()

    def set_tap(self, tap: Tap | None) -> None:
        """Capture inner packets and disco messages (costs speed: every packet is copied)."""
        self.engine.tap = tap

    def set_derp_map(self, derp_map: DerpMap) -> None:
        """A (new) relay map: relays are redialled where it changed, home is chosen again. What the egress policy
        forbids is left out of it."""
        derp_map = self.config.dial.egress.inside(derp_map)
        if derp_map == self.derp_map:
            return
        self._relays.map = derp_map
        if self.engine.relay is not None:
            self.engine.relay.set_map(derp_map)
        if self._hub is not None:
            self._hub.set_map(derp_map)
        self._relays.choose(patient=True)
        for peer in self._peers.values():
            self._relays.set_peer(peer)

    # ------------------------------------------------------------ peers

    @property
    def peers(self) -> Sequence[Node]:
        """The peers we know."""
        return tuple(self._peers.values())

    def upsert_peer(self, peer: Node, *, psk: bytes | None = None) -> None:
        """Add a peer or take over what changed about it (`peer.key` is its identity)."""
        change = "updated" if peer.key in self._peers else "added"
        self._peers[peer.key] = peer
        engine = self.engine
        engine.device.add_peer(peer.key, psk=psk)
        engine.stack.set_peer(peer.key, peer.allowed_ips or peer.addresses)
        endpoints = peer.endpoints if self.config.direct else ()
        engine.apply(
            engine.magicsock.upsert_peer(
                peer.key, peer.disco, home=peer.preferred_derp, endpoints=endpoints, now=engine.now()
            )
        )
        self._relays.set_peer(peer)
        if self._hub is not None:
            self._hub.peers_changed()
        self.emit(PeerChanged(peer.key, change))

    def remove_peer(self, key: NodePublic, *, gone: str = "") -> None:
        """Forget a peer and its keys. Its connections time out, unless another peer gets its address; if it is `gone`,
        which says why, they break at once."""
        if self._peers.pop(key, None) is None:
            return
        self.engine.device.remove_peer(key)
        self.engine.stack.remove_peer(key, gone)
        self.engine.apply(self.engine.magicsock.remove_peer(key))
        self.engine.forget_peer(key)
        self.engine.kick()
        if self._hub is not None:
            self._hub.peers_changed()
        self.emit(PeerChanged(key, "removed"))

    def set_rules(self, rules: PathRules | None, peer: NodePublic | None = None) -> None:
        """Rules for the paths to one peer, or (None) to all without rules of their own, from now on; see
        `Magicsock.set_rules`. General rules also decide which of our endpoints are published, and our home region."""
        engine = self.engine
        engine.apply(engine.magicsock.set_rules(rules, engine.now(), peer))
        if peer is None:
            if self._hub is not None:
                self._hub.set_rules(engine.magicsock.rules)
            self._relays.choose(patient=True)
            self._self_changed()

    def handshake(self, key: NodePublic) -> None:
        """Start a WireGuard handshake now, if there is no session and none is being made."""
        now = self.engine.now()
        if not self.engine.device.can_send(key, now):
            self.engine.apply(self.engine.device.initiate(key, now))

    def last_handshake(self, key: NodePublic) -> float | None:
        """Seconds since the last completed WireGuard handshake with a peer; None: never."""
        at = self.engine.device.last_handshake(key)
        return None if at is None else self.engine.now() - at

    def path(self, key: NodePublic) -> PathStatus:
        """What carries packets to a peer now."""
        return self.engine.magicsock.path(key)

    def traffic(self, key: NodePublic) -> tuple[int, int]:
        """Bytes of tunnel packets received from a peer, and sent to it, since it is known."""
        counted = self.engine.traffic.get(key)
        return (0, 0) if counted is None else (counted.received, counted.sent)

    @property
    def connection_count(self) -> int:
        """How many TCP connections are open, of all peers."""
        return len(self.engine.stack.connections())

    async def wait_path(self, key: NodePublic, kind: PathKind) -> PathStatus:
        """Wait until packets to a peer go this way. Not guaranteed: that they still do when this returns."""
        while (status := self.path(key)).kind is not kind:
            await self._path_changed.wait()
        return status

    async def wait_any_path(self) -> None:
        """Wait until the way to some peer changes."""
        await self._path_changed.wait()

    # ------------------------------------------------------------ TCP

    async def dial_tcp(self, address: IPv6Address, port: int, *, timeout: float = DIAL_TIMEOUT) -> TunnelStream:
        """Open a TCP connection through the tunnel.

        Raises: PeerUnreachable (no answer within `timeout` seconds), TransportBroken (refused or reset).
        """
        engine = self.engine
        connection = engine.stack.connect(address, port, engine.now())
        stream = TunnelStream(connection, engine.kick, engine.now)
        engine.kick()
        try:
            with anyio.fail_after(timeout):
                await stream.wait_established()
        except TimeoutError:
            stream.abort()
            raise PeerUnreachable(
                f"no answer from [{address}]:{port} within {timeout:g} s",
                hint="see what `coder ping` says about the path to it",
            ) from None
        except anyio.BrokenResourceError as exc:
            stream.abort()
            reason = str(exc.__cause__ or "connection failed")
            raise TransportBroken(f"[{address}]:{port}: {reason}") from exc
        except BaseException:
            stream.abort()
            raise
        return stream

    def listen_tcp(self, port: int, serve: Callable[[TunnelStream], Awaitable[None]]) -> None:
        """Serve connections to `port` of any of our addresses, a task each; the stream is closed when `serve` ends."""
        self._listeners[port] = serve

    def accept(self, request: SynRequest, serve: Callable[[TunnelStream], Awaitable[None]]) -> None:
        """Answer a SYN that `on_syn` was given, and serve the connection."""
        connection = request.accept(self.engine.now())
        stream = TunnelStream(connection, self.engine.kick, self.engine.now)
        self.engine.kick()
        self.start_soon(self._serve, stream, serve)

    def reject(self, request: SynRequest) -> None:
        """Refuse a SYN with a reset."""
        request.reject(self.engine.now())
        self.engine.kick()

    def dial_splice(
        self,
        sock: socket.socket,
        address: IPv6Address,
        port: int,
        *,
        on_open: Callable[[Splice], None],
        on_fail: Callable[[str], None],
        on_end: Callable[[Splice], None],
        timeout: float = DIAL_TIMEOUT,
    ) -> Dial:
        """Dial through the tunnel for a local socket (connected, non-blocking), and join the two; all by callbacks.

        `sock` belongs to the dial at once: it is reset if the dial fails, and then `on_fail` is told why.
        """
        return Dial(
            self.engine, sock, (address, port), on_open=on_open, on_fail=on_fail, on_end=on_end, timeout=timeout
        )

    def start_soon(self, function: Callable[[Unpack[Ts]], Coroutine[Any, Any, object]], *args: *Ts) -> None:
        """Run a task that ends with the node."""
        assert self._tasks is not None
        self._tasks.start_soon(function, *args)

    async def drain(self, *, timeout: float = DRAIN_TIMEOUT) -> None:
        """Wait, at most `timeout` seconds, until what was sent on closed streams has been acknowledged."""
        with anyio.move_on_after(timeout):
            while any(  # noqa: ASYNC110  (at the end of a node only: no reason to make the data path tell)
                c.released and c.state in CLOSING_STATES for c in self.engine.stack.connections()
            ):
                await anyio.sleep(DRAIN_POLL)

    # ------------------------------------------------------------ UDP

    async def open_udp(self, address: IPv6Address, port: int) -> TunnelDatagrams:
        """Datagrams to and from a UDP port of a peer. Nothing is sent yet, and there is no handshake that could fail.

        Up to 65 527 bytes each: more than a packet of the tunnel holds travels in fragments, which peers of ours take,
        and stock ones do not (docs/port-forward.md). Raises LocalProtocolError if no port is free.
        """
        return TunnelDatagrams(lambda on_datagram, refused: self.udp_flow(address, port, on_datagram, refused))

    def udp_flow(
        self,
        address: IPv6Address,
        port: int,
        on_datagram: FlowHandler,
        on_refused: Callable[[], None] | None = None,
    ) -> UdpFlow:
        """The same with callbacks, for bulk users. Raises LocalProtocolError if no port is free."""
        return self.udp.open(self._addresses[0], address, port, on_datagram, on_refused)

    def listen_udp(self, port: int) -> TunnelUdpSocket:
        """Datagrams to a UDP port of any of our addresses. Raises LocalProtocolError if it is taken."""
        return TunnelUdpSocket(self.udp, port)

    def serve_udp(self, port: int, handler: PortHandler) -> None:
        """The same with a callback, for bulk users."""
        self.udp.listen(port, handler)

    # ------------------------------------------------------------ ping

    async def ping(
        self, key: NodePublic, *, via: Literal["best", "direct", "derp"] = "best", timeout: float = 5.0
    ) -> Pong:
        """A disco ping: says by which path, and how long it took. Raises PeerUnreachable."""
        return await self._pings.disco(key, via=via, timeout=timeout)

    async def ping_tunnel(self, address: IPv6Address, *, timeout: float = 5.0) -> Pong:
        """A TSMP ping through the tunnel itself: proves that the peer can be reached. Raises PeerUnreachable."""
        return await self._pings.tunnel(address, timeout=timeout)

    # ------------------------------------------------------------ runtime.engine.Observer

    def path_updated(self, update: PathUpdate) -> None:
        """The path core changed its mind about a peer."""
        log.debug("path to %s: %s (%s)", update.peer.short, update.path or "none", update.reason)
        self._path_changed.set()
        self._path_changed = anyio.Event()
        self.emit(PathChanged(update.peer, update.kind, update.path, update.previous, update.reason, update.latency))

    def pong_received(self, pong: PongReceived) -> None:
        """A ping of `ping` was answered."""
        self._pings.disco_pong(pong)

    def endpoints_wanted(self, reason: str) -> None:
        """Our endpoints are too old to be sent to a peer."""
        if self._hub is not None:
            self._hub.refresh(reason)

    def session_ready(self, peer: NodePublic) -> None:
        """A WireGuard session is up."""
        self.on_session_ready(peer)
        self.engine.kick()

    def stun_received(self, data: bytes, source: AddrPort, now: float) -> None:
        """A STUN packet for the candidate sources."""
        if self._hub is not None:
            self._hub.stun_received(data, source, now)

    def unknown_received(self, data: bytes, path: Path) -> None:
        """A packet of no protocol of ours (tailcat's admission, for example)."""
        self.engine.counters["dropped-unknown-protocol"] += 1
        self.on_unknown(data, path)

    # ------------------------------------------------------------ inside

    def _syn(self, request: SynRequest) -> None:
        serve = self._listeners.get(request.local[1])
        if serve is not None:
            self.accept(request, serve)
        else:
            self.on_syn(request)

    async def _serve(self, stream: TunnelStream, serve: Callable[[TunnelStream], Awaitable[None]]) -> None:
        try:
            await serve(stream)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream) as exc:
            log.debug("connection from %s ended: %r", stream.connection.remote, exc)
        except Exception:  # one connection's failure is not the node's
            log.exception("serving a connection from %s failed", stream.connection.remote)
            stream.abort()
        finally:
            await stream.aclose()

    def _disco_key_announced(self, peer: object, key: bytes) -> None:
        if isinstance(peer, NodePublic):
            self.engine.apply(self.engine.magicsock.set_disco_key(peer, DiscoPublic(key), self.engine.now()))

    def _endpoints_changed(self) -> None:
        hub, engine = self._hub, self.engine
        if hub is not None:
            engine.apply(engine.magicsock.set_local_endpoints(hub.endpoints(), engine.now()))
        self._self_changed()

    def _suggested(self, peer: NodePublic, endpoints: Sequence[AddrPort]) -> None:
        engine = self.engine
        engine.apply(engine.magicsock.suggest_endpoints(peer, endpoints, engine.now()))

    def _measured(self) -> None:
        self.engine.apply(self.engine.magicsock.set_local_facts(self.nat_facts, self.engine.now()))
        self._relays.choose(patient=False)
        self._self_changed()

    @property
    def is_reachable(self) -> bool:
        """Are we at a relay where peers send? At home; or, while that is down, at the second one."""
        return self._relays.is_reachable

    def _self_changed(self) -> None:
        node = self.self_node()
        if self._published is None or replace(node, as_of=0.0) != replace(self._published, as_of=0.0):
            self._published = node
            self.on_self_changed(node)

    def emit(self, event: Event) -> None:
        """Tell the observers."""
        try:
            self.config.emit(event)
        except Exception:  # an observer's bug must not stop the data path
            log.exception("an observer failed on %s", type(event).__name__)

    def _transport_event(self, event: Event) -> None:
        if isinstance(event, RelayChanged):
            self.engine.relay_changed(event.region, event.connected)
            self._self_changed()  # a relay may have fallen back to WebSocket, which our node says
        self.emit(event)

    @asynccontextmanager
    async def _running(self, key: NodePrivate) -> AsyncIterator[TailnetNode]:
        failure: Exception | None = None
        async with AsyncExitStack() as exits:
            exits.callback(self.engine.stop)
            try:
                await open_transports(self.config, exits, self.engine, key, self._transport_event)
                exits.callback(self.engine.reset_all)
                self._tasks = await exits.enter_async_context(background())
                exits.callback(self._relays.stop)
                exits.callback(lambda: log.debug("counters: %s", self.engine.all_counters()))
                self._start_hub(self._tasks)
                self._tasks.start_soon(watch_sleep, self._woke)
                self._tasks.start_soon(self._relays.run)
                self._tasks.start_soon(watch_links, self._link_changed)
                self._tasks.start_soon(watch_verdicts, self)
                yield self
                await self.drain()
            except Exception as exc:  # kept from the transports: a task group of theirs would make a group of it
                failure = exc
        if failure is not None:
            raise failure

    def _start_hub(self, tasks: anyio.abc.TaskGroup) -> None:
        if self.engine.direct is not None:
            self._hub = CandidateHub(
                self.engine.direct,
                changed=self._endpoints_changed,
                measured=self._measured,
                moved=lambda: self.engine.rebind("link-change"),
                key=self.key,
                peers=lambda: self.peers,
                suggested=self._suggested,
                rules=self.engine.magicsock.rules,
                egress=self.config.dial.egress,
            )
            self._hub.nat = NatFacts(listen_port=self.config.listen_port)
            tasks.start_soon(self._hub.run, self.config.sources)

    def _woke(self, slept: float) -> None:
        log.info("woke after %.0f s: connecting anew", slept)
        self.engine.woke()
        self.on_woke()

    def _link_changed(self, what: LinkChange) -> None:
        """Other addresses of ours are offered at once; what was learnt is forgotten only if we now are elsewhere."""
        log.info("the network changed (%s)", what)
        self.engine.link_changed(way_out=what is LinkChange.WAY_OUT)
        self.on_link_changed()
        if self._hub is not None:
            self._hub.refresh("link-change")


@asynccontextmanager
async def open_node(config: NodeConfig, *, magicsock: Magicsock | None = None) -> AsyncIterator[TailnetNode]:
    """Run a node. Keys are fresh unless given; sockets, tasks and sessions end with the context.

    `magicsock`: another path core than the usual one (testing/static_paths.py).

    Raises: ConfigError (no transport), TransportError (nothing can be bound).
    """
    keys = keys_of(config)
    node = TailnetNode(config, cores_of(config, keys, magicsock), keys)
    async with node._running(keys[0]):
        yield node
