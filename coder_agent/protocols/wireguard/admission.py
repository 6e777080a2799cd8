"""Which handshake messages are worth a Diffie-Hellman computation: the load rule and the limit per source.

Other implementations look at the length of their handshake queue. This core has no queue, because it answers at once,
so the same limit is read as a rate: more messages in one second than their queue holds before it counts as load.

Source: wireguard-go device/device.go (IsUnderLoad), ratelimiter/ratelimiter.go.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from enum import Enum

from .cookie import MacChecker

LOAD_LIMIT = 128
"""Handshake messages per second that we take without asking for cookies: an eighth of a queue of 1024."""
LOAD_HOLD = 1.0
"""Once under load, stay so for this long. Seconds."""
SOURCE_RATE = 20.0
"""Handshake messages per second from one source while under load."""
SOURCE_BURST = 5.0
"""How many of them may come at once."""
MAX_SOURCES = 4096
"""Sources remembered at a time (about 1 MB); when all are busy, further ones have to wait."""


class Verdict(Enum):
    """What to do with a handshake message."""

    ACCEPT = "accept"
    FORGED = "bad-mac1"
    ASK_COOKIE = "under-load"
    TOO_MANY = "source-limited"


class LoadGauge:
    """Were there more than LOAD_LIMIT messages within a second, now or in the last LOAD_HOLD seconds?"""

    __slots__ = ("_times", "_until")

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=LOAD_LIMIT + 1)
        self._until = float("-inf")

    def is_high(self, now: float) -> bool:
        """Count one message and judge."""
        times = self._times
        times.append(now)
        if len(times) > LOAD_LIMIT and now - times[0] <= 1.0:
            self._until = now + LOAD_HOLD
        return now < self._until


class SourceLimiter:
    """A token bucket per source."""

    __slots__ = ("_buckets",)

    def __init__(self) -> None:
        self._buckets: dict[Hashable, tuple[float, float]] = {}

    def allows(self, source: Hashable, now: float) -> bool:
        """Take one token from the source's bucket, if there is one."""
        buckets = self._buckets
        if source not in buckets and len(buckets) >= MAX_SOURCES:
            self._forget_idle(now)
            if len(buckets) >= MAX_SOURCES:
                return False
        tokens, since = buckets.get(source, (SOURCE_BURST, now))
        tokens = min(SOURCE_BURST, tokens + (now - since) * SOURCE_RATE)
        allowed = tokens >= 1.0
        buckets[source] = (tokens - 1.0 if allowed else tokens, now)
        return allowed

    def _forget_idle(self, now: float) -> None:
        """Forget buckets that are full again: they say nothing."""
        full_after = SOURCE_BURST / SOURCE_RATE
        for source in [key for key, (_, since) in self._buckets.items() if now - since >= full_after]:
            del self._buckets[source]


class Admission:
    """The order of checks on messages 1 and 2, cheapest first."""

    __slots__ = ("_macs", "_load", "_limiter")

    def __init__(self, public: bytes, rng: Callable[[int], bytes]) -> None:
        self._macs = MacChecker(public, rng)
        self._load = LoadGauge()
        self._limiter = SourceLimiter()

    def judge(self, message: bytes, source: Hashable, now: float) -> Verdict:
        """Is this message worth computing on?"""
        if not self._macs.has_mac1(message):
            return Verdict.FORGED
        if not self._load.is_high(now):
            return Verdict.ACCEPT
        if not self._macs.has_mac2(message, encode_source(source), now):
            return Verdict.ASK_COOKIE
        return Verdict.ACCEPT if self._limiter.allows(_without_port(source), now) else Verdict.TOO_MANY

    def cookie_reply(self, message: bytes, source: Hashable, now: float) -> bytes:
        """The answer to ASK_COOKIE."""
        return self._macs.reply(message, encode_source(source), now)


def encode_source(source: Hashable) -> bytes:
    """Bytes that stand for a source inside cookies; nobody but us ever reads them."""
    return repr(source).encode()


def _without_port(source: Hashable) -> Hashable:
    """The source's address, so that new ports do not earn new tokens. A relayed peer counts as a whole."""
    addr = getattr(source, "addr", source)
    host: Hashable = getattr(addr, "host", addr)
    return host
