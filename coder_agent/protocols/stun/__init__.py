"""STUN: which address does the world see for our UDP socket? RFC 8489 binding only, no authentication.

`messages` holds the codec (client and server side), `responder` the whole of a server. Nothing else of STUN is needed:
no retransmission (the prober plans its tries), no TURN, no ICE. Our own codec because a STUN request must leave through
the data socket, and the packages on PyPI either own their socket or decode XOR-MAPPED-ADDRESS wrongly.
"""

from .messages import (
    DEFAULT_PORT,
    BindingRequest,
    BindingResponse,
    encode_request,
    encode_response,
    is_stun,
    parse_request,
    parse_response,
)
from .responder import respond

__all__ = [
    "DEFAULT_PORT",
    "BindingRequest",
    "BindingResponse",
    "encode_request",
    "encode_response",
    "is_stun",
    "parse_request",
    "parse_response",
    "respond",
]
