"""A NAT as a pure table: what leaves as which address, and what may come in.

The two axes of RFC 4787 are independent: *mapping* says whether a new destination gets a new outside port, *filtering*
says who may answer. Nothing that comes in ever makes or moves a mapping: a real router drops it before its table hears
of it, and a peer's early packet must not push the inside host's own mapping to another port.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from ...base.addresses import AddrPort
from .topology import Filtering, Forward, Mapping, NatRules, Ports

LOWEST_PORT, HIGHEST_PORT = 1024, 65535
"""Outside ports that are given out."""


def _scope(axis: Mapping | Filtering, remote: AddrPort) -> object:
    """What of the remote end counts, on either axis."""
    if axis.value == "endpoint-independent":
        return None
    return remote.host if axis.value == "address-dependent" else remote


@dataclass(slots=True)
class _Binding:
    key: object
    inside: AddrPort
    port: int
    used_at: float
    remotes: dict[object, float] = field(default_factory=dict)


class Nat:
    """One NAT with one outside address."""

    def __init__(
        self, outside: str, rules: NatRules, random: Random | None = None, forwards: Sequence[Forward] = ()
    ) -> None:
        self.outside = outside
        self.rules = rules
        self.counters: Counter[str] = Counter()
        """``exhausted``: no port or no room for a new flow. ``filtered``: came in without leave."""
        self._random = random or Random(outside)
        self.forwards = tuple(forwards)
        self._forwards = {forward.port: forward.to for forward in forwards}
        self._answers: dict[tuple[AddrPort, AddrPort], tuple[int, float]] = {}
        self._by_key: dict[object, _Binding] = {}
        self._by_port: dict[int, _Binding] = {}
        self._last_port = rules.first_port - rules.step

    def outbound(self, source: AddrPort, target: AddrPort, now: float) -> AddrPort | None:
        """A packet leaves: its source as the outside sees it. None = no room for its flow."""
        answer = self._answers.get((source, target))
        if answer is not None and now - answer[1] <= self.rules.lifetime:
            self._answers[source, target] = (answer[0], now)
            return AddrPort(self.outside, answer[0])
        key = (source, _scope(self.rules.mapping, target))
        binding = self._by_key.get(key)
        if binding is None or not self._is_alive(binding, now):
            binding = self._bind(key, source, now)
            if binding is None:
                self.counters["exhausted"] += 1
                return None
        binding.used_at = now
        binding.remotes[_scope(self.rules.filtering, target)] = now
        return AddrPort(self.outside, binding.port)

    def inbound(self, source: AddrPort, target: AddrPort, now: float) -> AddrPort | None:
        """A packet arrives at `target`, an address of ours: where it goes inside; None = dropped."""
        forward = self._forwards.get(target.port)
        if forward is not None:
            self._note_answer(forward, source, target.port, now)
            return forward
        binding = self._by_port.get(target.port)
        if binding is None or not self._is_alive(binding, now):
            self.counters["filtered"] += 1
            return None
        scope = _scope(self.rules.filtering, source)
        sent_at = binding.remotes.get(scope)
        if sent_at is None or now - sent_at > self.rules.lifetime:
            self.counters["filtered"] += 1
            return None
        if self.rules.inbound_refresh:
            binding.used_at = binding.remotes[scope] = now
        return binding.inside

    def open_port(self, inside: AddrPort, now: float) -> AddrPort | None:
        """The port-mapping service: a forward to `inside`, at its own port number if that is free."""
        for port, target in self._forwards.items():
            if target == inside:
                return AddrPort(self.outside, port)
        # The asker's own mapping may stand on that number; it is taken over, as routers do for the same insider.
        binding = self._by_port.get(inside.port)
        own = binding is not None and binding.inside == inside
        port_or_none = inside.port if own or self._is_free(inside.port, now) else self._pick(inside.port, now)
        if port_or_none is None:
            return None
        self._forwards[port_or_none] = inside
        return AddrPort(self.outside, port_or_none)

    def restart(self) -> None:
        """The router forgets everything but its static configuration, as after a power cut."""
        self._by_key.clear()
        self._by_port.clear()
        self._answers.clear()

    def mappings(self, now: float) -> dict[int, AddrPort]:
        """Outside port to inside address, of all that are alive."""
        return {port: one.inside for port, one in self._by_port.items() if self._is_alive(one, now)}

    # ------------------------------------------------------------ the table

    def _note_answer(self, inside: AddrPort, remote: AddrPort, port: int, now: float) -> None:
        """What came in at a forwarded port is answered from there."""
        if len(self._answers) >= self.rules.limit and (inside, remote) not in self._answers:
            self._answers.pop(next(iter(self._answers)))
        self._answers[inside, remote] = (port, now)

    def _is_alive(self, binding: _Binding, now: float) -> bool:
        return now - binding.used_at <= self.rules.lifetime

    def _bind(self, key: object, source: AddrPort, now: float) -> _Binding | None:
        old = self._by_key.pop(key, None)
        if old is not None and self._by_port.get(old.port) is old:
            del self._by_port[old.port]
        if len(self._by_key) >= self.rules.limit:
            self._sweep(now)
        port = self._pick(source.port, now) if len(self._by_key) < self.rules.limit else None
        if port is None:
            return None
        displaced = self._by_port.get(port)
        if displaced is not None:  # expired: its number is taken over
            self._by_key.pop(displaced.key, None)
        binding = self._by_key[key] = self._by_port[port] = _Binding(key, source, port, now)
        return binding

    def _sweep(self, now: float) -> None:
        for key in [key for key, one in self._by_key.items() if not self._is_alive(one, now)]:
            binding = self._by_key.pop(key)
            if self._by_port.get(binding.port) is binding:
                del self._by_port[binding.port]

    def _is_free(self, port: int, now: float) -> bool:
        binding = self._by_port.get(port)
        return port not in self._forwards and (binding is None or not self._is_alive(binding, now))

    def _pick(self, wanted: int, now: float) -> int | None:
        """A free outside port by the rules; None = all are taken."""
        size = HIGHEST_PORT - LOWEST_PORT + 1
        if self.rules.ports is Ports.RANDOM:
            start, step = self._random.randrange(size), 1
            for _ in range(64):  # a run of taken ports must not make the next one predictable
                if self._is_free(LOWEST_PORT + start, now):
                    break
                start = self._random.randrange(size)
        elif self.rules.ports is Ports.SEQUENTIAL:
            step = self.rules.step
            start = self._last_port + step - LOWEST_PORT
        else:
            start, step = wanted - LOWEST_PORT, 1
        for attempt in range(size):
            port = LOWEST_PORT + (start + attempt * step) % size
            if self._is_free(port, now):
                self._last_port = port
                return port
        return None
