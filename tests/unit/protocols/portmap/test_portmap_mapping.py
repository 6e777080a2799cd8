"""The mapping core against gateways of every kind, with fixed times."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coder_agent.base.addresses import AddrPort
from coder_agent.protocols.effects import Dropped
from coder_agent.protocols.portmap.mapping import LIFETIME, RETRY_MAX, MappingCore
from coder_agent.protocols.portmap.values import (
    AskUpnp,
    Changed,
    Effect,
    GaveUp,
    Protocol,
    ReleaseUpnp,
    SearchUpnp,
    SendToGateway,
    Site,
    UpnpGrant,
)

SITE = Site("192.168.1.1", "192.168.1.10", 41641)
GATEWAY = AddrPort("192.168.1.1", 5351)
OUTSIDE = "203.0.113.7"
ALL = frozenset(Protocol)


@dataclass
class Gateway:
    """A router: what it speaks, and what it says. `port` 0 = whatever is wanted."""

    pmp: bool = False
    pcp: bool = False
    upnp: bool = False
    result: int = 0
    port: int = 0
    lifetime: int | None = None
    address: str = OUTSIDE
    booted: float = -5000.0
    upnp_word: str = ""
    asked: list[str] = field(default_factory=list)
    wanted: list[int] = field(default_factory=list)
    nonces: set[bytes] = field(default_factory=set)

    def answer(self, data: bytes, now: float) -> bytes | None:
        epoch = int(now - self.booted)
        packed = bytes(int(part) for part in self.address.split("."))
        if data[0] == 0:
            if not self.pmp:
                return None
            if len(data) == 2:
                self.asked.append("pmp-address")
                return struct.pack("!BBHI4s", 0, 128, 0, epoch, packed)
            inside, wanted, life = struct.unpack("!4xHHI", data)
            self.asked.append("pmp-map" if life else "pmp-delete")
            self.wanted.append(wanted)
            granted = life if self.lifetime is None else self.lifetime
            return struct.pack("!BBHIHHI", 0, 129, self.result, epoch, inside, self.port or wanted, granted)
        if not self.pcp:
            return None
        if data[1] == 0:
            self.asked.append("pcp-announce")
            return struct.pack("!BBBBII12x", 2, 128, 0, 0, 0, epoch)
        life, nonce, inside, wanted = struct.unpack("!4xI16x12s4xHH", data[:44])
        self.asked.append("pcp-map" if life else "pcp-delete")
        self.nonces.add(nonce)
        self.wanted.append(wanted)
        granted = life if self.lifetime is None else self.lifetime
        head = struct.pack("!BBBBII12x", 2, 129, 0, self.result, granted, epoch)
        body = struct.pack("!12sB3xHH", nonce, 17, inside, self.port or wanted)
        return head + body + b"\0" * 10 + b"\xff\xff" + packed


class Run:
    """A core, the gateway behind it, and a clock."""

    def __init__(self, gateway: Gateway, protocols: Iterable[Protocol] = ALL) -> None:
        self.gateway = gateway
        self.now = 100.0
        numbers = iter(range(1, 1000))
        self.core = MappingCore(frozenset(protocols), lambda size: next(numbers).to_bytes(size, "big"))
        self.log: list[Effect] = []
        self.changes: list[AddrPort | None] = []

    def apply(self, effects: list[Effect]) -> None:
        core, gateway = self.core, self.gateway
        for effect in effects:
            self.log.append(effect)
            match effect:
                case SendToGateway():
                    reply = gateway.answer(effect.data, self.now)
                    if reply is not None:
                        self.apply(core.receive(reply, AddrPort(effect.gateway, 5351), self.now))
                case SearchUpnp() if gateway.upnp:
                    self.apply(core.upnp_found(self.now))
                case AskUpnp():
                    gateway.asked.append("upnp-map")
                    gateway.wanted.append(effect.wanted)
                    if gateway.upnp_word or not gateway.upnp:
                        self.apply(core.upnp_failed(effect.site, gateway.upnp_word or "no-answer", self.now))
                    else:
                        grant = UpnpGrant(AddrPort(gateway.address, gateway.port or effect.wanted), effect.lifetime)
                        self.apply(core.upnp_granted(effect.site, grant, self.now))
                case Changed():
                    self.changes.append(core.mapping.external if core.mapping else None)

    def start(self, site: Site | None = SITE) -> Run:
        self.apply(self.core.set_site(site, self.now))
        return self

    def until(self, end: float) -> Run:
        while (deadline := self.core.deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.apply(self.core.on_timer(self.now))
        self.now = end
        return self

    @property
    def held(self) -> tuple[str, str] | None:
        mapping = self.core.mapping
        return None if mapping is None else (mapping.protocol.value, str(mapping.external))


@pytest.mark.parametrize(
    ("gateway", "protocol"),
    [
        (Gateway(pmp=True), "pmp"),
        (Gateway(pcp=True), "pcp"),
        (Gateway(upnp=True), "upnp"),
        (Gateway(pmp=True, pcp=True, upnp=True), "pmp"),
        (Gateway(pcp=True, upnp=True), "pcp"),
    ],
    ids=["pmp", "pcp", "upnp", "all", "no-pmp"],
)
def test_the_first_protocol_that_the_gateway_speaks_maps(gateway: Gateway, protocol: str) -> None:
    run = Run(gateway).start().until(101.0)
    assert run.held == (protocol, f"{OUTSIDE}:41641")
    assert Protocol(protocol) in run.core.services
    assert run.core.gateway_asked


def test_a_silent_gateway_is_asked_ever_more_rarely() -> None:
    run = Run(Gateway()).start().until(100.0 + 3600)
    assert run.held is None
    assert run.core.gateway_asked
    assert run.core.services == frozenset()
    sent = sum(isinstance(effect, SendToGateway) for effect in run.log)
    assert sent < 50  # 4 per attempt; none is due more often than every RETRY_MAX in the end
    deadline = run.core.deadline()
    assert deadline is not None
    assert deadline - run.now <= RETRY_MAX
    assert next(effect for effect in run.log if isinstance(effect, GaveUp)) == GaveUp(())


@pytest.mark.parametrize(("protocol", "word"), [("pmp", "not-authorized"), ("pcp", "not-authorized")])
def test_a_refusal_passes_on_to_the_next_protocol(protocol: str, word: str) -> None:
    gateway = Gateway(pmp=protocol == "pmp", pcp=protocol == "pcp", upnp=True, result=2)
    run = Run(gateway).start().until(101.0)
    assert run.held == ("upnp", f"{OUTSIDE}:41641")
    assert run.core.counters[f"failed-{protocol}-{word}"] == 1


def test_when_all_refuse_the_words_are_told() -> None:
    run = Run(Gateway(pmp=True, pcp=True, upnp=True, result=2, upnp_word="fault-606")).start().until(103.0)
    assert run.held is None
    why = ((Protocol.PCP, "not-authorized"), (Protocol.PMP, "not-authorized"), (Protocol.UPNP, "fault-606"))
    assert GaveUp(why) in run.log
    assert run.changes[-1] is None


@pytest.mark.parametrize("protocol", ["pmp", "pcp"])
@pytest.mark.parametrize(
    ("harm", "word"),
    [
        ({"lifetime": 0}, "granted-too-short"),
        ({"lifetime": 5}, "granted-too-short"),
        ({"address": "127.0.0.1"}, "granted-useless-address"),
        ({"address": "224.0.0.1"}, "granted-useless-address"),
    ],
)
def test_useless_grants_are_no_mappings(protocol: str, harm: dict[str, object], word: str) -> None:
    gateway = Gateway(pmp=protocol == "pmp", pcp=protocol == "pcp", **harm)  # type: ignore[arg-type]
    run = Run(gateway).start().until(103.0)
    assert run.held is None
    assert run.core.counters[f"failed-{protocol}-{word}"] >= 1


def test_port_0_is_no_port() -> None:
    run = Run(Gateway(upnp=True), [Protocol.UPNP]).start(Site(SITE.gateway, SITE.own, 0)).until(101.0)
    assert run.held is None
    assert run.core.counters["failed-upnp-granted-port-0"] >= 1


def test_half_of_the_lifetime_is_renewed_with_the_same_port_and_nonce() -> None:
    run = Run(Gateway(pcp=True, port=50000)).start().until(100.0 + LIFETIME + 100)
    assert run.held == ("pcp", f"{OUTSIDE}:50000")
    assert run.gateway.asked.count("pcp-map") == 3
    assert run.gateway.wanted == [41641, 50000, 50000]
    assert len(run.gateway.nonces) == 1
    assert run.changes.count(AddrPort(OUTSIDE, 50000)) == 1
    assert run.core.counters["renewed"] == 2


def test_another_port_at_renewal_is_told() -> None:
    run = Run(Gateway(pmp=True)).start().until(200.0)
    run.gateway.port = 50001
    run.until(100.0 + LIFETIME / 2 + 1)
    assert run.changes[-1] == AddrPort(OUTSIDE, 50001)


def test_a_mapping_stays_until_it_expires_while_renewal_fails() -> None:
    run = Run(Gateway(pmp=True)).start().until(200.0)
    run.gateway.pmp = False
    run.until(100.0 + LIFETIME - 10)
    assert run.changes == [None, AddrPort(OUTSIDE, 41641)]
    run.until(100.0 + LIFETIME + 10)
    assert run.changes == [None, AddrPort(OUTSIDE, 41641), None]
    run.gateway.pmp = True
    run.until(run.now + RETRY_MAX + 10)
    assert run.held == ("pmp", f"{OUTSIDE}:41641")


def test_renewal_moves_to_another_protocol_when_the_first_one_is_gone() -> None:
    run = Run(Gateway(pmp=True)).start().until(200.0)
    run.gateway.pmp, run.gateway.upnp = False, True
    run.until(100.0 + LIFETIME / 2 + 10)
    assert run.held == ("upnp", f"{OUTSIDE}:41641")


@pytest.mark.parametrize("protocol", ["pmp", "pcp"])
def test_a_restarted_gateway_gets_the_mapping_again_at_once(protocol: str) -> None:
    gateway = Gateway(pmp=protocol == "pmp", pcp=protocol == "pcp", port=50000)
    run = Run(gateway).start().until(400.0)
    gateway.booted, gateway.asked = 399.0, []
    notice = struct.pack("!BBHI4s", 0, 128, 0, 1, bytes(4))
    run.apply(run.core.announced(notice, GATEWAY, run.now))
    assert run.core.counters["gateway-restarts"] == 1
    assert f"{protocol}-map" in gateway.asked
    assert gateway.wanted[-1] == 50000
    assert run.held == (protocol, f"{OUTSIDE}:50000")
    assert run.changes.count(AddrPort(OUTSIDE, 50000)) == 1  # peers heard nothing of it


def test_a_restarted_gateway_that_maps_no_more_loses_the_mapping() -> None:
    run = Run(Gateway(pmp=True)).start().until(400.0)
    run.gateway.booted, run.gateway.result = 399.0, 4
    run.apply(run.core.check(run.now))
    run.until(410.0)
    assert run.held is None
    assert run.changes[-1] is None


def test_a_forged_announcement_costs_one_question_in_five_seconds() -> None:
    run = Run(Gateway(pmp=True)).start().until(400.0)
    run.gateway.asked.clear()
    notice = struct.pack("!BBHI4s", 0, 128, 0, 0, bytes(4))
    for step in range(1000):
        run.apply(run.core.announced(notice, GATEWAY, run.now + step / 200))
    assert run.gateway.asked == ["pmp-address"]
    assert run.core.counters["gateway-restarts"] == 0
    assert run.held is not None
    assert run.core.announced(notice, AddrPort("192.168.1.66", 5351), run.now) == [Dropped("portmap-stranger")]


def test_a_new_outside_address_moves_a_pmp_mapping() -> None:
    run = Run(Gateway(pmp=True)).start().until(400.0)
    run.gateway.address = "203.0.113.99"
    run.apply(run.core.check(run.now))
    assert run.held == ("pmp", "203.0.113.99:41641")
    assert run.changes[-1] == AddrPort("203.0.113.99", 41641)


@pytest.mark.parametrize(
    "site",
    [
        Site("192.168.1.1", "192.168.1.11", 41641),
        Site("10.0.0.1", "10.0.0.2", 41641),
        Site("192.168.1.1", "192.168.1.10", 41642),
    ],
    ids=["own-address", "gateway", "port"],
)
def test_another_place_gives_the_old_mapping_back_and_asks_anew(site: Site) -> None:
    run = Run(Gateway(pmp=True)).start().until(200.0)
    run.start(site)
    assert run.gateway.asked.count("pmp-delete") == 1
    run.until(201.0)
    assert run.core.mapping is not None
    assert run.core.mapping.site == site


def test_without_a_network_it_is_forgotten_without_a_word() -> None:
    run = Run(Gateway(pmp=True)).start().until(200.0)
    before = len(run.gateway.asked)
    run.start(None)
    assert run.held is None
    assert run.changes[-1] is None
    assert len(run.gateway.asked) == before
    assert run.core.deadline() is None


@pytest.mark.parametrize("protocol", ["pmp", "pcp"])
def test_at_exit_it_is_given_back(protocol: str) -> None:
    run = Run(Gateway(pmp=protocol == "pmp", pcp=protocol == "pcp")).start().until(200.0)
    run.apply(run.core.release())
    assert run.gateway.asked[-1] == f"{protocol}-delete"
    assert run.held is None
    assert run.core.release() == []


def test_at_exit_upnp_is_given_back() -> None:
    run = Run(Gateway(upnp=True)).start().until(200.0)
    assert run.core.release() == [ReleaseUpnp(SITE, AddrPort(OUTSIDE, 41641))]


def test_a_upnp_grant_that_comes_too_late_is_given_back() -> None:
    run = Run(Gateway(pmp=True)).start().until(200.0)
    grant = UpnpGrant(AddrPort(OUTSIDE, 50000), 7200)
    assert ReleaseUpnp(SITE, grant.external) in run.core.upnp_granted(SITE, grant, run.now)
    assert run.held == ("pmp", f"{OUTSIDE}:41641")


def test_a_slow_device_is_used_when_it_answers_but_asked_only_once() -> None:
    run = Run(Gateway(upnp=False, upnp_word="fault-501")).start().until(101.0)
    assert run.log[-1] == GaveUp(())
    for _ in range(20):
        run.apply(run.core.upnp_found(run.now))
    assert run.gateway.asked == ["upnp-map"]
    assert run.core.services == {Protocol.UPNP}


def test_answers_of_strangers_and_to_nothing_count_and_do_nothing() -> None:
    run = Run(Gateway(pmp=True), [Protocol.PMP]).start().until(200.0)
    grant = struct.pack("!BBHIHHI", 0, 129, 0, 6000, 41641, 666, 7200)
    other = struct.pack("!BBHIHHI", 0, 129, 0, 6000, 41640, 666, 7200)
    core = run.core
    assert core.receive(grant, AddrPort("192.168.1.66", 5351), run.now) == [Dropped("portmap-stranger")]
    assert core.receive(grant, AddrPort("192.168.1.1", 5352), run.now) == [Dropped("portmap-stranger")]
    assert core.receive(grant, GATEWAY, run.now) == [Dropped("portmap-unasked")]
    assert core.receive(b"", GATEWAY, run.now) == [Dropped("portmap-wrong-version")]
    run.until(100.0 + LIFETIME / 2 + 1)
    assert core.receive(other, GATEWAY, run.now) == [Dropped("portmap-wrong-port")]
    assert run.held == ("pmp", f"{OUTSIDE}:41641")
    assert core.counters["portmap-stranger"] == 2


def test_a_pcp_grant_with_another_nonce_is_dropped() -> None:
    gateway = Gateway(pcp=True)
    run = Run(gateway, [Protocol.PCP])
    effects = run.core.set_site(SITE, run.now)
    assert isinstance(effects[0], SendToGateway)
    announced = gateway.answer(effects[0].data, run.now)
    assert announced is not None
    (ask,) = [e for e in run.core.receive(announced, GATEWAY, run.now) if isinstance(e, SendToGateway)]
    reply = gateway.answer(ask.data, run.now)
    assert reply is not None
    forged = reply[:24] + bytes(12) + reply[36:]
    assert run.core.receive(forged, GATEWAY, run.now) == [Dropped("portmap-wrong-nonce")]
    assert run.core.mapping is None
    run.apply(run.core.receive(reply, GATEWAY, run.now))
    assert run.held == ("pcp", f"{OUTSIDE}:41641")


def test_each_side_may_say_that_it_does_not_know_the_version() -> None:
    """A NAT-PMP gateway answers PCP in its own version, and the other way round: nobody is waited for."""
    run = Run(Gateway(), [Protocol.PMP, Protocol.PCP])
    run.apply(run.core.set_site(SITE, run.now))
    run.apply(run.core.receive(bytes.fromhex("0000000100000001"), GATEWAY, run.now))
    run.apply(run.core.receive(bytes.fromhex("028000010000000000000001") + bytes(12), GATEWAY, run.now))
    assert run.log[-1] == GaveUp(())


def test_protocols_that_are_off_are_not_asked() -> None:
    run = Run(Gateway(pmp=True, pcp=True, upnp=True), [Protocol.UPNP]).start().until(150.0)
    assert run.held == ("upnp", f"{OUTSIDE}:41641")
    assert not any(isinstance(effect, SendToGateway) for effect in run.log)
    nothing = Run(Gateway(pmp=True), []).start()
    assert nothing.log == []
    assert nothing.core.deadline() is None


def test_an_idle_hour_costs_a_few_packets() -> None:
    run = Run(Gateway(pmp=True, pcp=True, upnp=True)).start().until(110.0)
    before = len(run.log)
    run.until(110.0 + 3600)
    assert sum(isinstance(effect, SendToGateway) for effect in run.log[before:]) <= 2


@given(st.lists(st.tuples(st.binary(max_size=64), st.booleans(), st.floats(0, 3000)), max_size=30))
def test_junk_never_raises_and_never_maps(junk: list[tuple[bytes, bool, float]]) -> None:
    run = Run(Gateway()).start()
    for data, is_multicast, wait in junk:
        receive = run.core.announced if is_multicast else run.core.receive
        for first in (b"", b"\x00\x80", b"\x02\x80"):
            run.apply(receive(first + data, GATEWAY, run.now))
        run.until(run.now + wait)
    assert run.core.mapping is None
