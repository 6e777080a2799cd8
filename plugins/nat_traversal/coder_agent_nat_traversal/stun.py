"""The STUN source: asks the relay map's servers, through the data socket, what our address looks like from outside.

One round at a time. A round starts when the node asks for it (start, new map, link change, call-me-maybe with a stale
list) and, as long as somebody keeps asking, every 20 to 26 seconds, so that mappings stay open and the list stays
fresh. A node that nobody asks falls silent; if it has had no answer yet, it goes on trying, ever more rarely. Where UDP
does not get through at all, the regions' latency is measured over HTTPS instead.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import anyio
import anyio.abc

from coder_agent.base.addresses import AddrPort
from coder_agent.base.derp_map import DerpNode
from coder_agent.base.nat_facts import NatFacts
from coder_agent.hooks import Candidate, CandidateContext, CandidateKind, DialOptions

from .history import LatencyHistory
from .https import Measure, measure_https
from .interfaces import POLL_INTERVAL, Address, Family, families_of, read_addresses, usable
from .plan import LastRound, Probe, https_nodes, literal_address, plan_round, stun_port
from .report import StunRound
from .resolver import Resolver
from .tracker import EndpointTracker

log = logging.getLogger(__name__)

PERIODIC = (20.0, 26.0)
"""Seconds between rounds while active, drawn anew each time: under the 30 s after which common NATs forget a UDP
mapping. Source: tailscale wgengine/magicsock/magicsock.go."""
ACTIVE_FOR = 45.0
"""Seconds after the last request for which rounds repeat by themselves. Source: same (sessionActiveTimeout)."""
FULL_INTERVAL = 300.0
"""Seconds between rounds that ask every region. Source: tailscale net/netcheck/netcheck.go."""
MIN_INTERVAL = 1.0
"""Seconds from one round's start to the next: requests in between are answered by one round."""
SILENT_BACKOFF_LIMIT = 120.0
"""Seconds between rounds, at most, while no server has ever answered and nobody asks: each round without an answer
doubles the time, so that an idle node behind a firewall hardly sends."""
HTTPS_INTERVAL = 300.0
"""Seconds between measurements over HTTPS: one costs a TLS handshake per region."""


@dataclass(slots=True)
class StunSource:
    """Candidate source (hooks.interfaces.CandidateSource). The fields are what tests replace."""

    guess_local_port: bool = False
    rng: Callable[[int], bytes] = os.urandom
    uniform: Callable[[float, float], float] = random.uniform
    addresses: Callable[[], Sequence[Address]] = read_addresses
    resolver: Resolver = field(default_factory=Resolver)
    measure: Measure = measure_https
    dial: DialOptions = field(default_factory=DialOptions)
    name: str = "stun"

    async def run(self, context: CandidateContext) -> None:
        """Publish STUN candidates, latencies and the kind of NAT until cancelled."""
        prober = _Prober(self, context)
        unsubscribe = context.on_stun(prober.receive)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(prober.listen)
                tasks.start_soon(prober.watch_interfaces)
                await prober.run(tasks)
        finally:
            unsubscribe()


