"""The state of one port mapping: which protocol to ask next, when to renew, what is lost. Pure.

An attempt asks the protocols that the gateway speaks, one after the other, until one grants. What it speaks is found
out by asking all of them at once, unless it is known from the last minutes. A held mapping is renewed after half of its
lifetime, first by the protocol that made it; while that fails it stays published until it expires. A gateway that has
restarted has forgotten it: a new one is made at once, with the same outside port if the gateway agrees.

Source: tailscale net/portmapper/portmapper.go; RFC 6886 §3, RFC 6887 §8 and §11.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from ...base.addresses import AddrPort
from ..effects import Dropped
from . import pcp
from .dialog import Event, GatewayDialog, Granted, Present, Refusal, Restarted
from .natpmp import Datagram
from .values import (
    AskUpnp,
    Changed,
    Effect,
    GaveUp,
    Mapping,
    Protocol,
    ReleaseUpnp,
    SearchUpnp,
    SendToGateway,
    Site,
    UpnpGrant,
    refusal_of,
)

LIFETIME = 7200
"""Seconds asked for. Source: RFC 6886 §3.3, tailscale net/portmapper/portmapper.go."""
MAX_LIFETIME = 24 * 3600
"""Longer grants are renewed as if they were this long. Source: RFC 6887 §15."""
MIN_LIFETIME = 20
"""Shorter grants are refused: renewing them would be chatter."""
TRUST = 600.0
"""Seconds for which a protocol that answered is asked without looking again. Source: same as LIFETIME."""
PROBE_TRIES = (0.1,)
"""Seconds after which the first questions are repeated: a lone datagram gets lost on Wi-Fi."""
PROBE_WAIT = 0.25
"""Seconds for the answers. Source: same. A later answer still starts an attempt when nothing else answered."""
DATAGRAM_TRIES = (0.25, 0.75)
"""Seconds after which a request is repeated: 250 ms, doubling. Source: RFC 6886 §3.1."""
DATAGRAM_WAIT = 1.75
"""Seconds until a request counts as unanswered."""
UPNP_WAIT = 6.0
"""Seconds for a UPnP mapping: the shell's own limit is 5 s."""
RETRY_SILENT = 30.0
"""Seconds to the next attempt when the gateway spoke nothing, doubled each time."""
RETRY_REFUSED = 5.0
"""The same when it answered, but mapped nothing: it may be starting."""
RETRY_MAX = 600.0
CHECK_INTERVAL = 5.0
"""Least seconds between two looks at the gateway because somebody announced something."""
IDLE_CHECK_INTERVAL = 60.0
"""Least seconds between two looks because the node is active."""


@dataclass(slots=True)
class _Attempt:
    """`step` None = finding out who answers. Times are absolute."""

    tried: set[Protocol] = field(default_factory=set)
    is_probed: bool = False
    listens_until: float = 0.0
    step: Protocol | None = None
    ends: float = 0.0
    tries: list[float] = field(default_factory=list)
    answered: set[Protocol] = field(default_factory=set)
    granted: Granted | None = None


