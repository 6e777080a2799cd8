"""Between the kernel's socket addresses and our values, once per address instead of once per packet."""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import NamedTuple, Protocol

from coder_agent.base.addresses import AddrPort
from coder_agent.base.paths import UdpPath

SockAddr = tuple[str, int] | tuple[str, int, int, int]

CACHE_LIMIT = 4096
"""Addresses remembered per direction: far more than peers × candidates, yet a flood of spoofed sources stays cheap
(about 1 MB)."""


class Target(NamedTuple):
    """Where a send goes: which socket, and the address in that socket's form."""

    is_ipv6: bool
    sockaddr: SockAddr


class PathNames(Protocol):
    """Names the path of a received packet."""

    def path(self, sockaddr: SockAddr) -> UdpPath:
        """The path behind a received packet's source address."""
        ...


class AddressBook:
    """Both directions, bounded. Link-local IPv6 peers are answered through the interface they were heard on, because
    `AddrPort` has no scope."""

    def __init__(self, limit: int = CACHE_LIMIT) -> None:
        self._limit = limit
        self._paths: dict[SockAddr, UdpPath] = {}
        self._targets: dict[AddrPort, Target | None] = {}

    def path(self, sockaddr: SockAddr) -> UdpPath:
        """The path behind a received packet's source address."""
        found = self._paths.get(sockaddr)
        return found if found is not None else self._add_path(sockaddr)

    def target(self, addr: AddrPort) -> Target | None:
        """Where to send for `addr`; None when it is no address that one can send to."""
        try:
            return self._targets[addr]
        except KeyError:
            return self._add_target(addr)

    def _add_path(self, sockaddr: SockAddr) -> UdpPath:
        addr = AddrPort.of(sockaddr[0].partition("%")[0], sockaddr[1])
        if len(self._paths) >= self._limit:
            self._paths.clear()
        path = self._paths[sockaddr] = UdpPath(addr)
        if len(sockaddr) == 4 and sockaddr[3]:
            self._remember(addr, Target(True, (sockaddr[0], sockaddr[1], 0, sockaddr[3])))
        return path

    def _add_target(self, addr: AddrPort) -> Target | None:
        """Check the text before a socket sees it: a host name would be looked up, and block."""
        target: Target | None = None
        try:
            ip = AddrPort.of(*addr).ip
        except ValueError:
            ip = None
        if ip is not None and addr.port:
            is_ipv6 = isinstance(ip, IPv6Address)
            target = Target(is_ipv6, (str(ip), addr.port, 0, 0) if is_ipv6 else (str(ip), addr.port))
        self._remember(addr, target)
        return target

    def for_extra(self, local: int) -> ExtraPaths:
        """The names of paths that end at our extra socket `local`."""
        return ExtraPaths(self, local)

    def _remember(self, addr: AddrPort, target: Target | None) -> None:
        if len(self._targets) >= self._limit:
            self._targets.clear()
        self._targets[addr] = target


class ExtraPaths:
    """What arrives at one extra socket comes by paths with its name. Made once per burst: such sockets carry at most
    one path, so nothing is remembered here."""

    def __init__(self, book: AddressBook, local: int) -> None:
        self._book = book
        self._local = local

    def path(self, sockaddr: SockAddr) -> UdpPath:
        """The path behind a received packet's source address."""
        return UdpPath(self._book.path(sockaddr).addr, self._local)
