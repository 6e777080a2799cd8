"""Joining two streams."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import anyio
import pytest
from anyio.abc import ByteStream, UNIXSocketStream

from coder_agent.runtime.pipe import pipe

pytestmark = pytest.mark.anyio


@pytest.fixture
async def ends() -> AsyncIterator[tuple[ByteStream, ByteStream, ByteStream, ByteStream]]:
    """client – a | b – server: what is joined are a and b."""
    streams = [await UNIXSocketStream.from_socket(s) for _ in range(2) for s in socket.socketpair()]
    client, a, b, server = streams
    yield client, a, b, server
    for stream in streams:
        await stream.aclose()


async def test_a_half_close_is_passed_on_and_the_answer_still_comes_back(
    ends: tuple[ByteStream, ByteStream, ByteStream, ByteStream],
) -> None:
    client, a, b, server = ends
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pipe, a, b)
            await client.send(b"request")
            await client.send_eof()
            assert await server.receive() == b"request"
            with pytest.raises(anyio.EndOfStream):
                await server.receive()
            await server.send(b"answer")
            await server.send_eof()
            assert await client.receive() == b"answer"
            with pytest.raises(anyio.EndOfStream):
                await client.receive()


async def test_when_one_side_breaks_both_are_given_up(
    ends: tuple[ByteStream, ByteStream, ByteStream, ByteStream],
) -> None:
    class Broken:
        aborted = False

        async def send(self, item: bytes) -> None:
            raise anyio.BrokenResourceError

        async def receive(self, max_bytes: int = 65536) -> bytes:
            raise anyio.BrokenResourceError

        def abort(self) -> None:
            self.aborted = True

    broken = Broken()
    with anyio.fail_after(30):
        await pipe(ends[1], broken)  # type: ignore[arg-type]
    assert broken.aborted
