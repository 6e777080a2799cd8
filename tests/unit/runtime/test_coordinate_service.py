"""The Coordinate call as served: what a peer's bad requests and bad manners do to it and to the others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.streams.stapled import StapledObjectStream

from coder_agent.base.coordinate import PeerRequest, UpdateKind
from coder_agent.coordination.core import InMemoryCoordinator, Session
from coder_agent.coordination.interface import Role
from coder_agent.coordination.roles import ClientAuth, SingleTailnetAuth
from coder_agent.protocols.tailnet.convert import request_to_proto, response_from_proto
from coder_agent.protocols.tailnet.proto.tailnet_pb2 import CoordinateRequest, CoordinateResponse
from coder_agent.rpc import RpcConnection, RpcError, RpcStream, coordinate_handler
from coder_agent.testing.contracts.coordinator import AGENT, CLIENT, make_node

pytestmark = pytest.mark.anyio

PATH = "/coder.tailnet.v2.Tailnet/Coordinate"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Agent:
    """A peer inside the coordinator that sees what becomes of the other one."""

    def __init__(self, coordinator: InMemoryCoordinator) -> None:
        self.woken = anyio.Event()
        self.kinds: list[UpdateKind] = []
        self.session: Session = coordinator.connect(AGENT, SingleTailnetAuth(), name="agent", wake=self._wake)
        self.session.request(PeerRequest(update_self=make_node(AGENT)))

    def _wake(self) -> None:
        self.woken.set()

    async def until(self, kind: UpdateKind) -> None:
        with anyio.fail_after(30):
            while kind not in self.kinds:
                self.woken = anyio.Event()
                self.kinds += [update.kind for response in self.session.take() for update in response.updates]
                if kind not in self.kinds:
                    await self.woken.wait()


@asynccontextmanager
async def coordinating(
    coordinator: InMemoryCoordinator, role: Role | None = None
) -> AsyncIterator[RpcStream[CoordinateResponse]]:
    a_send, b_receive = anyio.create_memory_object_stream[bytes](0)
    b_send, a_receive = anyio.create_memory_object_stream[bytes](0)
    handler = coordinate_handler(coordinator, CLIENT, role or ClientAuth(AGENT), name="client")
    async with (
        RpcConnection(StapledObjectStream(b_send, b_receive), client=False) as server,
        RpcConnection(StapledObjectStream(a_send, a_receive), client=True) as client,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(server.serve, {PATH: handler})
        async with client.stream(PATH, CoordinateResponse) as stream:
            yield stream
        tasks.cancel_scope.cancel()


async def say(stream: RpcStream[CoordinateResponse], request: PeerRequest) -> None:
    await stream.send(request_to_proto(request))


async def test_updates_flow_both_ways() -> None:
    coordinator = InMemoryCoordinator()
    agent = Agent(coordinator)
    async with coordinating(coordinator) as stream:
        await say(stream, PeerRequest(update_self=make_node(CLIENT), add_tunnel=AGENT))
        response = response_from_proto(await stream.receive())
        assert [(u.id, u.kind, u.node) for u in response.updates] == [(AGENT, UpdateKind.NODE, make_node(AGENT))]
        await agent.until(UpdateKind.NODE)


async def test_disconnect_ends_the_stream_from_the_servers_side() -> None:
    coordinator = InMemoryCoordinator()
    agent = Agent(coordinator)
    async with coordinating(coordinator) as stream:
        await say(stream, PeerRequest(update_self=make_node(CLIENT), add_tunnel=AGENT))
        await agent.until(UpdateKind.NODE)
        await say(stream, PeerRequest(disconnect=True))
        with anyio.fail_after(30):
            assert [m async for m in stream][1:] == []
        await agent.until(UpdateKind.DISCONNECTED)


@pytest.mark.parametrize("close", [True, False])
async def test_leaving_without_a_word_is_lost(close: bool) -> None:
    coordinator = InMemoryCoordinator()
    agent = Agent(coordinator)
    async with coordinating(coordinator) as stream:
        await say(stream, PeerRequest(update_self=make_node(CLIENT), add_tunnel=AGENT))
        await agent.until(UpdateKind.NODE)
        if close:
            await stream.close_send()
            await agent.until(UpdateKind.LOST)
    await agent.until(UpdateKind.LOST)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (CoordinateRequest(add_tunnel=CoordinateRequest.Tunnel(id=b"abc")), "an id has 16 bytes, not 3"),
        (CoordinateRequest(add_tunnel=CoordinateRequest.Tunnel(id=CLIENT.bytes)), "its own agent only"),
        (CoordinateRequest(update_self=CoordinateRequest.UpdateSelf()), "a node key is"),
    ],
)
async def test_bad_requests_are_explained_and_end_the_stream(request_: CoordinateRequest, reason: str) -> None:
    coordinator = InMemoryCoordinator()
    agent = Agent(coordinator)
    async with coordinating(coordinator) as stream:
        await say(stream, PeerRequest(update_self=make_node(CLIENT), add_tunnel=AGENT))
        await agent.until(UpdateKind.NODE)
        await stream.send(request_)
        with anyio.fail_after(30):
            errors = [m.error async for m in stream if m.error]
        assert len(errors) == 1
        assert reason in errors[0]
    await agent.until(UpdateKind.LOST)


async def test_a_second_stream_of_the_same_peer_ends_the_first() -> None:
    coordinator = InMemoryCoordinator()
    async with coordinating(coordinator) as first, coordinating(coordinator) as second:
        await say(first, PeerRequest(update_self=make_node(CLIENT)))
        await say(second, PeerRequest(update_self=make_node(CLIENT)))
        with anyio.fail_after(30):
            assert [m async for m in first] == []
        assert not second.ended


async def test_a_closed_coordinator_refuses() -> None:
    coordinator = InMemoryCoordinator()
    coordinator.close()
    async with coordinating(coordinator) as stream:
        with pytest.raises(RpcError, match="coordinator is closed"):
            await stream.receive()
