"""How a change of the network becomes one piece of news: from the kernel's messages, or by looking."""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from coder_agent.protocols.rtnetlink import Kind, LinkTable, Way
from coder_agent.runtime import link_watch
from coder_agent.runtime.link_watch import LinkChange, is_ours

pytestmark = pytest.mark.anyio

HOME = bytes([192, 168, 1, 2])
WAY = Way(2, bytes([192, 168, 1, 1]), HOME)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SETTLE", "PAUSE", "POLL_INTERVAL"):
        monkeypatch.setattr(link_watch, name, 0.001)


def said(kind: int, value: bytes = HOME) -> bytes:
    body = struct.pack("=BBBBi", 2, 24, 0, 0, 2) + struct.pack("=HH", 8, 2) + value
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


class Kernel:
    """A kernel that says what the test wants, at the other end of a pair of sockets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.mouth, self.ear = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.ear.setblocking(False)
        self.ways: tuple[Way | None, Way | None] = (WAY, None)
        self.heard: list[LinkChange] = []
        self.changed = anyio.Event()
        monkeypatch.setattr(link_watch, "read_ways", lambda: self.ways)

    def hear(self, what: LinkChange) -> None:
        self.heard.append(what)
        self.changed.set()

    async def wait(self) -> LinkChange:
        with anyio.fail_after(30):
            await self.changed.wait()
        self.changed = anyio.Event()
        return self.heard[-1]

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        kernel = object.__new__(link_watch._Kernel)
        kernel.table, kernel.socket, kernel.ways = LinkTable(), self.ear, self.ways
        kernel.table.feed(said(Kind.NEW_ADDRESS))
        with self.mouth, self.ear:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(link_watch._listen, kernel, self.hear)
                yield
                tasks.cancel_scope.cancel()


async def test_another_address_beside_the_way_out_is_a_smaller_change(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch)
    async with kernel.watched():
        kernel.mouth.send(said(Kind.NEW_ADDRESS, bytes([172, 17, 0, 1])))
        assert await kernel.wait() is LinkChange.OTHERS


async def test_another_way_out_is_told_once_for_all_that_belongs_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, office = Kernel(monkeypatch), bytes([192, 168, 1, 77])
    async with kernel.watched():
        kernel.ways = (Way(2, WAY.gateway, office), None)
        kernel.mouth.send(said(Kind.DEL_ADDRESS))
        kernel.mouth.send(said(Kind.NEW_ADDRESS, office))
        assert await kernel.wait() is LinkChange.WAY_OUT
        kernel.mouth.send(said(Kind.NEW_ADDRESS, bytes([10, 0, 0, 1])))
        assert await kernel.wait() is LinkChange.OTHERS
    assert kernel.heard == [LinkChange.WAY_OUT, LinkChange.OTHERS]


async def test_without_any_address_nothing_is_told_until_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch)
    async with kernel.watched():
        kernel.mouth.send(said(Kind.DEL_ADDRESS))
        await anyio.wait_all_tasks_blocked()
        kernel.mouth.send(said(Kind.NEW_ADDRESS))  # the same again: the cable was out
        assert await kernel.wait() is not None
    assert len(kernel.heard) == 1


async def test_where_the_kernel_does_not_tell_the_way_out_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([("192.0.2.1", ""), ("192.0.2.1", ""), ("", ""), ("192.0.2.7", "")])
    last = ("192.0.2.7", "")
    heard: list[LinkChange] = []
    monkeypatch.setattr(link_watch, "_NETLINK", None)
    monkeypatch.setattr(link_watch, "_sources", lambda: next(answers, last))
    changed = anyio.Event()

    def hear(what: LinkChange) -> None:
        heard.append(what)
        changed.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(link_watch.watch_links, hear)
        with anyio.fail_after(30):
            await changed.wait()
        tasks.cancel_scope.cancel()
    assert heard == [LinkChange.WAY_OUT]


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_the_real_kernel_tells_its_addresses_and_ways() -> None:
    kernel = link_watch._Kernel()
    with kernel.socket:
        assert kernel.read() is None
        v4, v6 = link_watch.read_ways()
    assert [way is not None for way in (v4, v6)] == [bool(source) for source in link_watch._sources()]


def test_an_address_is_ours_as_long_as_an_interface_has_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert is_ours(listener.getsockname())
    assert not is_ours(("192.0.2.99", 5))
    assert is_ours(("127.0.0.1", 5, "what"))
