"""One HTTP request to the gateway: small, without redirects, and over when the time is."""

from __future__ import annotations

import anyio
import anyio.abc
import h11

from coder_agent.protocols.portmap.safe_xml import MAX_SIZE
from coder_agent.protocols.portmap.upnp import Request, Response

MAX_HEAD = 16_384
"""Bytes of status line and headers."""
READ_SIZE = 16_384


async def fetch(gateway: str, request: Request, timeout: float) -> Response | None:
    """The gateway's response within `timeout` seconds; None for no, a broken or a too large one."""
    try:
        with anyio.fail_after(timeout):
            async with await anyio.connect_tcp(gateway, request.target.port) as stream:
                return await _exchange(stream, gateway, request)
    except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError, h11.ProtocolError):  # also TimeoutError
        return None


async def _exchange(stream: anyio.abc.ByteStream, gateway: str, request: Request) -> Response | None:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
    headers = {"Host": f"{gateway}:{request.target.port}", "Connection": "close", **request.headers}
    if request.body:
        headers["Content-Length"] = str(len(request.body))
    method = "POST" if request.body else "GET"
    head = h11.Request(method=method, target=request.target.path, headers=list(headers.items()))
    data = connection.send(head) or b""
    if request.body:
        data += connection.send(h11.Data(request.body)) or b""
    await stream.send(data + (connection.send(h11.EndOfMessage()) or b""))
    return await _response(stream, connection)


async def _response(stream: anyio.abc.ByteStream, connection: h11.Connection) -> Response | None:
    status, body = 0, bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            try:
                connection.receive_data(await stream.receive(READ_SIZE))
            except anyio.EndOfStream:
                connection.receive_data(b"")
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_SIZE:
                return None
        elif isinstance(event, h11.EndOfMessage):
            return Response(status, bytes(body))
        elif not isinstance(event, h11.InformationalResponse):
            return None
