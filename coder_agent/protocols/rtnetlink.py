"""What Linux says about addresses, links and routes: the messages of rtnetlink, as far as roaming needs them.

Requests are made, answers and notifications are read; the socket is somebody else's. All numbers are in the host's own
byte order. A message is a header (length u32, type u16, flags u16, sequence u32, port u32), a fixed part by type, and
attributes (length u16, type u16, value), each padded to four bytes.

Source: Linux include/uapi/linux/{netlink,rtnetlink,if_link,if_addr}.h; rtnetlink(7).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple


class Kind(IntEnum):
    """Message types."""

    ERROR = 2
    DONE = 3
    NEW_LINK = 16
    DEL_LINK = 17
    GET_LINK = 18
    NEW_ADDRESS = 20
    DEL_ADDRESS = 21
    GET_ADDRESS = 22
    NEW_ROUTE = 24
    GET_ROUTE = 26


GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
"""Notifications to subscribe to: links, IPv4 addresses and routes, IPv6 addresses and routes (RTMGRP_*)."""
MAX_KNOWN = 4096
"""Addresses and links that are remembered: a machine with more (containers) is told of changes all the same."""

_HEADER = struct.Struct("=IHHII")
_ADDRESS = struct.Struct("=BBBBi")  # family, prefix length, flags, scope, interface
_LINK = struct.Struct("=BxHiII")  # family, type, interface, flags, changed flags
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, lengths of destination and source, tos, table, protocol, scope, type …
_ATTRIBUTE = struct.Struct("=HH")
_REQUEST, _DUMP = 0x1, 0x300
_AF_INET, _AF_INET6 = 2, 10
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PREFSRC = 1, 4, 5, 7
_SCOPE_LINK = 253  # and host = 254: addresses that mean nothing to others
_IFF_LOOPBACK, _IFF_LOWER_UP = 0x8, 0x10000
_IFA_F_DADFAILED, _IFA_F_TENTATIVE = 0x8, 0x40


class Message(NamedTuple):
    """One message: its type, and what follows the header."""

    kind: int
    body: memoryview


class Way(NamedTuple):
    """How a packet would leave: interface, gateway ("" as bytes: none) and the source address it would have."""

    interface: int
    gateway: bytes
    source: bytes


class News(NamedTuple):
    """What a batch of messages changed: addresses that mean something to others; a cable or radio that is back."""

    addresses: bool = False
    link: bool = False
    routes: bool = False


def messages(data: bytes | memoryview) -> Iterator[Message]:
    """The messages of one datagram; what is cut off or makes no sense ends it."""
    view = memoryview(data)
    while len(view) >= _HEADER.size:
        length, kind, _flags, _sequence, _port = _HEADER.unpack_from(view)
        if not _HEADER.size <= length <= len(view):
            return
        yield Message(kind, view[_HEADER.size : length])
        view = view[(length + 3) & ~3 :]


def dump_request(kind: Kind) -> bytes:
    """Ask for everything of one kind (GET_LINK, GET_ADDRESS)."""
    body = bytes(_LINK.size if kind is Kind.GET_LINK else _ADDRESS.size)
    return _HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | _DUMP, 1, 0) + body


def way_request(destination: bytes) -> bytes:
    """Ask how packets to `destination` (4 or 16 bytes) would leave. The answer is a NEW_ROUTE, or an ERROR."""
    family = _AF_INET if len(destination) == 4 else _AF_INET6
    body = _ROUTE.pack(family, len(destination) * 8, 0, 0, 0, 0, 0, 0, 0)
    body += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(destination), _RTA_DST) + destination
    return _HEADER.pack(_HEADER.size + len(body), Kind.GET_ROUTE, _REQUEST, 1, 0) + body


def parse_way(data: bytes | memoryview) -> Way | None:
    """The answer to `way_request`; None = there is no way."""
    for message in messages(data):
        if message.kind == Kind.NEW_ROUTE and len(message.body) >= _ROUTE.size:
            found = _attributes(message.body[_ROUTE.size :])
            interface = found.get(_RTA_OIF, b"")
            if len(interface) == 4:
                (index,) = struct.unpack("=i", interface)
                return Way(index, found.get(_RTA_GATEWAY, b""), found.get(_RTA_PREFSRC, b""))
    return None


class LinkTable:
    """Addresses and links as the kernel has told of them. Feed it everything that comes."""

    def __init__(self) -> None:
        self._addresses: set[tuple[int, bytes]] = set()
        self._down: set[int] = set()

    @property
    def has_addresses(self) -> bool:
        """False: this machine can talk to nobody but itself."""
        return bool(self._addresses)

    def feed(self, data: bytes | memoryview) -> News:
        """One datagram from the kernel; what it changed."""
        addresses = link = routes = False
        for kind, body in messages(data):
            if kind in (Kind.NEW_ADDRESS, Kind.DEL_ADDRESS) and len(body) >= _ADDRESS.size:
                addresses |= self._address(body, gone=kind == Kind.DEL_ADDRESS)
            elif kind in (Kind.NEW_LINK, Kind.DEL_LINK) and len(body) >= _LINK.size:
                link |= self._link(body, gone=kind == Kind.DEL_LINK)
            elif kind in (Kind.NEW_ROUTE, Kind.NEW_ROUTE + 1):
                routes = True
        return News(addresses, link, routes)

    def _address(self, body: memoryview, *, gone: bool) -> bool:
        family, _, flags, scope, index = _ADDRESS.unpack_from(body)
        if family not in (_AF_INET, _AF_INET6) or scope >= _SCOPE_LINK:
            return False
        found = _attributes(body[_ADDRESS.size :])
        value = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
        if value is None:
            return False
        if len(all_flags := found.get(_IFA_FLAGS, b"")) == 4:
            (flags,) = struct.unpack("=I", all_flags)
        if flags & (_IFA_F_TENTATIVE | _IFA_F_DADFAILED) and not gone:
            return False  # not usable yet: another message follows
        key = (index, value)
        if gone:
            known = key in self._addresses
            self._addresses.discard(key)
            return known
        if key in self._addresses:
            return False  # its lifetime was renewed
        if len(self._addresses) < MAX_KNOWN:
            self._addresses.add(key)
        return True

    def _link(self, body: memoryview, *, gone: bool) -> bool:
        """Is a link back, over which somebody may reach us?"""
        _, _, index, flags, _ = _LINK.unpack_from(body)
        if gone or flags & _IFF_LOOPBACK:
            self._down.discard(index)
            return False
        if not flags & _IFF_LOWER_UP:
            if len(self._down) < MAX_KNOWN:
                self._down.add(index)
            return False
        if index not in self._down:
            return False
        self._down.discard(index)
        return any(where == index for where, _ in self._addresses)


def _attributes(view: memoryview) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while len(view) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(view)
        if not _ATTRIBUTE.size <= length <= len(view):
            break
        found[kind & 0x3FFF] = bytes(view[_ATTRIBUTE.size : length])
        view = view[(length + 3) & ~3 :]
    return found
