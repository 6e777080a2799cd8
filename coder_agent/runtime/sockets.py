"""A TCP connection to whichever address of a host answers first, whatever families this machine has.

Source: RFC 8305 (happy eyeballs); tailscale derp/derphttp/derphttp_client.go dialNode for the delay.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from itertools import chain, zip_longest

import anyio

from ..base.egress import Purpose
from ..errors import EgressRefused
from ..hooks.egress import Egress

STAGGER = 0.2
"""Seconds that an address waits for the one before it (200 ms upstream; RFC 8305 allows 100 ms to 2 s)."""

Target = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]
"""An address family and a socket address of it."""


async def resolve(
    host: str, port: int, egress: Egress, family: socket.AddressFamily | socket.AddressInfo | int = socket.AF_UNSPEC
) -> list[Target]:
    """The addresses of `host`, in the order in which to try them: those that `egress` lets us talk to.

    Raises: OSError (socket.gaierror: no such name), EgressRefused (before it is looked up, or for all that is found).
    """
    egress.require(host, port, Purpose.CONNECT)
    infos = await anyio.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
    allowed = set(egress.found(host, port, Purpose.CONNECT, dict.fromkeys(str(where[0]) for *_, where in infos)))
    if infos and not allowed:
        raise EgressRefused(f"{host} may not be reached from here: none of its addresses is allowed")
    return in_turn([(kind, where) for kind, _, _, _, where in infos if str(where[0]) in allowed])


def in_turn(targets: Sequence[Target]) -> list[Target]:
    """IPv6 first, then one of each family in turn: a family without a route must not be waited for twice (§4)."""
    v6 = [target for target in targets if target[0] == socket.AF_INET6]
    v4 = [target for target in targets if target[0] != socket.AF_INET6]
    return [target for target in chain.from_iterable(zip_longest(v6, v4)) if target is not None]


async def connect_first(targets: Sequence[Target]) -> socket.socket:
    """Connect to all of `targets`, each STAGGER after the one before, or when that one failed; the first one wins.

    Returns a connected, non-blocking socket. Raises OSError if none answers: that of the first address, the others' as
    its `__context__` in an ExceptionGroup.
    """
    winner: list[socket.socket] = []
    errors: list[OSError] = []

    async def attempt(index: int) -> None:
        if index:
            with anyio.move_on_after(STAGGER * index):
                await go[index].wait()
        try:
            sock = await connect(*targets[index])
        except OSError as exc:
            errors.append(exc)
            if index + 1 < len(go):
                go[index + 1].set()
            return
        if winner:
            sock.close()
            return
        winner.append(sock)
        tasks.cancel_scope.cancel()

    try:
        async with anyio.create_task_group() as tasks:
            go = [anyio.Event() for _ in targets]
            for index in range(len(targets)):
                tasks.start_soon(attempt, index)
    except BaseException:  # cancelled while the race was being won
        for sock in winner:
            sock.close()
        raise
    if winner:
        return winner[0]
    raise errors[0] from ExceptionGroup("no address answers", errors)


async def connect(family: socket.AddressFamily, where: tuple[str, int] | tuple[str, int, int, int]) -> socket.socket:
    """Connect to one address. Raises OSError. Small writes leave at once: asyncio sees to that only for sockets whose
    protocol number is stated, and a second one would wait 40 ms for the other side's delayed ACK (RFC 9293 §3.7.4)."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        code = sock.connect_ex(where)
        if code in (errno.EINPROGRESS, errno.EWOULDBLOCK, getattr(errno, "WSAEWOULDBLOCK", errno.EWOULDBLOCK)):
            await anyio.wait_writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return sock
