"""Streams over connections of the virtual network, whose clock stands still while the stream is used."""

from __future__ import annotations

import anyio
import pytest

from coder_agent.runtime.streams import TunnelStream
from coder_agent.testing.lab.world import World

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
