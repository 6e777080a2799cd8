"""An app's side: connections into the workspace, kept for a while after a request, with TLS if the app wants it."""

from __future__ import annotations

import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from urllib.parse import urlsplit
from uuid import UUID

import anyio
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

from coder_agent.errors import PeerUnreachable, TransportBroken
from coder_agent.hooks.web_apps import AppProxy, AppTarget, Dial, ReadyStream

from .tickets import Ticket
from .waits import Waits

CONNECT_SECONDS = 30.0
"""For the tunnel, the TCP connection in it, and TLS. A first dial may wait for a handshake through a relay."""
KEEP_SECONDS = 4.0
"""How long an idle connection is kept: less than common servers do (Node and uvicorn 5 s), so that the app is seldom
the one who closes first."""
TLS_SECONDS = 10.0
"""For the handshake alone: a program that does not speak TLS may wait for the end of a line that never comes."""
PROBE_SECONDS = 3.0
"""How long a visitor waits to be told that the app wants TLS."""
MAX_IDLE = 256
MAX_IDLE_EACH = 16
"""Idle connections in all, and to one app."""

Key = tuple[UUID, str, str, int]


class UnknownScheme(Exception):
    """No app proxy for this URL. The argument is its scheme."""


class WrongScheme(Exception):
    """TLS against an app without, or the other way round."""


class AppStream:
    """A connection to an app, with what it sent beyond the last answer."""

    __slots__ = ("_ready", "buffered", "idle_since", "key", "reusable", "stream", "used")

    def __init__(self, stream: ByteStream, key: Key, reusable: bool) -> None:
        self.stream = stream
        self._ready = stream if isinstance(stream, ReadyStream) else None
        self.key = key
        self.reusable = reusable
        self.buffered = b""
        self.used = False
        """Has it served a request? Then the app may have closed it meanwhile."""
        self.idle_since = 0.0

    async def receive(self, waits: Waits) -> bytes:
        """Some bytes; empty at the end. Raises anyio.BrokenResourceError, ssl.SSLError, Stopped."""
        if self.buffered:
            data, self.buffered = self.buffered, b""
            return data
        ready = self._ready
        if ready is None:
            try:
                return await waits.run(lambda: self.stream.receive(65536))
            except anyio.EndOfStream:
                return b""
        while (some := ready.receive_nowait()) is None:
            await waits.news(ready)
        return some

    async def send(self, data: bytes, waits: Waits) -> None:
        """Send all. Raises anyio.BrokenResourceError, Stopped."""
        if self._ready is None or not self._ready.send_nowait(data):
            await waits.run(lambda: self.stream.send(data))

    async def close(self) -> None:
        """Close, without waiting for what the app does."""
        abort = getattr(self.stream, "abort", None)
        with anyio.CancelScope(shield=True), suppress(Exception):
            if abort is not None:
                abort()
            with anyio.move_on_after(1):
                await self.stream.aclose()


