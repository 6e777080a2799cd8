"""A STUN server without its socket: one datagram in, one out or silence."""

from __future__ import annotations

from ...base.addresses import AddrPort
from ..effects import Dropped
from .messages import Datagram, encode_response, parse_request


def respond(datagram: Datagram, source: AddrPort, *, strict: bool = True) -> bytes | None:
    """The answer to send to `source`, or None for silence: what is not a request we serve gets no error either.

    `strict` (the default, and what Tailscale's servers do) answers only Tailscale and Coder nodes, so that the port is
    useless for reflection: an IPv4 answer (32 bytes) is smaller than the only request it accepts (40 bytes).
    """
    request = parse_request(datagram, strict=strict)
    return None if isinstance(request, Dropped) else encode_response(request.txid, source)
