"""The Coordinate call, answered: a coordinator's session behind an RPC stream."""

from __future__ import annotations

from uuid import UUID

import anyio

from ..base.coordinate import CONNECTION_ENDED
from ..coordination.interface import Coordinator, Role
from ..errors import RemoteProtocolError, TransportEnded, TransportError
from ..protocols.tailnet.convert import request_from_proto, response_to_proto
from ..protocols.tailnet.proto.tailnet_pb2 import CoordinateRequest
from .rpc import Handler, streaming
from .rpc_stream import RpcStream


def coordinate_handler(coordinator: Coordinator, peer: UUID, role: Role, *, name: str) -> Handler:
    """The handler of ``/coder.tailnet.v2.Tailnet/Coordinate`` for one connection.

    Ends the stream after `disconnect`, after an error, and when the same peer connects again; a client that leaves
    without `disconnect` is LOST to the others.
    """

    async def coordinate(stream: RpcStream[CoordinateRequest]) -> None:
        changed = anyio.Event()

        def wake() -> None:
            changed.set()

        session = coordinator.connect(peer, role, name=name, wake=wake)

        async def push(scope: anyio.CancelScope) -> None:
            nonlocal changed
            while True:
                changed = anyio.Event()
                ended = session.ended
                for response in session.take():
                    try:
                        await stream.send(response_to_proto(response))
                    except TransportError:
                        ended = True  # the client has left
                        break
                if ended:
                    scope.cancel()
                    return
                await changed.wait()

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(push, tasks.cancel_scope)
                try:
                    async for request in stream:
                        session.request(request_from_proto(request))
                except RemoteProtocolError as exc:
                    session.reject(exc.message)
                except TransportError:
                    pass  # given up by the client: the same as leaving
                session.close(_why(stream))
                wake()
        finally:
            session.close(_why(stream))

    return streaming(CoordinateRequest, coordinate)


def _why(stream: RpcStream[CoordinateRequest]) -> str:
    return CONNECTION_ENDED if isinstance(stream.error, TransportEnded) else "lost"
