"""Two transports that are each other's far end, and the embedded relay behind one of them."""

from __future__ import annotations

import asyncio

import anyio
import pytest
from coder_agent_server.tailnet.local_relay import EmbeddedRelay
from coder_agent_server.tailnet.memory_transport import MemoryTransport, memory_pair
from coder_agent_server.testing import EchoRelay

from coder_agent.errors import TransportBroken

pytestmark = pytest.mark.anyio


class Chunks(asyncio.Protocol):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.heard = b""
        self.paused = 0
        self.resumed = 0
        self.lost = asyncio.Event()
        self.made: list[asyncio.BaseTransport] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made.append(transport)

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def pause_writing(self) -> None:
        self.paused += 1

    def resume_writing(self) -> None:
        self.resumed += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


class Rooms(asyncio.BufferedProtocol):
    """Has room for three bytes at a time."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self._room = bytearray(3)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        self.heard.append(bytes(self._room[:nbytes]))


def pair() -> tuple[MemoryTransport, Chunks, MemoryTransport, Chunks]:
    ours, theirs = memory_pair(asyncio.get_running_loop())
    one, other = Chunks(), Chunks()
    ours.set_protocol(one)
    theirs.set_protocol(other)
    return ours, one, theirs, other


async def turn() -> None:
    """Let what is scheduled run."""
    await anyio.lowlevel.checkpoint()
    await anyio.lowlevel.checkpoint()


async def test_both_ways_in_order_and_never_from_within_a_write() -> None:
    ours, one, theirs, other = pair()
    ours.write(b"a")
    borrowed = bytearray(b"bc")
    ours.write(memoryview(borrowed))
    borrowed[:] = b"xx"
    theirs.writelines([b"1", b"2"])
    assert (one.heard, other.heard) == (b"", b"")
    await turn()
    assert (one.heard, other.heard) == (b"12", b"abc")
    assert ours.get_write_buffer_size() == 0


async def test_a_buffered_protocol_takes_what_it_has_room_for() -> None:
    ours, theirs = memory_pair(asyncio.get_running_loop())
    rooms = Rooms()
    theirs.set_protocol(rooms)
    ours.write(b"abcdefgh")
    await turn()
    assert rooms.heard == [b"abc", b"def", b"gh"]


async def test_who_does_not_read_stops_the_writer() -> None:
    ours, one, theirs, other = pair()
    ours.set_write_buffer_limits(high=10, low=4)
    theirs.pause_reading()
    ours.write(b"0123456789")
    assert one.paused == 0
    ours.write(b"x")
    assert (one.paused, ours.get_write_buffer_size()) == (1, 11)
    await turn()
    assert other.heard == b""
    theirs.resume_reading()
    await turn()
    assert (one.resumed, other.heard) == (1, b"0123456789x")


async def test_close_delivers_first_and_abort_does_not() -> None:
    ours, one, theirs, other = pair()
    ours.write(b"last words")
    ours.close()
    ours.write(b"too late")
    with anyio.fail_after(30):
        await one.lost.wait()
        await other.lost.wait()
    assert other.heard == b"last words"
    assert theirs.is_closing()

    ours, one, theirs, other = pair()
    ours.write(b"lost")
    theirs.abort()
    with anyio.fail_after(30):
        await one.lost.wait()
        await other.lost.wait()
    assert other.heard == b""


async def test_the_relay_is_reached_without_a_socket() -> None:
    relay = EchoRelay()
    client = Chunks()
    transport = EmbeddedRelay(relay, 999).connect(client)  # type: ignore[arg-type]  # any protocol will do
    assert client.made == [transport]
    transport.write(b"hello")
    await turn()
    await turn()
    assert client.heard == b"ready:hello"


async def test_a_relay_that_takes_nobody() -> None:
    class Full(EchoRelay):
        def accept(self, transport: object, initial: bytes, remote: object) -> None:
            assert isinstance(transport, asyncio.Transport)
            transport.abort()

    with pytest.raises(TransportBroken, match="takes no more connections"):
        EmbeddedRelay(Full(), 999).connect(Chunks())  # type: ignore[arg-type]  # any protocol will do
