"""The embedded STUN responder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from coder_agent.stun_responder import serve_stun

from .options import HostPort


@asynccontextmanager
async def open_stun(address: HostPort, *, exact: bool) -> AsyncIterator[HostPort | None]:
    """`serve_stun` at `address`."""
    async with serve_stun(address.host, address.port, exact=exact) as bound:
        yield None if bound is None else HostPort(bound.host, bound.port)
