"""Remote calls in Coder's dRPC, for whoever speaks to a coder server or is one. Public: plugins may import it.

`RpcConnection` runs over any byte stream with `receive`, `send` and `aclose`; see runtime/rpc.py for how to use it.
"""

from __future__ import annotations

from .protocols.yamux import YamuxSettings
from .runtime.coordinate_service import coordinate_handler
from .runtime.rpc import ByteStream, Handler, Handlers, RpcConnection, streaming, unary
from .runtime.rpc_stream import RpcError, RpcStream

__all__ = [
    "ByteStream",
    "Handler",
    "Handlers",
    "RpcConnection",
    "RpcError",
    "RpcStream",
    "YamuxSettings",
    "coordinate_handler",
    "streaming",
    "unary",
]