class Apps:
    """Connections to apps. `proxies` are those of `coder_app_proxies`, ours come last."""

    def __init__(
        self, dial: Dial, proxies: Sequence[AppProxy] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._dial = dial
        self._clock = clock
        self._connect: dict[str, tuple[Callable[[AppTarget, Dial], Awaitable[ByteStream]], bool]] = {
            "http": (_plain, True),
            "https": (_tls, True),
        }
        for proxy in proxies:
            for scheme in proxy.schemes:
                self._connect.setdefault(scheme.lower(), (proxy.connect, bool(getattr(proxy, "keep_alive", True))))
        self._idle: dict[Key, list[AppStream]] = {}
        self._count = 0

    @property
    def schemes(self) -> Mapping[str, object]:
        """What can be reached."""
        return self._connect

    def take(self, ticket: Ticket) -> AppStream | None:
        """An idle connection to this app, the one used last."""
        waiting = self._idle.get(_key(ticket))
        if not waiting:
            return None
        stream = waiting.pop()
        self._count -= 1
        if not waiting:
            del self._idle[stream.key]
        return stream

    async def connect(self, ticket: Ticket) -> AppStream:
        """A new connection. Raises PeerUnreachable, TransportBroken, UnknownScheme, WrongScheme."""
        key = _key(ticket)
        found = self._connect.get(key[1])
        if found is None:
            raise UnknownScheme(key[1])
        connect, reusable = found
        target = AppTarget(
            key[1], key[2], key[3], ticket.url, ticket.agent_id, ticket.owner, ticket.workspace, ticket.agent, ""
        )
        try:
            with anyio.fail_after(CONNECT_SECONDS):
                return AppStream(await connect(target, self._dial), key, reusable)
        except TimeoutError:
            raise PeerUnreachable(f"no connection within {CONNECT_SECONDS:.0f} s") from None

    async def speaks_tls(self, ticket: Ticket) -> bool:
        """Would an app that was asked in plain HTTP understand TLS?"""
        key = _key(ticket)
        if key[1] != "http":
            return False
        target = AppTarget(
            "https", key[2], key[3], ticket.url, key[0], ticket.owner, ticket.workspace, ticket.agent, ""
        )
        try:
            with anyio.fail_after(PROBE_SECONDS):
                await AppStream(await _tls(target, self._dial), key, reusable=False).close()
        except (WrongScheme, PeerUnreachable, TransportBroken, OSError, ssl.SSLError, TimeoutError):
            return False
        return True

    async def give_back(self, stream: AppStream) -> None:
        """The request is over and the connection is as good as new."""
        waiting = self._idle.setdefault(stream.key, [])
        if not stream.reusable or stream.buffered or len(waiting) >= MAX_IDLE_EACH or self._count >= MAX_IDLE:
            if not waiting:
                del self._idle[stream.key]
            await stream.close()
            return
        stream.used = True
        stream.idle_since = self._clock()
        waiting.append(stream)
        self._count += 1

    async def sweep(self) -> None:
        """Close what has been idle for too long. Called every second or so."""
        limit = self._clock() - KEEP_SECONDS
        for key, waiting in list(self._idle.items()):
            old = [stream for stream in waiting if stream.idle_since < limit]
            if old:
                kept = [stream for stream in waiting if stream.idle_since >= limit]
                self._count -= len(old)
                if kept:
                    self._idle[key] = kept
                else:
                    del self._idle[key]
                for stream in old:
                    await stream.close()

    async def close(self) -> None:
        """Close all idle ones."""
        idle, self._idle, self._count = self._idle, {}, 0
        for waiting in idle.values():
            for stream in waiting:
                await stream.close()


def _key(ticket: Ticket) -> Key:
    return (ticket.agent_id, *_parts(ticket.url))


@lru_cache(256)
def _parts(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    return scheme, parts.hostname or "localhost", parts.port or {"https": 443, "http": 80}.get(scheme, 0)


async def _plain(target: AppTarget, dial: Dial) -> ByteStream:
    return await dial(target.agent_id, target.port)


async def _tls(target: AppTarget, dial: Dial) -> ByteStream:
    """The certificate is not looked at: it is the workspace's own loopback at the end of an encrypted tunnel, where
    certificates are self-signed as a rule. Source: coder coderd/tailnet.go, InsecureSkipVerify."""
    stream = await dial(target.agent_id, target.port)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        with anyio.fail_after(TLS_SECONDS):
            return await TLSStream.wrap(stream, hostname=target.host, ssl_context=context, standard_compatible=False)
    except (ssl.SSLError, anyio.EndOfStream, anyio.BrokenResourceError, TimeoutError) as exc:
        await AppStream(stream, (target.agent_id, "", "", 0), reusable=False).close()
        raise WrongScheme from exc
    except BaseException:
        await AppStream(stream, (target.agent_id, "", "", 0), reusable=False).close()
        raise


__all__ = ["AppStream", "Apps", "PeerUnreachable", "TransportBroken", "UnknownScheme", "WrongScheme"]
