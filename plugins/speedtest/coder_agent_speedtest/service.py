"""The agent's side: TCP port 3 inside the tunnel (coder's tailnet/conn.go)."""

from __future__ import annotations

import logging

import anyio
import anyio.abc

from coder_agent.errors import RemoteProtocolError
from coder_agent.node import TunnelStream

from . import PORT
from .protocol import Direction, Request, encode_reply
from .transfer import GRACE, Ledger, read_line, receive, send

log = logging.getLogger(__name__)

REQUEST_TIMEOUT = 10.0
"""Seconds for the request line."""


class SpeedtestService:
    """Serves any number of tests at once; one test's failure is its own (the stock server stops at the first)."""

    name = "speedtest"
    port = PORT

    def __init__(self) -> None:
        self._ledger = Ledger()

    async def serve(self, stream: anyio.abc.ByteStream) -> None:
        """One test."""
        assert isinstance(stream, TunnelStream)
        try:
            with anyio.fail_after(REQUEST_TIMEOUT):
                line, _ = await read_line(stream)
            request = Request.parse(line)
        except (RemoteProtocolError, TimeoutError) as exc:
            log.info("speed test refused: %s", exc)
            await stream.send(encode_reply(str(exc) or "no request within the time allowed"))
            return
        await stream.send(encode_reply(figures=self._ledger.figures()))
        try:
            if request.direction is Direction.DOWNLOAD:
                await send(stream, request.seconds, _uncounted)
                self._ledger.add(stream)
            else:
                await receive(stream, request.seconds, _uncounted)
        except TimeoutError:
            log.info("speed test given up: nothing arrived for %g s beyond its end", GRACE)
            stream.abort()


def _uncounted(size: int) -> None:
    """The client counts."""
