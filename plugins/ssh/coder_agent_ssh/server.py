"""The SSH server proper: asyncssh's, with our sessions and forwarding. Runs in the worker, on one connection each.

There is no authentication: only whom the coder server let into the tunnel can reach it (coder agent/agentssh).
"""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
import socket
from collections.abc import Awaitable
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh

from .environment import Account, Place
from .hostkey import host_key
from .joining import NamedSocket
from .request import Request
from .session import Session

log = logging.getLogger(__name__)

WINDOW = 8 << 20
"""Bytes a client may send ahead: 8 MiB fill 500 Mbit/s at a round trip of 130 ms. OpenSSH itself stops at 2 MiB."""
PACKET = 128 << 10
"""The largest packet a client may send. OpenSSH sends as much as it is offered, up to 256 KiB; asyncssh takes 256 KiB
with framing."""
CIPHERS_OPENSSH = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
"""For OpenSSH, whose own order begins with chacha20-poly1305 and prefers that to what both sides do fastest. WireGuard
has encrypted everything already, so only speed counts here. OpenSSH has them since 6.2 (2013)."""
CIPHERS = (*CIPHERS_OPENSSH, "chacha20-poly1305@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr")
LOGIN_TIMEOUT = 30.0
"""Seconds until a connection must have become an SSH session: who says nothing, or something else, is dropped."""
KEEPALIVES = 3
"""Unanswered questions after which a client is gone."""
LISTEN_HOST = "localhost"
"""Where remote forwards listen, whatever address the client names: a workspace opens no port to its network unasked
(sshd_config(5), GatewayPorts no)."""


@dataclass(slots=True)
class Service:
    """What sessions of one connection share."""

    request: Request
    account: Account
    place: Place
    sessions: set[Session] = field(default_factory=set)
    """All of this process, until their own processes are gone."""

    @classmethod
    def of(cls, request: Request, sessions: set[Session]) -> Service:
        """For the account that the agent runs as."""
        place = Place(
            request.workspace, request.agent, request.owner, request.url, request.directory, request.environment
        )
        return cls(request, account(request.shell), place, sessions)


def account(shell: str) -> Account:
    """Whom we run as; accounts that exist only as a number (containers) have a name and a home from the environment."""
    try:
        entry = pwd.getpwuid(os.getuid())
        name, home, own_shell = entry.pw_name, entry.pw_dir, entry.pw_shell
    except KeyError:
        name, home, own_shell = str(os.getuid()), "", ""
    home = os.environ.get("HOME") or home or "/"
    candidates = (shell, own_shell, os.environ.get("SHELL", ""))
    usable = (
        path for path in candidates if path and os.access(path, os.X_OK) and not path.endswith(("nologin", "false"))
    )
    return Account(os.environ.get("USER") or name, home, next(usable, "/bin/sh"))


class Server(asyncssh.SSHServer):
    """One client's connection."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._connection: asyncssh.SSHServerConnection
        self._sockets: list[str] = []

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        # asyncssh asks `begin_auth` when the name differs from the last one, which is empty before the first: a client
        # without a name (Go's, in a stock `coder ssh`) would be refused. No name contains a zero byte.
        conn._username = "\0"

    def connection_lost(self, exc: Exception | None) -> None:
        for path in self._sockets:
            _unlink_socket(path)

    def begin_auth(self, username: str) -> bool:
        return False  # the tunnel is the authentication

    def session_requested(self) -> tuple[asyncssh.SSHServerChannel[bytes], Session]:
        channel = self._connection.create_server_channel(encoding=None, window=WINDOW, max_pktsize=PACKET)
        return channel, Session(self._service)

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        return self._may_forward()

    def unix_connection_requested(self, dest_path: str) -> bool:
        return self._may_forward()

    def server_requested(self, listen_host: str, listen_port: int) -> Awaitable[asyncssh.SSHListener] | bool:
        if not self._service.request.forwarding:
            return False
        return self._connection.forward_local_port(LISTEN_HOST, listen_port, listen_host, listen_port)

    def unix_server_requested(self, listen_path: str) -> Awaitable[asyncssh.SSHListener] | bool:
        return self._listen_unix(listen_path) if self._service.request.forwarding else False

    def _may_forward(self) -> bool:
        if not self._service.request.forwarding:
            raise asyncssh.ChannelOpenError(
                asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "this workspace does not allow forwarding"
            )
        return True

    async def _listen_unix(self, path: str) -> asyncssh.SSHListener:
        """Listen on a socket file, in place of one that nobody listens on any more; only this user may connect."""
        await _remove_stale(path)
        old = os.umask(0o177)
        try:
            listener = await self._connection.forward_local_path(path, path)
        finally:
            os.umask(old)
        self._sockets.append(path)
        return listener


async def _remove_stale(path: str) -> None:
    if not _is_socket(path):
        return
    try:
        _, writer = await asyncio.wait_for(asyncio.open_unix_connection(path), 2)
    except (ConnectionRefusedError, FileNotFoundError):
        _unlink_socket(path)
    except (OSError, TimeoutError):
        return
    else:
        writer.close()


def _unlink_socket(path: str) -> None:
    try:
        if _is_socket(path):
            os.unlink(path)
    except OSError:
        pass  # gone, or not ours


def _is_socket(path: str) -> bool:
    return Path(path).is_socket()


async def serve(sock: NamedSocket, service: Service, version: bytes) -> asyncssh.SSHServerConnection:
    """Begin to speak SSH on a socket whose client said `version` (its beginning; b"" if it waits for ours).

    Raises asyncssh.Error or OSError if no SSH connection comes of it.
    """
    request = service.request
    ciphers = CIPHERS_OPENSSH if version.startswith(b"SSH-2.0-OpenSSH") else CIPHERS
    return await asyncssh.run_server(
        sock,
        server_factory=lambda: Server(service),
        server_host_keys=[host_key(request.identity)],
        encryption_algs=ciphers,
        compression_algs=["none"],
        encoding=None,
        line_editor=False,
        x11_forwarding=False,
        agent_forwarding=request.forwarding,
        gss_host=None,
        login_timeout=LOGIN_TIMEOUT,
        keepalive_interval=request.client_timeout / KEEPALIVES,
        keepalive_count_max=KEEPALIVES,
        config=[],
    )


async def peek_version(sock: socket.socket, patience: float) -> bytes:
    """The beginning of the client's version line, left unread; b"" if it does not speak first."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(sock, readable.set)
    try:
        await asyncio.wait_for(readable.wait(), patience)
        return sock.recv(64, socket.MSG_PEEK)
    except (TimeoutError, BlockingIOError):
        return b""
    finally:
        loop.remove_reader(sock)
