"""Pings of a node: disco pings, which say by which path a peer answers, and pings through the tunnel itself."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Literal

import anyio

from ..base.keys import NodePublic
from ..base.paths import DerpPath, Path, PathKind
from ..errors import PeerUnreachable
from ..magicsock.effects import PongReceived
from .engine import Engine


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a ping. `latency` in seconds; `path` what carried it (None: the tunnel's current path)."""

    latency: float
    path: Path | None = None

    @property
    def kind(self) -> PathKind:
        """Direct or relayed (NONE if the path is not known)."""
        if self.path is None:
            return PathKind.NONE
        return PathKind.RELAYED if isinstance(self.path, DerpPath) else PathKind.DIRECT


class Pings:
    """Who waits for which pong."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._pongs: dict[bytes, asyncio.Future[PongReceived]] = {}
        self._tunnel_pongs: dict[bytes, asyncio.Future[float]] = {}

    async def disco(self, key: NodePublic, *, via: Literal["best", "direct", "derp"], timeout: float) -> Pong:
        """Raises PeerUnreachable."""
        txid, effects = self._engine.magicsock.ping(key, self._engine.now(), via=via)
        if txid is None:
            self._engine.apply(effects)  # the search for a path begins all the same
            raise PeerUnreachable("no path to the peer is known yet", hint="its node or a relay is missing")
        waiter = self._pongs[txid] = asyncio.get_running_loop().create_future()
        try:
            self._engine.apply(effects)
            with anyio.fail_after(timeout):
                pong = await waiter
            return Pong(pong.latency, pong.path)
        except TimeoutError:
            raise PeerUnreachable(f"no pong within {timeout:g} s") from None
        finally:
            del self._pongs[txid]

    def disco_pong(self, pong: PongReceived) -> None:
        """A ping was answered."""
        waiter = self._pongs.get(pong.txid)
        if waiter is not None and not waiter.done():
            waiter.set_result(pong)

    async def tunnel(self, address: IPv6Address, *, timeout: float) -> Pong:
        """A TSMP ping. Raises PeerUnreachable."""
        data = os.urandom(8)
        waiter = self._tunnel_pongs[data] = asyncio.get_running_loop().create_future()
        try:
            with anyio.fail_after(timeout):
                started = self._engine.now()
                self._engine.stack.tsmp_ping(address, data, started)
                self._engine.flush()
                return Pong(await waiter - started)
        except TimeoutError:
            raise PeerUnreachable(f"no answer through the tunnel within {timeout:g} s") from None
        finally:
            del self._tunnel_pongs[data]

    def tunnel_pong(self, remote: IPv6Address, data: bytes, port: int) -> None:
        """A TSMP ping was answered (Stack.on_tsmp_pong)."""
        waiter = self._tunnel_pongs.get(data)
        if waiter is not None and not waiter.done():
            waiter.set_result(self._engine.now())
