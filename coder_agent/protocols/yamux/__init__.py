"""yamux: many byte streams over one (hashicorp/yamux wire format). `frames` the layout, `session` the state machine."""

from __future__ import annotations

from .frames import GoAwayCode
from .session import (
    DataReceived,
    GoneAway,
    PeerSilent,
    PongReceived,
    StreamEnded,
    StreamOpened,
    StreamReset,
    WindowOpened,
    YamuxEvent,
    YamuxSession,
    YamuxSettings,
)

__all__ = [
    "DataReceived",
    "GoAwayCode",
    "GoneAway",
    "PeerSilent",
    "PongReceived",
    "StreamEnded",
    "StreamOpened",
    "StreamReset",
    "WindowOpened",
    "YamuxEvent",
    "YamuxSession",
    "YamuxSettings",
]
