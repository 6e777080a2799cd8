"""Two nodes with real sockets on loopback, built from the first-party transports: the public face of the runtime."""

from __future__ import annotations

import hashlib
import itertools
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv6Address

import anyio
import pytest
from coder_agent_transport_udp.settings import UdpSettings
from coder_agent_transport_udp.transport import UdpTransportFactory

from coder_agent.base.addresses import AddrPort
from coder_agent.base.paths import PathKind
from coder_agent.errors import ConfigError, PeerUnreachable, TransportBroken
from coder_agent.explain import explain
from coder_agent.hooks.events import Event, PathChanged, PathExplained, PeerChanged
from coder_agent.hooks.interfaces import Candidate, CandidateContext, CandidateKind
from coder_agent.node import NodeConfig, TailnetNode, TunnelStream, open_node

pytestmark = pytest.mark.anyio

A, B = IPv6Address("fd7a:115c:a1e0::a"), IPv6Address("fd7a:115c:a1e0::b")


@dataclass
class Loopback:
    """A candidate source that knows just 127.0.0.1."""

    name: str = "loopback"

    async def run(self, context: CandidateContext) -> None:
        port, _ = context.direct.bound_ports()
        assert port is not None
        context.publish(self.name, [Candidate(AddrPort("127.0.0.1", port), CandidateKind.LOCAL)])
        await anyio.sleep_forever()


def config(address: IPv6Address, events: list[Event] | None = None) -> NodeConfig:
    emit = events.append if events is not None else lambda event: None
    return NodeConfig(
        addresses=[address], transports=[UdpTransportFactory(UdpSettings())], sources=[Loopback()], emit=emit
    )


async def told(node: TailnetNode) -> None:
    """Wait until a node has endpoints to publish."""
    while not node.self_node().endpoints:
        await anyio.lowlevel.checkpoint()


@asynccontextmanager
async def pair(events: list[Event] | None = None) -> AsyncIterator[tuple[TailnetNode, TailnetNode]]:
    async with open_node(config(A, events)) as a, open_node(config(B)) as b:
        with anyio.fail_after(30):
            await told(a)
            await told(b)
        a.upsert_peer(b.self_node())
        b.upsert_peer(a.self_node())
        yield a, b


async def echo(stream: TunnelStream) -> None:
    async for chunk in stream:
        await stream.send(chunk)
    await stream.send_eof()


async def test_bytes_come_back_as_they_went_and_half_close_works() -> None:
    data = os.urandom(3_000_000)
    async with pair() as (a, b):
        b.listen_tcp(80, echo)
        with anyio.fail_after(60):
            stream = await a.dial_tcp(B, 80)
            seen = hashlib.sha256()
            async with anyio.create_task_group() as tasks:

                async def write() -> None:
                    await stream.send(data)
                    await stream.send_eof()

                tasks.start_soon(write)
                async for chunk in stream:
                    seen.update(chunk)
            await stream.aclose()
        assert seen.digest() == hashlib.sha256(data).digest()
        assert a.path(b.key).kind is PathKind.DIRECT


async def test_a_port_that_is_asked_for_is_bound_offered_and_known() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fixed = replace(config(A), listen_port=port)
    async with open_node(fixed) as node:
        await told(node)
        assert [str(endpoint) for endpoint in node.self_node().endpoints] == [f"127.0.0.1:{port}"]
        assert node.nat_facts.listen_port == port
    async with open_node(config(A)) as node:
        assert node.nat_facts.listen_port == 0


async def test_pings_say_the_path_and_prove_the_tunnel() -> None:
    async with pair() as (a, b):
        with anyio.fail_after(30):
            tunnel = await a.ping_tunnel(B)
            await a.wait_path(b.key, PathKind.DIRECT)
            pong = await a.ping(b.key)
        assert pong.kind is PathKind.DIRECT
        assert 0 < pong.latency < 1
        assert tunnel.latency > 0


async def test_a_port_without_listener_is_refused_at_once() -> None:
    async with pair() as (a, _):
        with anyio.fail_after(30), pytest.raises(TransportBroken, match="refused"):
            await a.dial_tcp(B, 81)


async def test_a_peer_that_is_not_there_is_unreachable() -> None:
    async with open_node(config(A)) as a:
        with pytest.raises(PeerUnreachable, match="no answer"):
            await a.dial_tcp(B, 80, timeout=0.05)


async def test_streams_tell_how_they_ended() -> None:
    async with pair() as (a, b):
        ended = anyio.Event()

        async def abort(stream: TunnelStream) -> None:
            await stream.receive()
            stream.abort()
            ended.set()

        b.listen_tcp(80, abort)
        with anyio.fail_after(30):
            stream = await a.dial_tcp(B, 80)
            await stream.send(b"x")
            await ended.wait()
            with pytest.raises(anyio.BrokenResourceError) as caught:
                await stream.receive()
            assert "reset" in str(caught.value.__cause__)
        await stream.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await stream.receive()
        with pytest.raises(anyio.ClosedResourceError):
            await stream.send(b"y")


