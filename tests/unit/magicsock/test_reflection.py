"""What a malicious peer can make us send, and to whom: the figures of docs/paths.md, held under floods and lies."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from coder_agent.base.addresses import AddrPort
from coder_agent.base.keys import DiscoPrivate, NodePrivate
from coder_agent.base.nat_facts import NatFacts, PathReport
from coder_agent.base.path_rules import DirectRule, PathRules
from coder_agent.base.paths import DerpPath, UdpPath
from coder_agent.magicsock import CloseSockets, Effect, Magicsock, OpenSockets
from coder_agent.magicsock import constants as c
from coder_agent.magicsock.birthday import is_guessable
from coder_agent.protocols import disco
from coder_agent.protocols.effects import Dropped, SendRaw

T0 = 5000.0
HOME = 1
OUR_PUBLIC = AddrPort("198.51.100.7", 41641)
VICTIM = "203.0.113.9"
EASY = NatFacts(udp=True, mapping_varies=False, public_v4=OUR_PUBLIC)
HARD = NatFacts(udp=True, mapping_varies=True, public_v4=OUR_PUBLIC)


class Attacked:
    """A core, a peer of which an attacker has the keys, and everything that the core sends by UDP."""

    def __init__(self, facts: NatFacts = EASY, *, active: bool = True, rules: PathRules | None = None) -> None:
        rng = Random(11).randbytes
        private = DiscoPrivate.generate(rng)
        self._far = DiscoPrivate.generate(rng)
        self._rng = rng
        self.key = NodePrivate.generate(rng).public()
        self.core = Magicsock(NodePrivate.generate(rng).public(), private, rng=rng)
        shared = disco.precompute(self._far, private.public())
        assert shared is not None
        self._shared = shared
        self.udp: list[tuple[float, UdpPath, int]] = []
        self.relayed: list[tuple[float, disco.Message]] = []
        self.dropped: list[str] = []
        self.opened = 0
        self.open: set[int] = set()
        self.sockets = 1000
        self.now = T0
        self.core.set_local_endpoints([OUR_PUBLIC], T0)
        self.do(self.core.set_local_facts(facts, T0))
        self.do(self.core.upsert_peer(self.key, self._far.public(), home=HOME, endpoints=[], now=T0))
        if rules is not None:
            self.do(self.core.set_rules(rules, T0))
        self.active = active
        if active:
            self.do(self.core.route(self.key, T0)[1])

    def do(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, SendRaw) and isinstance(effect.path, UdpPath):
                self.udp.append((self.now, effect.path, len(effect.data) + 28))
            elif isinstance(effect, SendRaw):
                message = disco.parse(disco.open_sealed(effect.data, self._shared) or b"")
                assert message is not None
                self.relayed.append((self.now, message))
            elif isinstance(effect, OpenSockets):
                names = range(self.opened + 1, self.opened + 1 + min(effect.count, self.sockets - len(self.open)))
                self.opened += len(names)
                self.open |= set(names)
                self.do(self.core.sockets_opened(effect.peer, list(names), self.now))
            elif isinstance(effect, CloseSockets):
                assert set(effect.names) <= self.open
                self.open -= set(effect.names)
            elif isinstance(effect, Dropped):
                self.dropped.append(effect.reason)

    def say(self, message: bytes, path: UdpPath | None = None) -> None:
        sealed = disco.seal(self._far.public(), self._shared, self._rng(24), message)
        self.do(self.core.receive_disco(sealed, path or DerpPath(HOME, self.key), self.now))

    def tell(self, facts: NatFacts) -> None:
        self.say(disco.Facts(PathReport(facts)).encode())

    def guess(self) -> None:
        self.say(disco.GuessMyPort(1, 256).encode())

    def run(self, seconds: float) -> None:
        """Time passes; the session stays active."""
        end = self.now + seconds
        while self.now < end:
            due = self.core.deadline()
            self.now = min(end, self.now + 1.0) if due is None else max(self.now, min(due, self.now + 1.0, end))
            if self.active:
                self.do(self.core.route(self.key, self.now)[1])
            self.do(self.core.on_timer(self.now))

    def to_victim(self, since: float = 0.0) -> list[int]:
        return [size for at, path, size in self.udp if path.addr.host == VICTIM and at >= since]

    def busiest_second(self) -> int:
        times = [at for at, *_ in self.udp]
        return max((sum(start <= at < start + 1 for at in times) for start in times), default=0)


# ------------------------------------------------------------ addresses of somebody else


def test_a_call_with_a_thousand_endpoints_costs_32_small_pings_at_once() -> None:
    world = Attacked()
    world.say(disco.CallMeMaybe(tuple(AddrPort(VICTIM, port) for port in range(1000, 2000))).encode())
    assert world.to_victim() == [c.UNPADDED_PING_SIZE + 28] * c.PROBE_BURST
    world.run(10)
    assert len(world.to_victim()) <= c.PROBE_BURST + 10 * c.PROBES_PER_SECOND
    assert len({path.addr for _, path, _ in world.udp}) <= c.MAX_LISTED_ENDPOINTS


def test_after_a_call_whoever_does_not_answer_is_pinged_twice_more_and_then_left_alone() -> None:
    world = Attacked(active=False)
    world.say(disco.CallMeMaybe((AddrPort(VICTIM, 5),)).encode())
    world.run(4.9)
    assert [round(at - T0, 3) for at, path, _ in world.udp if path.addr.host == VICTIM] == [0.0, *c.CALL_REPEATS]


def test_a_flood_of_calls_with_ever_new_addresses_stays_within_the_budget() -> None:
    world = Attacked()
    for number in range(600):
        ports = range(1024 + 64 * number, 1024 + 64 * (number + 1))
        world.say(disco.CallMeMaybe(tuple(AddrPort(VICTIM, port % 64512 + 1024) for port in ports)).encode())
        world.run(0.1)
    packets = world.to_victim()
    assert len(packets) <= c.PROBE_BURST + 60 * c.PROBES_PER_SECOND
    assert set(packets) == {152}
    assert world.busiest_second() <= c.PROBE_BURST + c.PROBES_PER_SECOND
    assert "call-me-maybe-flood" in world.dropped


def test_the_whole_list_is_tried_in_the_end() -> None:
    world = Attacked()
    endpoints = tuple(AddrPort(f"203.0.113.{n}", 5) for n in range(1, 61))
    world.say(disco.CallMeMaybe(endpoints).encode())
    world.run(4)
    assert {path.addr for _, path, _ in world.udp} >= set(endpoints)


def test_replayed_pings_from_forged_sources_bring_no_more_than_they_cost_but_for_one_a_second() -> None:
    world = Attacked()
    for number in range(400):
        ping = disco.Ping(number.to_bytes(12, "big"), world.key).encode()
        world.say(ping, UdpPath(AddrPort(VICTIM, 2000 + number)))
        world.run(0.05)
    pongs = [size for size in world.to_victim() if size == 110 + 28]
    large = [size for size in world.to_victim() if size > 152]
    assert len(pongs) == 400
    assert len(large) <= c.ALLOWANCE_BURST + 20 * c.ALLOWANCE_PER_SECOND + 1
    small = len(world.to_victim()) - len(pongs) - len(large)
    assert small <= c.PROBE_BURST + 20 * c.PROBES_PER_SECOND


# ------------------------------------------------------------ birthday rounds


def test_a_lie_about_the_public_address_costs_its_owner_1280_small_packets_and_rarely() -> None:
    world = Attacked()
    world.tell(NatFacts(mapping_varies=True, public_v4=AddrPort(VICTIM, 9)))
    before = len(world.to_victim())
    for _ in range(3600):  # asks every second for an hour
        world.guess()
        world.say(disco.GuessMyPort(1, 0, stop=True).encode())
        world.guess()
        world.run(1)
    packets = world.to_victim()[before:]
    attempts = 5  # at 0 s, 1 min, 6 min and 36 min, and one to spare
    assert 0 < len(packets) <= attempts * c.BIRTHDAY_GUESSES
    assert set(packets) == {152}
    assert world.busiest_second() <= 64 + c.PROBE_BURST + 16
    assert "birthday-not-now" in world.dropped


def test_one_round_ends_by_itself_and_the_ports_are_all_different() -> None:
    world = Attacked()
    world.tell(NatFacts(mapping_varies=True, public_v4=AddrPort(VICTIM, 9)))
    world.guess()
    world.run(40)
    ports = [path.addr.port for _, path, _ in world.udp if path.addr.host == VICTIM]
    assert len(ports) == len(set(ports)) == c.BIRTHDAY_GUESSES
    assert min(ports) >= c.LOWEST_PORT
    assert not world.core.path(world.key).birthday


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "192.168.1.1", "172.16.9.9", "127.0.0.1", "169.254.1.1", "100.64.0.9", "224.0.0.1",
             "255.255.255.255", "0.0.0.0", "240.0.0.1", "198.51.100.7"]
)  # fmt: skip
def test_nobody_makes_us_knock_at_private_or_our_own_addresses(host: str) -> None:
    world = Attacked()
    world.tell(NatFacts(mapping_varies=True, public_v4=AddrPort(host, 9)))
    world.guess()
    assert world.udp == []
    assert world.dropped[-1] == "birthday-refused"


def test_an_ipv6_address_is_not_guessable() -> None:
    assert not is_guessable(AddrPort("2001:db8::1", 9))
    assert is_guessable(AddrPort("203.0.113.9", 9))


def test_without_a_report_there_is_nothing_to_guess() -> None:
    world = Attacked()
    world.guess()
    assert world.udp == []
    assert world.dropped[-1] == "birthday-refused"


def test_an_idle_a_forbidden_and_a_switched_off_node_do_not_join() -> None:
    for world, why in (
        (Attacked(active=False), "birthday-not-now"),
        (Attacked(active=False, rules=PathRules(direct=DirectRule.NEVER)), "birthday-refused"),
        (Attacked(), "birthday-off"),
    ):
        if why == "birthday-off":
            world.core.set_birthday(False)
        world.tell(NatFacts(mapping_varies=True, public_v4=AddrPort(VICTIM, 9)))
        world.guess()
        assert world.udp == []
        assert world.dropped[-1] == why


def test_a_stranger_and_another_transport_are_not_heard() -> None:
    world = Attacked()
    stranger = DiscoPrivate(bytes(31) + b"\x40")
    message = disco.seal(stranger.public(), bytes(32), bytes(24), disco.GuessMyPort(1, 256).encode())
    world.do(world.core.receive_disco(message, DerpPath(HOME, world.key), T0))
    world.say(disco.GuessMyPort(1, 256).encode(), UdpPath(AddrPort(VICTIM, 5)))
    world.say(disco.Facts().encode(), UdpPath(AddrPort(VICTIM, 5)))
    assert world.dropped == ["unknown-disco-key", "facts-over-udp", "facts-over-udp"]
    assert world.udp == []
    assert world.core.path(world.key).remote is None


# ------------------------------------------------------------ the hard end


def hard_end() -> Attacked:
    world = Attacked(HARD)
    world.tell(NatFacts(udp=True, mapping_varies=False, public_v4=AddrPort(VICTIM, 41641)))
    return world


def test_the_hard_end_opens_256_sockets_pings_once_from_each_and_closes_them() -> None:
    world = hard_end()
    world.run(10)
    assert len(world.open) == c.BIRTHDAY_SOCKETS
    doors = [path for _, path, _ in world.udp if path.local]
    assert len(doors) == len(set(doors)) == c.BIRTHDAY_SOCKETS
    assert {path.addr for path in doors} == {AddrPort(VICTIM, 41641)}
    assert disco.GuessMyPort(1, 256) in [message for _, message in world.relayed]
    world.run(40)
    assert world.open == set()
    assert disco.GuessMyPort(1, 0, stop=True) in [message for _, message in world.relayed]


def test_pauses_grow_after_failures_and_a_rebind_ends_them() -> None:
    world = hard_end()
    world.run(3600)
    begun = [at for at, message in world.relayed if isinstance(message, disco.GuessMyPort) and message.sockets == 64]
    pauses = [round(later - earlier, -1) for earlier, later in pairwise(begun)]
    assert pauses == [60.0, 300.0, 1800.0]
    world.open.clear()  # what the transport does
    world.do(world.core.rebound(world.now))
    world.run(10)
    assert len(world.open) == c.BIRTHDAY_SOCKETS


def test_a_system_without_sockets_to_spare_is_no_failure() -> None:
    world = hard_end()
    world.sockets = 0
    world.run(30)
    assert world.open == set()
    assert not any(isinstance(message, disco.GuessMyPort) and message.sockets for _, message in world.relayed)


def test_removing_the_peer_forbidding_and_switching_off_close_the_sockets() -> None:
    for end in ("remove", "rules", "switch"):
        world = hard_end()
        world.run(10)
        assert len(world.open) == c.BIRTHDAY_SOCKETS
        if end == "remove":
            world.do(world.core.remove_peer(world.key))
        elif end == "rules":
            world.do(world.core.set_rules(PathRules(direct=DirectRule.NEVER), world.now))
        else:
            world.do(world.core.set_birthday(False))
        assert world.open == set()
        late = world.core.sockets_opened(world.key, [999], world.now)
        assert late == [CloseSockets((999,))]


# ------------------------------------------------------------ facts, and clocks


def test_a_flood_of_facts_is_counted_and_answered_rarely() -> None:
    world = Attacked()
    for number in range(1000):
        world.say(disco.Facts(PathReport(sent=number), ask=True).encode())
        world.run(0.01)
    answers = [message for _, message in world.relayed if isinstance(message, disco.Facts)]
    assert len(answers) <= 10 / c.REPORT_INTERVAL + 2
    assert world.dropped.count("facts-flood") > 900
    assert world.core.path(world.key).remote is not None


def test_forbidden_means_that_no_address_is_told() -> None:
    world = Attacked(active=False, rules=PathRules(direct=DirectRule.NEVER, set_by="the deployment"))
    world.run(2)
    world.say(disco.Facts(ask=True).encode())
    (told,) = [message for _, message in world.relayed]
    assert isinstance(told, disco.Facts)
    facts = told.report.facts
    assert (facts.direct_allowed, facts.direct_rule) == (False, "the deployment")
    assert (facts.public_v4, facts.public_v6, told.report.tried) == (None, None, ())


@pytest.mark.parametrize("jump", [-4000.0, 86400.0 * 365])
@pytest.mark.parametrize("facts", [EASY, HARD], ids=["easy", "hard"])
def test_a_clock_that_jumps_is_survived_and_opens_no_flood(jump: float, facts: NatFacts) -> None:
    world = Attacked(facts)
    other = NatFacts(udp=True, mapping_varies=not facts.mapping_varies, public_v4=AddrPort(VICTIM, 9))
    world.tell(other)
    world.guess()
    world.run(6)
    world.now += jump
    count = len(world.udp)
    for _ in range(50):
        world.guess()
        world.say(disco.CallMeMaybe(tuple(AddrPort(VICTIM, port) for port in range(1000, 1100))).encode())
        world.tell(other)
        world.do(world.core.route(world.key, world.now)[1])
        world.do(world.core.on_timer(world.now))
    assert len(world.udp) - count <= 2 * c.PROBE_BURST + c.BIRTHDAY_OPENED_PER_TICK + c.BIRTHDAY_GUESSES_PER_TICK


def test_at_most_two_attempts_at_once_whoever_asks() -> None:
    rng = Random(5).randbytes
    private = DiscoPrivate.generate(rng)
    core = Magicsock(NodePrivate.generate(rng).public(), private, rng=rng)
    core.set_local_facts(EASY, T0)
    keys = []
    sent: list[Effect] = []
    for number in range(4):
        far, key = DiscoPrivate.generate(rng), NodePrivate.generate(rng).public()
        shared = disco.precompute(far, private.public())
        assert shared is not None
        keys.append(key)
        core.upsert_peer(key, far.public(), home=HOME, endpoints=[], now=T0)
        core.route(key, T0)
        theirs = PathReport(NatFacts(mapping_varies=True, public_v4=AddrPort(f"203.0.113.{number + 1}", 9)))
        for message in (disco.Facts(theirs).encode(), disco.GuessMyPort(1, 256).encode()):
            packet = disco.seal(far.public(), shared, rng(24), message)
            sent += core.receive_disco(packet, DerpPath(HOME, key), T0)
    assert [core.path(key).birthday for key in keys] == [True, True, False, False]
    assert sent.count(Dropped("birthday-not-now")) == 2
