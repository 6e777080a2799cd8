"""Which path carries the next packet: candidates, probes, trust, switching. Pure: no I/O, no clock.

Read first: `core.py` (the face), then `peer.py` (the decisions about one peer), `prober.py` (what we say) and
`receiver.py` (what we hear). When that is not enough: `search.py`. `policy.py` is what a plugin may replace.
`constants.py` has every number.
"""

from .core import Magicsock
from .demux import PacketKind, classify, classify_burst
from .effects import CloseSockets, Effect, EndpointsWanted, OpenSockets, PathUpdate, PingLost, PongReceived, Route
from .policy import DefaultPathPolicy
from .status import CandidateStatus, PathStatus

__all__ = [
    "CandidateStatus",
    "CloseSockets",
    "DefaultPathPolicy",
    "Effect",
    "EndpointsWanted",
    "Magicsock",
    "OpenSockets",
    "PacketKind",
    "PathStatus",
    "PathUpdate",
    "PingLost",
    "PongReceived",
    "Route",
    "classify",
    "classify_burst",
]