class MappingCore:
    """One mapping of one port. Every call returns what the shell is to do; nothing raises for what strangers send."""

    def __init__(self, enabled: frozenset[Protocol], rng: Callable[[int], bytes], *, lifetime: int = LIFETIME) -> None:
        self.site: Site | None = None
        self.mapping: Mapping | None = None
        self.failures: dict[Protocol, str] = {}
        """Why protocols did not help in the last attempt, as words."""
        self.counters: Counter[str] = Counter()
        self._enabled = [protocol for protocol in Protocol if protocol in enabled]
        self._rng = rng
        self._lifetime = lifetime
        self._dialog: GatewayDialog | None = None
        self._attempt: _Attempt | None = None
        self._seen: dict[Protocol, float] = {}
        self._asked = False
        self._address = ""
        self._wanted = 0
        self._is_suspect = False
        self._is_late_welcome = False
        self._fruitless = 0
        self._retry_at: float | None = None
        self._checked = float("-inf")

    @property
    def services(self) -> frozenset[Protocol]:
        """Protocols that the gateway answered, without a no."""
        return frozenset(self._seen)

    @property
    def gateway_asked(self) -> bool:
        """True once the gateway had its time to answer: `services` is complete."""
        return self._asked

    @property
    def is_busy(self) -> bool:
        """An attempt is going on."""
        return self._attempt is not None

    # ------------------------------------------------------------ what happens to it

    def set_site(self, site: Site | None, now: float) -> list[Effect]:
        """Where we are now; None = no gateway that may be asked. Another place gives back what the last one had."""
        if site == self.site or not self._enabled:
            return []
        effects: list[Effect] = []
        if site is not None:
            effects += self._release_effects()
        if self.mapping is not None:
            effects.append(Changed())
        if site is None or self.site is None or site.gateway != self.site.gateway:
            self._forget_gateway()
        self.site, self.mapping, self._attempt, self._retry_at = site, None, None, None
        self._is_suspect, self._fruitless = False, 0
        self._dialog = GatewayDialog(site, self._rng(pcp.NONCE_SIZE)) if site is not None else None
        return effects + (self._begin(now) if site is not None else [])

    def receive(self, data: Datagram, source: AddrPort, now: float) -> list[Effect]:
        """A datagram arrived at the socket from which the gateway is asked."""
        if self._dialog is None:
            return self._dropped(Dropped("portmap-no-gateway"))
        effects: list[Effect] = []
        for event in self._dialog.receive(data, source, now):
            effects += self._on(event, now)
        return effects

    def announced(self, data: Datagram, source: AddrPort, now: float) -> list[Effect]:
        """A datagram arrived at 224.0.0.1:5350. Anybody can send there: if it may be news, the gateway is asked."""
        if self._dialog is None:
            return self._dropped(Dropped("portmap-no-gateway"))
        news = self._dialog.is_news(data, source)
        if isinstance(news, Dropped):
            return self._dropped(news)
        return self.check(now, CHECK_INTERVAL) if news else []

    def check(self, now: float, interval: float = IDLE_CHECK_INTERVAL) -> list[Effect]:
        """Does the gateway still know us? One datagram, whose answer has the epoch; at most once per `interval`."""
        if self._dialog is None or self._attempt is not None or now < self._checked + interval:
            return []
        self._checked = now
        if self.mapping is None or self.mapping.protocol is Protocol.UPNP:
            return self._begin(now) if interval == CHECK_INTERVAL else []
        return [self._ask_presence(self.mapping.protocol, now)]

    def upnp_found(self, now: float) -> list[Effect]:
        """The gateway has shown a device that can map ports."""
        return self._on(Present(Protocol.UPNP, True), now) if self.site is not None else []

    def upnp_restarted(self, now: float) -> list[Effect]:
        """The gateway's UPnP service says that it has restarted. Forgeable: it costs one renewal at most."""
        if self._attempt is not None or now < self._checked + CHECK_INTERVAL or self.site is None:
            return []
        self._checked = now
        return self._begin(now)

    def upnp_granted(self, site: Site, grant: UpnpGrant, now: float) -> list[Effect]:
        """UPnP mapped our port. What comes too late is given back."""
        if not self._is_asking(Protocol.UPNP) or site != self.site:
            return [*self._dropped(Dropped("portmap-too-late")), ReleaseUpnp(site, grant.external)]
        return self._hold(Protocol.UPNP, grant.external, grant.lifetime, now)

    def upnp_failed(self, site: Site, word: str, now: float) -> list[Effect]:
        """UPnP did not map our port; `word` says why."""
        if not self._is_asking(Protocol.UPNP) or site != self.site:
            return []
        return self._step_failed(Protocol.UPNP, word, now)

    def release(self) -> list[Effect]:
        """At exit: give the mapping back. Nothing is asked afterwards."""
        effects = self._release_effects()
        self.mapping = self._attempt = self.site = self._dialog = None
        return effects

    def deadline(self) -> float | None:
        """When `on_timer` wants to be called."""
        times = [self.mapping.expires_at] if self.mapping is not None else []
        if self._attempt is not None:
            times += [self._attempt.ends, *self._attempt.tries[:1]]
        elif self._retry_at is not None:
            times.append(self._retry_at)
        return min(times, default=None)

    def on_timer(self, now: float) -> list[Effect]:
        """Time passed."""
        effects: list[Effect] = []
        if self.mapping is not None and now >= self.mapping.expires_at:
            self.mapping = None
            effects.append(Changed())
        attempt = self._attempt
        if attempt is None:
            if self._retry_at is not None and now >= self._retry_at:
                effects += self._begin(now)
        elif now >= attempt.ends:
            if attempt.step is None:
                effects += self._probe_over(now)
            else:
                effects += self._step_failed(attempt.step, "no-answer", now)
        elif attempt.tries and now >= attempt.tries[0]:
            attempt.tries.pop(0)
            effects += self._repeat(attempt, now)
        return effects

    # ------------------------------------------------------------ an attempt

    def _begin(self, now: float, *, late: Protocol | None = None) -> list[Effect]:
        """`late` answered after the attempt that asked had ended: it alone is tried, and nobody is looked for again."""
        others = set(self._enabled) - {late} if late is not None else set()
        self._attempt, self._retry_at = _Attempt(tried=others, is_probed=late is not None), None
        self._is_late_welcome = late is None
        self.failures.clear()
        return self._next(now)

    def _next(self, now: float) -> list[Effect]:
        """The next protocol worth asking: the one that made the mapping, then those seen, then whoever answers now."""
        attempt = self._attempt
        assert attempt is not None
        for protocol in self._order():
            if protocol not in attempt.tried and self._is_worth_asking(protocol, now):
                return self._ask(attempt, protocol, now)
        if not attempt.is_probed:
            return self._probe(attempt, now)
        if now < attempt.listens_until and not attempt.answered.issuperset(self._enabled):
            attempt.step, attempt.ends, attempt.tries = None, attempt.listens_until, []
            return []
        return self._give_up(now)

    def _is_worth_asking(self, protocol: Protocol, now: float) -> bool:
        is_holder = self.mapping is not None and self.mapping.protocol is protocol
        has_looked = self._attempt is not None and self._attempt.is_probed
        return (is_holder and not has_looked) or now - self._seen.get(protocol, float("-inf")) <= TRUST

    def _order(self) -> list[Protocol]:
        held = self.mapping.protocol if self.mapping is not None else None
        return sorted(self._enabled, key=lambda protocol: protocol is not held)

    def _probe(self, attempt: _Attempt, now: float) -> list[Effect]:
        attempt.is_probed, attempt.step = True, None
        attempt.tried.clear()  # who answers now may have restarted since it did not
        attempt.ends = attempt.listens_until = now + PROBE_WAIT
        attempt.tries = [now + delay for delay in PROBE_TRIES]
        effects = self._repeat(attempt, now)
        if Protocol.UPNP in self._enabled and self.site is not None:
            effects.append(SearchUpnp(self.site))
        return effects

    def _probe_over(self, now: float) -> list[Effect]:
        attempt = self._attempt
        assert attempt is not None
        for protocol in list(self._seen):
            if protocol not in attempt.answered:
                del self._seen[protocol]
        news: list[Effect] = [] if self._asked else [Changed()]
        self._asked = True
        return news + self._next(now)

    def _ask(self, attempt: _Attempt, protocol: Protocol, now: float) -> list[Effect]:
        assert self.site is not None
        attempt.tried.add(protocol)
        attempt.step, attempt.granted = protocol, None
        if protocol is Protocol.UPNP:
            attempt.ends, attempt.tries = now + UPNP_WAIT, []
            return [AskUpnp(self.site, self._wanted or self.site.port, self._lifetime)]
        attempt.ends = now + DATAGRAM_WAIT
        attempt.tries = [now + delay for delay in DATAGRAM_TRIES]
        return self._repeat(attempt, now)

    def _repeat(self, attempt: _Attempt, now: float) -> list[Effect]:
        """Send (again) the datagrams of the present step."""
        step, dialog, site = attempt.step, self._dialog, self.site
        assert dialog is not None
        assert site is not None
        if step is None:
            silent = [p for p in self._enabled if p is not Protocol.UPNP and p not in attempt.answered]
            return [self._ask_presence(protocol, now) for protocol in silent]
        address = self._address if step is Protocol.PCP else ""
        wanted = AddrPort(address or pcp.ANY_ADDRESS, self._wanted or site.port)
        effects: list[Effect] = []
        if step is Protocol.PMP:  # its mappings do not say the outside address
            effects.append(self._ask_presence(step, now))
        return [*effects, SendToGateway(site.gateway, dialog.mapping(step, wanted, self._lifetime, now))]

    def _ask_presence(self, protocol: Protocol, now: float) -> SendToGateway:
        assert self._dialog is not None
        assert self.site is not None
        return SendToGateway(self.site.gateway, self._dialog.presence(protocol, now))

    def _is_asking(self, protocol: Protocol) -> bool:
        return self._attempt is not None and self._attempt.step is protocol

    def _step_failed(self, protocol: Protocol, word: str, now: float) -> list[Effect]:
        self.failures[protocol] = word
        self.counters[f"failed-{protocol}-{word}"] += 1
        if word == "no-answer":
            self._seen.pop(protocol, None)
        return self._next(now)

    def _give_up(self, now: float) -> list[Effect]:
        """Nobody mapped: try again later. A mapping that the gateway has lost is not ours any more."""
        self._attempt = None
        effects: list[Effect] = [GaveUp(tuple(sorted(self.failures.items())))]
        if self.mapping is not None and self._is_suspect:
            self.mapping = None
            effects.append(Changed())
        self._is_suspect = False
        wait = min(RETRY_MAX, (RETRY_REFUSED if self._seen else RETRY_SILENT) * 2.0 ** min(self._fruitless, 10))
        self._fruitless += 1
        if self.mapping is not None:
            wait = max(MIN_LIFETIME / 2, min(wait, (self.mapping.expires_at - now) / 2))
        self._retry_at = now + wait
        return effects

    # ------------------------------------------------------------ answers

    def _on(self, event: Event, now: float) -> list[Effect]:
        match event:
            case Dropped():
                return self._dropped(event)
            case Restarted():
                return self._restarted(now)
            case Present():
                return self._present(event, now)
            case Granted():
                return self._granted(event, now)
            case Refusal():
                if self._is_asking(event.protocol):
                    return self._step_failed(event.protocol, event.word, now)
        return []

    def _restarted(self, now: float) -> list[Effect]:
        """Whatever we held is gone. The answer that says so may be a new grant, which is then looked at next."""
        self.counters["gateway-restarts"] += 1
        self._is_suspect = self.mapping is not None
        return self._begin(now) if self._is_suspect and self._attempt is None else []

    def _present(self, event: Present, now: float) -> list[Effect]:
        protocol, attempt = event.protocol, self._attempt
        if protocol not in self._enabled:
            return []
        effects: list[Effect] = []
        if event.usable:
            if protocol not in self._seen and self._asked:
                effects.append(Changed())  # it was slow
            self._seen[protocol] = now
        else:
            self._seen.pop(protocol, None)
        if event.address and event.address != self._address:
            effects += self._moved(event.address)
        if attempt is None:
            return effects + (self._begin(now, late=protocol) if event.usable and self._is_late_welcome else [])
        attempt.answered.add(protocol)
        if attempt.step is None:
            return effects + (self._probe_over(now) if self._has_heard_enough(attempt) else [])
        if attempt.step is Protocol.PMP is protocol:
            effects += self._pmp_address(attempt, event, now)
        return effects

    def _has_heard_enough(self, attempt: _Attempt) -> bool:
        """The one that we would ask next has answered with a yes, or everybody has answered."""
        best = next((protocol for protocol in self._enabled if protocol not in attempt.tried), None)
        return attempt.answered.issuperset(self._enabled) or (best in self._seen and best in attempt.answered)

    def _moved(self, address: str) -> list[Effect]:
        """The gateway has another outside address; a NAT-PMP mapping moves with it."""
        self._address = address
        held = self.mapping
        if held is None or held.protocol is not Protocol.PMP or held.external.host == address:
            return []
        external = AddrPort(address, held.external.port)
        if refusal_of(external, MIN_LIFETIME, MIN_LIFETIME):
            return []
        self.mapping = Mapping(held.protocol, held.site, external, held.renew_at, held.expires_at)
        return [Changed()]

    def _pmp_address(self, attempt: _Attempt, event: Present, now: float) -> list[Effect]:
        if not event.usable or not event.address:
            return self._step_failed(Protocol.PMP, "refused" if not event.usable else "no-outside-address", now)
        return self._granted(attempt.granted, now) if attempt.granted is not None else []

    def _granted(self, event: Granted, now: float) -> list[Effect]:
        attempt = self._attempt
        if attempt is None or attempt.step is not event.protocol:
            return self._dropped(Dropped("portmap-too-late"))
        address = event.address
        if event.protocol is Protocol.PMP:
            if not self._address:  # comes with the next datagram
                attempt.granted = event
                return []
            address = self._address
        return self._hold(event.protocol, AddrPort(address, event.port), event.lifetime, now)

    def _hold(self, protocol: Protocol, external: AddrPort, lifetime: int, now: float) -> list[Effect]:
        assert self.site is not None
        word = refusal_of(external, lifetime, MIN_LIFETIME)
        if word:
            return self._step_failed(protocol, word, now)
        lifetime = min(lifetime, MAX_LIFETIME)
        before = self.mapping.external if self.mapping is not None else None
        self.mapping = Mapping(protocol, self.site, external, now + lifetime / 2, now + lifetime)
        self._seen[protocol] = now
        self._wanted = external.port
        if protocol is not Protocol.UPNP:
            self._address = external.host
        self._attempt, self._is_suspect, self._is_late_welcome, self._fruitless = None, False, False, 0
        self._retry_at = self.mapping.renew_at
        self.counters["renewed" if before == external else "mapped"] += 1
        return [Changed()] if before != external else []

    # ------------------------------------------------------------ the rest

    def _dropped(self, dropped: Dropped) -> list[Effect]:
        self.counters[dropped.reason] += dropped.count
        return [dropped]

    def _forget_gateway(self) -> None:
        self._seen.clear()
        self._asked, self._address, self._wanted = False, "", 0
        self._checked = float("-inf")

    def _release_effects(self) -> list[Effect]:
        """Give back what we hold, and what may be granted while we look away."""
        held, dialog = self.mapping, self._dialog
        effects: list[Effect] = []
        if held is not None and held.protocol is Protocol.UPNP:
            effects.append(ReleaseUpnp(held.site, held.external))
        elif held is not None and dialog is not None:
            effects.append(SendToGateway(held.site.gateway, dialog.deletion(held.protocol, held.external)))
        step = self._attempt.step if self._attempt is not None else None
        if held is None and dialog is not None and step in (Protocol.PMP, Protocol.PCP):
            nothing = AddrPort(pcp.ANY_ADDRESS, 0)
            effects.append(SendToGateway(dialog.site.gateway, dialog.deletion(step, nothing)))
        return effects
