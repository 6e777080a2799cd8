"""A relay that dies takes all its clients' connections at the same moment; they must not all come back at the same."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from bisect import bisect_right
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from unittest.mock import Mock

import anyio
import pytest
from coder_agent_transport_derp import region as region_module
from coder_agent_transport_derp.region import BACKOFF_CAP, Region, Shared
from coder_agent_transport_derp.relay import DerpRelay
from coder_agent_transport_derp.standalone import serve_relay
from coder_agent_transport_derp.transport import DerpTransport, DerpTransportFactory

from coder_agent.base.addresses import AddrPort
from coder_agent.base.derp_map import DerpMap, DerpNode, DerpRegion
from coder_agent.base.keys import NodePrivate
from coder_agent.errors import TransportBroken
from coder_agent.hooks.interfaces import TransportContext
from coder_agent.testing.virtual_time import VirtualLoop

pytestmark = pytest.mark.anyio

CLIENTS = 1000
WINDOW = 0.05
ALREADY_UP = 20.0
"""Seconds for which everybody had been connected: long enough that the back-off begins anew."""
virtual = pytest.mark.parametrize("anyio_backend", [("asyncio", {"loop_factory": VirtualLoop})], ids=["virtual"])


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Relay:
    """What `Region._log_in` sees of a relay: up until `dies_at`, and again from `back_at` on."""

    def __init__(self, dies_at: float, back_at: float) -> None:
        self.dies_at, self.back_at = dies_at, back_at
        self.refused: list[float] = []
        self.returned: list[float] = []

    async def log_in(self, region: Region, node: DerpNode, ideal: DerpNode) -> Mock:
        now = anyio.current_time()
        if self.dies_at <= now < self.back_at:
            self.refused.append(now)
            raise TransportBroken("connection refused")
        connection = Mock(usable=True, error=TransportBroken("connection reset"), lost=anyio.Event())
        if now < self.dies_at:
            asyncio.get_running_loop().call_at(self.dies_at, connection.lost.set)
        else:
            self.returned.append(now)
        return connection


def busiest(moments: list[float], window: float = WINDOW) -> int:
    """The most of `moments` that lie within one `window`."""
    ordered = sorted(moments)
    return max(bisect_right(ordered, first + window) - at for at, first in enumerate(ordered))


@virtual
@pytest.mark.parametrize("away", [0.5, 2.0, 30.0])
async def test_a_thousand_clients_come_back_spread(away: float, monkeypatch: pytest.MonkeyPatch) -> None:
    relay = Relay(ALREADY_UP, ALREADY_UP + away)
    monkeypatch.setattr(region_module, "random", random.Random(7))
    monkeypatch.setattr(Region, "_log_in", lambda self, node, ideal: relay.log_in(self, node, ideal))
    node = DerpNode("1a", 1, "relay.example")
    async with anyio.create_task_group() as tasks:
        for _ in range(CLIENTS):
            shared = Shared(TransportContext(Mock(), NodePrivate.generate(os.urandom), Mock()), tasks)
            Region(DerpRegion(1, "one", "One", (node,)), shared).set_home(True)
        await anyio.sleep(ALREADY_UP + away + 1.5 * BACKOFF_CAP + 0.001)
        tasks.cancel_scope.cancel()
    assert len(relay.returned) == CLIENTS, "within the longest pause all are back, each once"
    late = [moment - relay.back_at for moment in relay.returned]
    assert max(late) <= min(1.5 * BACKOFF_CAP, away + 0.5), "who was away for a short time comes back soon"
    assert busiest(relay.returned) <= CLIENTS * 2 // 3
    if away >= 2.0:
        assert busiest(relay.returned) <= CLIENTS // 4
    tries = len(relay.refused) / CLIENTS
    assert tries <= 20 + away / BACKOFF_CAP * 2, "a relay that stays away is left alone"


async def test_real_clients_are_back_after_the_relay_was_killed() -> None:
    """Real sockets: a hundred transports in one process, a relay that goes without a word and is another one after."""
    key, address = NodePrivate.generate(os.urandom), unused_address()
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client(address)) for _ in range(100)]
        for _ in range(2):
            relay = DerpRelay(key)
            async with serve_relay(relay, port=address.port):
                await connected(clients, True)
                assert relay.metrics()["clients"] == 100
                assert relay.metrics()["accepts"] == 100, "nobody dialled twice"
            await connected(clients, False)


def unused_address() -> AddrPort:
    """An address where nobody listens at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return AddrPort("127.0.0.1", int(sock.getsockname()[1]))


@asynccontextmanager
async def client(address: AddrPort) -> AsyncIterator[DerpTransport]:
    """A transport whose home is the relay at `address`."""
    node = DerpNode("1a", 1, "localhost", ipv4=address.host, ipv6="none", derp_port=address.port, force_http=True)
    context = TransportContext(Mock(), NodePrivate.generate(os.urandom), Mock())
    async with DerpTransportFactory().open(context) as transport:
        assert isinstance(transport, DerpTransport)
        transport.set_map(DerpMap({1: DerpRegion(1, "one", "One", (node,))}))
        transport.set_home(1)
        yield transport


async def connected(clients: list[DerpTransport], wanted: bool) -> None:
    """Wait until all of them are, or none is."""
    with anyio.fail_after(30):
        while any(one.connected(1) is not wanted for one in clients):  # noqa: ASYNC110  (100 transports, no one event)
            await anyio.sleep(0.01)