class _Prober:
    """One run of the source."""

    def __init__(self, source: StunSource, context: CandidateContext) -> None:
        self._source = source
        self._context = context
        self._tracker = EndpointTracker()
        self._history = LatencyHistory()
        self._round: StunRound | None = None
        self._last: LastRound | None = None
        self._last_full = float("-inf")
        self._last_start = float("-inf")
        self._last_request = float("-inf")
        self._requested = False
        self._wake = anyio.Event()
        self._published: list[Candidate] = []
        self._varies_known = False
        self._silent_rounds = 0
        self._last_https = float("-inf")
        self._https: anyio.abc.TaskGroup | None = None

    # ------------------------------------------------------------ what wakes it

    def receive(self, packet: bytes, source: AddrPort, now: float) -> None:
        """A STUN packet came through the data socket."""
        current = self._round
        answer = current.receive(packet, now) if current is not None else None
        if current is None or answer is None:
            return
        for endpoint in reversed(current.endpoints()):
            self._tracker.note(endpoint, now)
        for endpoint in current.mappings.refuted():
            self._tracker.forget(endpoint)
        best = self._history.best(answer.region, answer.family, answer.latency, now)
        self._context.report_latency(answer.region, answer.family, best)
        offered = self._candidates(now, current)
        if offered != self._published:  # at once: a peer may be waiting for it
            self._publish(offered)
        self._wake.set()

    async def listen(self) -> None:
        """Note every request for fresh endpoints, also during a round."""
        while True:
            reason = await self._context.wait_refresh()
            log.debug("asked for fresh endpoints: %s", reason)
            if reason == "link-change":  # another network: ask everybody again
                self._last, self._last_https = None, float("-inf")
            self._request()

    async def watch_interfaces(self) -> None:
        """Another network means another NAT."""
        known = usable(self._source.addresses())
        while True:
            await anyio.sleep(POLL_INTERVAL)
            found = usable(self._source.addresses())
            if set(found) != set(known):
                known, self._last = found, None
                self._last_https = float("-inf")
                self._request()

    def _request(self) -> None:
        self._requested = True
        self._last_request = anyio.current_time()
        self._wake.set()

    # ------------------------------------------------------------ rounds

    async def run(self, tasks: anyio.abc.TaskGroup) -> None:
        """Wait for a reason, do a round, and again. `tasks` gets what may take longer than a round."""
        self._https = tasks
        while True:
            await self._wait_for_reason()
            await anyio.sleep(max(0.0, self._last_start + MIN_INTERVAL - anyio.current_time()))
            self._requested = False
            await self._do_round()

    async def _wait_for_reason(self) -> None:
        now = anyio.current_time()
        silent = self._last is not None and not self._last.latency
        timeout = float("inf")
        active = now - self._last_request <= ACTIVE_FOR
        if self._last is not None and (silent or active):
            timeout = self._source.uniform(*PERIODIC)
            if not active:
                timeout = min(timeout * 2 ** min(self._silent_rounds, 8), SILENT_BACKOFF_LIMIT)
        with anyio.move_on_after(timeout):
            while not self._requested:
                await self._sleep_until_woken()

    async def _sleep_until_woken(self) -> None:
        await self._wake.wait()
        self._wake = anyio.Event()

    async def _do_round(self) -> None:
        now = anyio.current_time()
        derp_map = self._context.derp_map()
        self._history.keep(derp_map.regions)
        full = self._last is None or not self._last.latency or now - self._last_full >= FULL_INTERVAL
        sets = plan_round(derp_map, self._families(), None if full else self._last)
        if not sets:  # nobody to ask; what is still fresh stays on offer
            self._last = None
            self._publish(self._candidates(now))
            self._ask_by_https(udp_works=True)
            return
        self._last_start = now
        if full:
            self._last_full = now
        current = self._round = StunRound(sets, self._source.rng, now, full, self._source.addresses())
        try:
            async with anyio.create_task_group() as tasks:
                while not self._is_over(current):
                    for probe in current.due(anyio.current_time()):
                        tasks.start_soon(self._ask, current, probe)
                    with anyio.move_on_after(current.deadline() - anyio.current_time()):
                        await self._sleep_until_woken()
                tasks.cancel_scope.cancel()
        finally:
            self._round = None
        self._conclude(current)

    def _is_over(self, current: StunRound) -> bool:
        """Also when fresh endpoints are asked for again and this round has given all it will give soon."""
        return current.finished(anyio.current_time()) or (self._requested and current.answered)

    async def _ask(self, current: StunRound, probe: Probe) -> None:
        address, port = literal_address(probe.node, probe.family), stun_port(probe.node)
        if address == "":
            address = await self._source.resolver.resolve(probe.node.host_name, probe.family, port or 0)
        if address is None or port is None:
            return
        destination = AddrPort.of(address, port)
        packet = current.request(probe, destination, anyio.current_time())
        self._context.send(packet, destination)

    def _conclude(self, current: StunRound) -> None:
        self._last = current.result()
        self._silent_rounds = 0 if current.answered else self._silent_rounds + 1
        self._context.report_nat(current.facts(over=True))
        self._ask_by_https(udp_works=current.answered)
        if current.mapping_varies is not None or not self._varies_known:
            self._varies_known = current.mapping_varies is not None
            self._context.report_mapping_varies(current.mapping_varies)
        self._publish(self._candidates(anyio.current_time(), current))  # also unchanged: it is fresh

    def _ask_by_https(self, *, udp_works: bool) -> None:
        """Without UDP a home region is needed all the same, and the nearest is still the best."""
        now = anyio.current_time()
        nodes = https_nodes(self._context.derp_map(), udp_works=udp_works)
        if self._https is None or not nodes or now - self._last_https < HTTPS_INTERVAL:
            return
        self._last_https = now
        for node in nodes:
            self._https.start_soon(self._measure, node)

    async def _measure(self, node: DerpNode) -> None:
        answer = await self._source.measure(node, self._source.dial)
        if answer.latency is None:
            log.debug("region %d does not answer over HTTPS either: %s", node.region_id, answer.error)
            return
        self._context.report_latency(node.region_id, answer.family, answer.latency)
        self._context.report_nat(NatFacts(ipv4=True) if answer.family == "v4" else NatFacts(ipv6=True))

    # ------------------------------------------------------------ results

    def _families(self) -> frozenset[Family]:
        v4, v6 = self._context.direct.bound_ports()
        bound: set[Family] = set()
        if v4 is not None:
            bound.add("v4")
        if v6 is not None:
            bound.add("v6")
        return families_of(self._source.addresses()) & bound

    def _candidates(self, now: float, current: StunRound | None = None) -> list[Candidate]:
        """This round's endpoints, the guess at a manual port forward, then what earlier rounds saw."""
        seen = current.endpoints() if current is not None else []
        offered = dict.fromkeys(seen, CandidateKind.STUN)
        local_port = self._context.direct.bound_ports()[0]
        if self._source.guess_local_port and current is not None and current.mapping_varies and local_port:
            for addr in [addr for addr in seen if not addr.is_ipv6][:1]:
                offered.setdefault(AddrPort(addr.host, local_port), CandidateKind.STUN_LOCAL_PORT)
        for addr in self._tracker.recent(now):
            offered.setdefault(addr, CandidateKind.STUN)
        return [Candidate(addr, kind) for addr, kind in offered.items()]

    def _publish(self, candidates: list[Candidate]) -> None:
        self._published = candidates
        self._context.publish(self._source.name, candidates)