async def test_a_server_that_fails_costs_one_connection(caplog: pytest.LogCaptureFixture) -> None:
    async with pair() as (a, b):

        async def fail(stream: TunnelStream) -> None:
            await stream.receive()
            raise ValueError("a bug in a service")

        b.listen_tcp(80, fail)
        b.listen_tcp(81, echo)
        with anyio.fail_after(30):
            broken = await a.dial_tcp(B, 80)
            await broken.send(b"x")
            with pytest.raises(anyio.BrokenResourceError):
                await broken.receive()
            working = await a.dial_tcp(B, 81)
            await working.send(b"still here")
            assert await working.receive() == b"still here"
    assert "a bug in a service" in caplog.text


async def test_observers_hear_of_peers_and_paths_and_cannot_break_anything() -> None:
    events: list[Event] = []
    async with pair(events) as (a, b):
        with anyio.fail_after(30):
            await a.ping_tunnel(B)
            await a.wait_path(b.key, PathKind.DIRECT)
        a.remove_peer(b.key)
    changes = [event.change for event in events if isinstance(event, PeerChanged)]
    assert changes == ["added", "removed"]
    assert any(isinstance(event, PathChanged) and event.kind is PathKind.DIRECT for event in events)


async def test_an_observer_that_raises_is_ignored() -> None:
    def explode(event: Event) -> None:
        raise RuntimeError("observer")

    settings = config(A)
    settings.emit = explode
    async with open_node(settings) as a, open_node(config(B)) as b:
        with anyio.fail_after(30):
            await told(b)
        a.upsert_peer(b.self_node())
        assert [peer.key for peer in a.peers] == [b.key]


async def test_a_node_without_transports_says_what_to_install() -> None:
    with pytest.raises(ConfigError, match="no transport plugin"):
        async with open_node(NodeConfig(addresses=[A], transports=[])):
            pass


async def test_what_was_sent_before_closing_arrives_even_if_the_node_goes_at_once() -> None:
    received = bytearray()
    complete = anyio.Event()

    async def collect(stream: TunnelStream) -> None:
        async for chunk in stream:
            received.extend(chunk)
        complete.set()

    async with open_node(config(B)) as b:
        b.listen_tcp(80, collect)
        async with open_node(config(A)) as a:
            with anyio.fail_after(30):
                await told(a)
                await told(b)
            a.upsert_peer(b.self_node())
            b.upsert_peer(a.self_node())
            stream = await a.dial_tcp(B, 80)
            await stream.send(bytes(2_000_000))
            await stream.aclose()
        with anyio.fail_after(30):
            await complete.wait()
    assert len(received) == 2_000_000


async def test_a_node_that_goes_resets_what_is_open_at_both_ends() -> None:
    ended = anyio.Event()

    async def wait_for_end(stream: TunnelStream) -> None:
        try:
            await stream.receive()
        except anyio.BrokenResourceError:
            ended.set()

    async with open_node(config(B)) as b:
        b.listen_tcp(80, wait_for_end)
        async with open_node(config(A)) as a:
            with anyio.fail_after(30):
                await told(a)
                await told(b)
            a.upsert_peer(b.self_node())
            b.upsert_peer(a.self_node())
            stream = await a.dial_tcp(B, 80)
        with pytest.raises(anyio.BrokenResourceError):
            await stream.receive()
        with anyio.fail_after(30):
            await ended.wait()


class UntilDirect(list[Event]):
    """Events, and whether a direct path has been explained."""

    def __init__(self) -> None:
        super().__init__()
        self.explained = anyio.Event()

    def append(self, event: Event) -> None:
        super().append(event)
        if isinstance(event, PathExplained) and event.code.startswith("direct_"):
            self.explained.set()


async def test_observers_hear_the_verdict_and_the_node_explains_itself() -> None:
    """No relay and no STUN here, yet both ends share a machine."""
    events = UntilDirect()
    async with pair(events) as (a, b):
        with anyio.fail_after(60):
            await a.ping_tunnel(B)
            await a.wait_path(b.key, PathKind.DIRECT)
            await events.explained.wait()
        told = [event for event in events if isinstance(event, PathExplained)]
        verdict = explain(a, b.key)
    assert {event.peer for event in told} == {b.key}
    assert told[-1].code == verdict.code.value == "direct_lan"
    assert told[-1].summary == verdict.summary
    codes = [event.code for event in told]
    assert all(before != after for before, after in itertools.pairwise(codes)), "told again without a change"
