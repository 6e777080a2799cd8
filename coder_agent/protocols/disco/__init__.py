"""Disco: how two nodes find a direct path to each other. Messages and their sealed envelope; no decisions.

Read first: `messages.py` (what is said), `facts.py` (what only we say), then `envelope.py` (how it is sealed). Who
says what when: `magicsock/`.
"""

from .envelope import (
    MAGIC,
    NONCE_SIZE,
    OVERHEAD,
    looks_like_disco,
    open_sealed,
    precompute,
    seal,
    sender_of,
)
from .facts import Facts, GuessMyPort
from .messages import TXID_SIZE, CallMeMaybe, Ignored, Message, Ping, Pong, parse

__all__ = [
    "MAGIC",
    "NONCE_SIZE",
    "OVERHEAD",
    "TXID_SIZE",
    "CallMeMaybe",
    "Facts",
    "GuessMyPort",
    "Ignored",
    "Message",
    "Ping",
    "Pong",
    "looks_like_disco",
    "open_sealed",
    "parse",
    "precompute",
    "seal",
    "sender_of",
]
