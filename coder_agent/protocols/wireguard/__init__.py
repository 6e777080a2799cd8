"""WireGuard: handshake, transport keys, cookies and timers, as one core that does no I/O.

Read `device.py` first: it is the whole public face. Then, in the order a packet meets them: `messages.py` (layouts),
`noise.py` (the handshake), `session.py` and `replay.py` (keys and counters), `seal.py` and `open.py` (bursts),
`timers.py` (when something is due).

Belongs here: everything that decides what WireGuard says next. Does not belong here: paths (magicsock picks them),
addresses inside the tunnel (the network stack checks them), sockets and clocks.
"""

from __future__ import annotations

from .device import Device

__all__ = ["Device"]
