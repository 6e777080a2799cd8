"""Local sockets that are listened on, with sentences for what goes wrong."""

from __future__ import annotations

import errno
import logging
import socket
from contextlib import ExitStack

from coder_agent.errors import ConfigError

from .grammar import Forward, Protocol

log = logging.getLogger(__name__)

BACKLOG = 1024
"""Connections that wait to be accepted; the kernel allows up to net.core.somaxconn (4096 on Linux)."""
SOCKET_BUFFER = 4 << 20
"""Bytes asked of the kernel for UDP; it gives what it allows."""
_HINTS = {
    errno.EADDRINUSE: "another program uses that port: stop it, or choose another local one ({other})",
    errno.EACCES: "ports below 1024 need more rights: choose a higher local one ({other})",
    errno.EADDRNOTAVAIL: "this machine has no such address: leave it out to use loopback",
}


def open_listeners(forward: Forward) -> list[socket.socket]:
    """Listening, non-blocking sockets for one forward. Without an address: 127.0.0.1 surely, and ::1 if that works.

    Raises ConfigError, which says what to do.
    """
    sockets = []
    with ExitStack() as exits:
        for host, needed in _hosts(forward):
            try:
                sock = exits.enter_context(_open(forward.protocol, host, forward.local))
            except OSError as error:
                if needed:
                    raise _failure(forward, error) from error
                log.debug("not listening on [%s]:%d: %s", host, forward.local, error)
            else:
                sockets.append(sock)
        exits.pop_all()
    return sockets


def _hosts(forward: Forward) -> list[tuple[str, bool]]:
    if forward.address is not None:
        return [(str(forward.address), True)]
    return [("127.0.0.1", True), ("::1", False)]


def _open(protocol: Protocol, host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    kind = socket.SOCK_STREAM if protocol is Protocol.TCP else socket.SOCK_DGRAM
    sock = socket.socket(family, kind)
    try:
        sock.setblocking(False)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if protocol is Protocol.TCP:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # after a restart, while old connections linger
        else:
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)
        sock.bind((host, port))
        if protocol is Protocol.TCP:
            sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _failure(forward: Forward, error: OSError) -> ConfigError:
    other = f"{forward.local + 10_000 if forward.local < 50_000 else forward.local - 10_000}:{forward.remote}"
    hint = _HINTS.get(error.errno or 0, "")
    return ConfigError(
        f"cannot listen on {forward.local_url}: {(error.strerror or str(error)).lower()}",
        hint=hint.format(other=f"--{forward.protocol} {other}") or None,
    )
