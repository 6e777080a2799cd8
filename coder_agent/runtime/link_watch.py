"""Notices that the network under us changed: another address, another way out, a cable that is back.

On Linux the kernel tells (rtnetlink): nothing is done until something happens, and then it is known within a few
tenths of a second. Elsewhere, or where that is forbidden, the way out is looked at every two seconds, which costs a
few microseconds and no packet.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable
from enum import StrEnum
from ipaddress import ip_address

import anyio

from ..protocols.rtnetlink import GROUPS, Kind, LinkTable, News, Way, dump_request, parse_way, way_request

log = logging.getLogger(__name__)

SETTLE = 0.1
"""Seconds without news after which a change is looked at: an address and its route come one after the other …"""
SETTLES = 4
"""… but not longer than so many times that: half a second at most."""
PAUSE = 0.5
"""Seconds between two changes that are told, at least: a link that flaps must not keep everybody busy."""
POLL_INTERVAL = 2.0
"""Seconds between looks where the kernel does not tell."""
OUTSIDE = (ip_address("1.0.0.1"), ip_address("2000::1"))
"""Addresses that no private network has: the way to them is the way out. Nothing is ever sent there."""
RECEIVE_BYTES = 1 << 16
READS_PER_LOOK = 4096
"""Datagrams of the kernel that are read at most before others have a turn."""


class LinkChange(StrEnum):
    """How much changed. OTHERS: addresses came or went, but our packets leave as before. WAY_OUT: they leave by
    another interface, gateway or address, or a link was down in between: another network, for all that we know."""

    OTHERS = "addresses"
    WAY_OUT = "way-out"


Changed = Callable[[LinkChange], None]


def is_ours(address: tuple[object, ...]) -> bool:
    """Does an interface still have this socket address (as `getsockname` gives it)? A connection over one that is gone
    is dead, though nobody will say so. Where it cannot be told, yes."""
    host = str(address[0])
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0, *address[2:4]) if family == socket.AF_INET6 else (host, 0))
    except OSError as exc:
        return exc.errno != errno.EADDRNOTAVAIL
    except (TypeError, ValueError):
        return True
    return True


async def watch_links(changed: Changed) -> None:
    """Call `changed` whenever the network changed, until cancelled."""
    try:
        kernel = _Kernel()
    except OSError as exc:
        log.debug("the kernel does not tell about its links (%s): looking every %g s", exc, POLL_INTERVAL)
        await _poll(changed)
        return
    with kernel.socket:
        await _listen(kernel, changed)


# ---------------------------------------------------------------- Linux


class _Kernel:
    """A netlink socket, and what it has told. Raises OSError where there is none."""

    def __init__(self) -> None:
        if _NETLINK is None:
            raise OSError("this system has no netlink")
        self.table = LinkTable()
        self.socket = socket.socket(_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)  # 0 = NETLINK_ROUTE
        try:
            self.socket.setblocking(False)
            self.socket.bind((0, GROUPS))
            for kind in (Kind.GET_ADDRESS, Kind.GET_LINK):
                self.socket.send(dump_request(kind))
                self.read()  # a dump is made while it is read: an empty socket is its end
            self.ways = read_ways()
        except BaseException:
            self.socket.close()
            raise

    def read(self) -> News | None:
        """What came since the last time; None = nothing did. Messages that were lost count as a change."""
        total: News | None = None
        for _ in range(READS_PER_LOOK):
            try:
                news = self.table.feed(self.socket.recv(RECEIVE_BYTES))
            except (BlockingIOError, InterruptedError):
                break
            except OSError:  # ENOBUFS: more was said than there is room for
                news = News(True, False, True)
            total = news if total is None else News(*(one or other for one, other in zip(total, news, strict=True)))
        return total

    def what_changed(self, news: News) -> LinkChange | None:
        """Compare with before; None = nothing that matters to us, or nobody can be reached at all."""
        if not self.table.has_addresses:
            self.ways = (None, None)
            return None
        before, self.ways = self.ways, read_ways()
        if news.link or self.ways != before or (news.addresses and self.ways == (None, None)):
            return LinkChange.WAY_OUT
        return LinkChange.OTHERS if news.addresses else None


async def _listen(kernel: _Kernel, changed: Changed) -> None:
    while True:
        await anyio.wait_readable(kernel.socket)
        await anyio.sleep(SETTLE)
        news = kernel.read() or News()
        for _ in range(SETTLES - 1):
            if not (news.addresses or news.link or news.routes):
                break
            await anyio.sleep(SETTLE)
            more = kernel.read()
            if more is None:
                break
            news = News(*(one or other for one, other in zip(news, more, strict=True)))
        what = kernel.what_changed(news) if any(news) else None
        if what is not None:
            changed(what)
            await anyio.sleep(PAUSE)


def read_ways() -> tuple[Way | None, Way | None]:
    """How packets to the outside would leave, over IPv4 and IPv6. Raises OSError without netlink."""
    assert _NETLINK is not None
    found: list[Way | None] = []
    with socket.socket(_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as kernel:
        kernel.setblocking(False)
        for outside in OUTSIDE:
            kernel.send(way_request(outside.packed))
            try:
                found.append(parse_way(kernel.recv(RECEIVE_BYTES)))  # the kernel answers within `send`
            except BlockingIOError:
                found.append(None)
    return found[0], found[1]


# ---------------------------------------------------------------- elsewhere


async def _poll(changed: Changed) -> None:
    before = _sources()
    while True:
        await anyio.sleep(POLL_INTERVAL)
        now = _sources()
        if now != before and any(now):
            changed(LinkChange.WAY_OUT)
        before = now


def _sources() -> tuple[str, ...]:
    """Our addresses as the outside would see them if there were no NAT; "" = no way there."""
    found = []
    for outside in OUTSIDE:
        family = socket.AF_INET6 if outside.version == 6 else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((str(outside), 9))  # UDP: nothing is sent
                found.append(str(probe.getsockname()[0]))
        except OSError:
            found.append("")
    return tuple(found)


_NETLINK: int | None = getattr(socket, "AF_NETLINK", None)
