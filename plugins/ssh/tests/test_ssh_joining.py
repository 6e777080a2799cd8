"""Sockets between the tunnel and asyncssh lose nothing, whoever is slow."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

import anyio
import anyio.abc
import pytest
from coder_agent_ssh.joining import PIECE, join, named, receive, rest_of, send_all, socket_pair

pytestmark = pytest.mark.anyio


def test_what_is_left() -> None:
    views = [memoryview(b"abc"), memoryview(b""), memoryview(b"de")]
    assert [b"".join(rest_of(views, sent)) for sent in range(6)] == [b"abcde", b"bcde", b"cde", b"de", b"e", b""]


async def test_many_small_sends_arrive_as_they_were_and_the_last_words_too() -> None:
    ours, theirs = socket_pair()
    sock = named(ours, ("::1", 1), ("::2", 2))
    assert (sock.getsockname(), sock.getpeername()) == (("::1", 1), ("::2", 2))
    pieces = [os.urandom(1 + number % 997) for number in range(2000)]
    got = bytearray()

    async def read() -> None:
        while data := await receive(theirs):
            got.extend(data)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        for piece in pieces:
            while True:
                try:
                    assert sock.send(piece) == len(piece)
                    break
                except BlockingIOError:
                    await anyio.wait_writable(sock)
        sock.close()
    theirs.close()
    assert bytes(got) == b"".join(pieces)


async def test_a_reader_that_does_nothing_is_not_written_to_for_ever() -> None:
    ours, theirs = socket_pair()
    sock = named(ours, ("::1", 1), ("::2", 2))
    taken = 0
    with suppress(BlockingIOError):
        while taken < 64 << 20:
            taken += sock.send(b"x" * 65536)
    assert PIECE <= taken < 4 << 20
    theirs.close()
    sock.close()


async def test_joined_streams_carry_both_ways_and_end_together() -> None:
    left, right = anyio.create_memory_object_stream[bytes](8), anyio.create_memory_object_stream[bytes](8)
    ours, theirs = socket_pair()
    data = os.urandom(PIECE * 5)

    class Stream(anyio.abc.ByteStream):
        async def receive(self, max_bytes: int = 65536) -> bytes:
            return await left[1].receive()

        async def send(self, item: bytes) -> None:
            await right[0].send(item)

        async def send_eof(self) -> None:
            right[0].close()

        async def aclose(self) -> None:
            pass

    async def echo() -> None:
        while part := await receive(theirs):
            await send_all(theirs, [part])
        theirs.close()

    back = bytearray()

    async def collect() -> None:
        async for part in right[1]:
            back.extend(part)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(join, Stream(), ours)
        tasks.start_soon(echo)
        tasks.start_soon(collect)
        await left[0].send(data)
        left[0].close()
    assert bytes(back) == data
    for stream in (*left, *right):
        stream.close()
    assert ours.fileno() == -1
    assert isinstance(theirs, socket.socket)
