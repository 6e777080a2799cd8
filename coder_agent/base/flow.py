"""How the conversation with one peer goes, as the sender of bytes sees it: what TCP tells the path selection."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Flow:
    """All connections with one peer together. Sums grow for ever; units: bytes and seconds.

    `sent` counts what was sent again, too, `resent` only that, `acked` what has arrived. `has_backlog`: there is more
    to send than the network takes. `rtt` is the smoothed round trip, 0 = none measured. `patience` is the round trip
    with four times its variation (RFC 6298): an answer later than that is missing. `unanswered_since` is when the
    peer, from which something is due, was last heard or asked; None = nothing is due. `stuck`: packets larger than
    every tunnel carries (1280 bytes) are sent again and again, and do not arrive.
    """

    sent: int = 0
    resent: int = 0
    acked: int = 0
    has_backlog: bool = False
    rtt: float = 0.0
    patience: float = 0.0
    unanswered_since: float | None = None
    stuck: bool = False
