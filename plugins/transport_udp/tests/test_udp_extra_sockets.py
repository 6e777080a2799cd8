"""Sockets beside the main one: named, separate, bounded, and gone after a rebind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from coder_agent_transport_udp import sockets, transport
from coder_agent_transport_udp.loops import open_loop
from coder_agent_transport_udp.settings import UdpSettings
from coder_agent_transport_udp.transport import UdpTransport

from coder_agent.base.addresses import AddrPort
from coder_agent.base.burst import Burst
from coder_agent.base.paths import Path, UdpPath
from coder_agent.hooks import Transport

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Inbox:
    """Keeps packets with their paths."""

    def __init__(self) -> None:
        self.got: list[tuple[bytes, Path]] = []
        self._changed = anyio.Event()

    def on_burst(self, burst: Burst, path: Path) -> None:
        self.got += [(bytes(row), path) for row in burst.rows()]
        self._changed.set()
        self._changed = anyio.Event()

    def on_drained(self) -> None:
        return None

    def on_writable(self, transport: Transport) -> None:
        return None

    def on_path_error(self, path: Path, error: OSError) -> None:
        return None

    async def until(self, count: int) -> list[tuple[bytes, Path]]:
        with anyio.fail_after(30):
            while len(self.got) < count:
                await self._changed.wait()
        return self.got


@asynccontextmanager
async def two_transports(*, portable: bool = False) -> AsyncIterator[tuple[UdpTransport, Inbox, UdpTransport, Inbox]]:
    async with open_loop(portable=portable) as loop:
        near, far = Inbox(), Inbox()
        a, b = UdpTransport(near, UdpSettings(), loop), UdpTransport(far, UdpSettings(), loop)
        try:
            yield a, near, b, far
        finally:
            a.close()
            b.close()


def main_of(udp: UdpTransport) -> AddrPort:
    return AddrPort("127.0.0.1", udp.bound_ports()[0] or 0)


@pytest.mark.parametrize("portable", [False, True], ids=["asyncio", "anyio"])
async def test_each_socket_has_its_own_port_and_answers_come_to_it(portable: bool) -> None:
    async with two_transports(portable=portable) as (a, near, b, far):
        names = a.open_extra(3)
        for name in names:
            assert a.send(Burst.of(b"%d" % name), UdpPath(main_of(b), name))
        seen = await far.until(3)
        sources = dict(seen)
        assert len(set(sources.values())) == 3
        assert UdpPath(main_of(a)) not in sources.values()
        for data, path in list(sources.items()):
            assert b.send(Burst.of(data), path)
        answers = await near.until(3)
        assert sorted(answers) == sorted((b"%d" % name, UdpPath(main_of(b), name)) for name in names)


async def test_bursts_of_many_sockets_share_a_buffer_and_stay_intact() -> None:
    async with two_transports() as (a, near, b, far):
        names = a.open_extra(4)
        for name in names:
            a.send(Burst.of(b"hello"), UdpPath(main_of(b), name))
        for data, path in list(await far.until(4)):
            assert data == b"hello"
            assert isinstance(path, UdpPath)
            rows = bytes([path.addr.port % 251]) * 1300 * 20
            assert b.send(Burst(memoryview(bytearray(rows)), 0, 1300, 20, 1300, 1300), path)
        got = await near.until(80)
        for name in names:
            arrived = [data for data, path in got if path == UdpPath(main_of(b), name)]
            assert len(arrived) == 20
            assert len(set(arrived)) == 1


async def test_closed_and_unknown_sockets_send_nothing_and_names_are_never_reused() -> None:
    async with two_transports() as (a, _near, b, far):
        first = a.open_extra(2)
        a.close_extra([*first, 999])
        assert a.send(Burst.of(b"lost"), UdpPath(main_of(b), first[0]))
        assert a.stats()["tx_lost_no_socket"] == 1
        second = a.open_extra(2)
        assert not set(first) & set(second)
        a.send(Burst.of(b"main"), UdpPath(main_of(b)))
        assert await far.until(1) == [(b"main", UdpPath(main_of(a)))]


async def test_a_rebind_closes_them() -> None:
    async with two_transports() as (a, _near, b, _far):
        names = a.open_extra(2)
        a.rebind()
        a.send(Burst.of(b"lost"), UdpPath(main_of(b), names[0]))
        assert a.stats()["tx_lost_no_socket"] == 1


async def test_who_stays_gets_the_buffers_of_a_data_socket() -> None:
    async with two_transports() as (a, *_):
        names = a.open_extra(20)
        before = a._extra[names[7]].bound.sock.getsockopt(1, 8)  # SOL_SOCKET, SO_RCVBUF
        a.close_extra([name for name in names if name != names[7]])
        assert set(a._extra) == {names[7]}
        assert a._extra[names[7]].bound.sock.getsockopt(1, 8) >= before


async def test_no_more_than_the_system_and_the_limit_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    real, opened = sockets._bind, 0

    def scarce(family: Any, ports: Any) -> Any:
        nonlocal opened
        opened += 1
        if opened > 5:
            raise OSError(24, "too many open files")
        return real(family, ports)

    async with two_transports() as (a, _near, b, _far):
        monkeypatch.setattr(sockets, "_bind", scarce)
        assert len(a.open_extra(256)) == 5
        monkeypatch.setattr(sockets, "_bind", real)
        monkeypatch.setattr(transport, "EXTRA_LIMIT", 7)
        assert len(a.open_extra(256)) == 2
        assert a.send(Burst.of(b"x"), UdpPath(main_of(b)))


async def test_without_ipv4_there_are_none() -> None:
    async with open_loop() as loop:
        udp = UdpTransport(Inbox(), UdpSettings(ipv4=False), loop)
        assert list(udp.open_extra(4)) == []
        udp.close()
