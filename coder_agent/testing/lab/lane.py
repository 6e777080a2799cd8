"""One direction of one link: when the datagrams handed to it come out, and which of them do."""

from __future__ import annotations

from collections import Counter
from random import Random

from .topology import Cut, LinkRules

IPV4_OVERHEAD, IPV6_OVERHEAD = 28, 48
"""IP and UDP headers, bytes."""


class Lane:
    """Applies `rules`, which may be replaced at any time. Draws nothing from `random` that the rules do not ask for."""

    __slots__ = ("_counters", "_is_clean", "_random", "_rules", "_tokens", "_tokens_at")

    def __init__(self, rules: LinkRules, random: Random, counters: Counter[str]) -> None:
        self._random = random
        self._counters = counters
        self._tokens = float(rules.burst)
        self._tokens_at = 0.0
        self.rules = rules

    @property
    def rules(self) -> LinkRules:
        """What is applied now."""
        return self._rules

    @rules.setter
    def rules(self, rules: LinkRules) -> None:
        self._rules = rules
        self._is_clean = not (rules.jitter or rules.loss or rules.duplicate or rules.reorder or rules.rate)

    def carry(self, rows: list[bytes], overhead: int, now: float) -> list[tuple[float, list[bytes]]]:
        """(delay, what arrives together then), in the order of first arrival. `overhead`: header bytes per datagram."""
        rules = self._rules
        if rules.cut is not Cut.NONE:
            self._counters["cut"] += len(rows)
            return []
        largest = rules.mtu - overhead
        fitting = rows
        if max(map(len, rows), default=0) > largest:
            fitting = [row for row in rows if len(row) <= largest]
            self._counters["too-big"] += len(rows) - len(fitting)
        if self._is_clean:
            return [(rules.latency, fitting)] if fitting else []
        arrivals: dict[float, list[bytes]] = {}
        for row in fitting:
            wait = self._wait(len(row) + overhead, now)
            if wait is None:
                self._counters["policed"] += 1
                continue
            for _ in range(2 if rules.duplicate and self._random.random() < rules.duplicate else 1):
                if rules.loss and self._random.random() < rules.loss:
                    self._counters["lost"] += 1
                else:
                    arrivals.setdefault(wait + self._delay(), []).append(row)
        return list(arrivals.items())

    def _delay(self) -> float:
        rules = self._rules
        delay = rules.latency
        if rules.jitter:
            delay += rules.jitter * self._random.random()
        if rules.reorder and self._random.random() < rules.reorder:
            delay += rules.reorder_delay
        return delay

    def _wait(self, size: int, now: float) -> float | None:
        """Seconds that a packet of `size` bytes waits for its tokens; None = there is no room to wait in.

        Tokens may be owed: a debt is what lies in the queue.
        """
        rules = self._rules
        if not rules.rate:
            return 0.0
        earned = (now - self._tokens_at) * rules.rate / 8
        tokens = min(float(rules.burst), self._tokens + earned)
        self._tokens_at = now
        if tokens - size < -rules.queue:
            self._tokens = tokens
            return None
        self._tokens = tokens - size
        return max(0.0, -self._tokens * 8 / rules.rate)
