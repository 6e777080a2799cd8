"""Streams over connections of the virtual network, whose clock stands still while the stream is used."""

from __future__ import annotations

import anyio
import pytest

from coder_agent.hooks.web_apps import ReadyStream
from coder_agent.protocols.netstack import StackConfig
from coder_agent.runtime.streams import TunnelStream
from coder_agent.testing.lab.world import World
from coder_agent.testing.stack_link import StackLink

pytestmark = pytest.mark.anyio


async def test_a_refused_connection_is_never_established() -> None:
    world = World(seed=1)
    a, b = world.node("a"), world.node("b")
    world.introduce(a, b)
    connection = a.engine.stack.connect(b.address, 80, world.now)  # b has no listener
    stream = TunnelStream(connection, a.engine.kick, world.time)
    a.engine.kick()
    assert world.run(5, until=lambda: connection.error is not None)
    with pytest.raises(anyio.BrokenResourceError) as caught:
        await stream.wait_established()
    assert str(caught.value.__cause__) == "refused"


async def test_a_stream_can_be_asked_without_waiting() -> None:
    link = StackLink()
    near, far = link.connect()
    kicks: list[str] = []
    stream = TunnelStream(near, lambda: kicks.append("kick"), lambda: link.now)
    assert isinstance(stream, ReadyStream)
    news: list[str] = []
    stream.on_news = lambda: news.append("news")
    assert stream.receive_nowait() is None
    assert stream.send_nowait(b"question")
    assert kicks == ["kick"]
    link.pause(0.1)
    assert b"".join(far.read()) == b"question"
    far.write(b"answer")
    far.shutdown_write()
    link.pause(0.1)
    near.user()  # type: ignore[operator]  # as the engine does
    assert news
    assert stream.receive_nowait() == b"answer"
    assert stream.receive_nowait() == b"", "and the end"


async def test_without_room_nothing_is_sent_and_failures_are_told() -> None:
    link = StackLink(config=StackConfig(send_buffer=100_000))
    near, far = link.connect()
    stream = TunnelStream(near, lambda: None, lambda: link.now)
    assert stream.send_nowait(bytes(60_000))
    assert not stream.send_nowait(bytes(60_000))
    assert stream.unacknowledged == stream.sent_bytes == 60_000
    far.abort(link.now)
    link.pause(1)
    with pytest.raises(anyio.BrokenResourceError):
        stream.send_nowait(b"x")
    with pytest.raises(anyio.BrokenResourceError):
        stream.receive_nowait()
    stream.abort()
    with pytest.raises(anyio.ClosedResourceError):
        stream.receive_nowait()
