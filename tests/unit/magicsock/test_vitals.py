"""How a way that is in use is measured: loss of a direct path, latency and loss of a relay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import pytest

from coder_agent.base.addresses import AddrPort
from coder_agent.base.keys import DiscoPrivate, NodePrivate, NodePublic
from coder_agent.base.path_rules import NO_RULES, DirectRule, PathRules
from coder_agent.base.paths import DerpPath, Path, PathKind, UdpPath
from coder_agent.magicsock import Effect, Magicsock
from coder_agent.magicsock import constants as c
from coder_agent.magicsock.vitals import Vitals
from coder_agent.protocols.effects import SendRaw

T0 = 5000.0
LAN = AddrPort("192.168.1.20", 41641)
OURS = AddrPort("192.168.1.10", 41641)
RELAY_DELAY, LAN_DELAY = 0.04, 0.002
NEVER = PathRules(direct=DirectRule.NEVER, set_by="the test")


def test_loss_is_of_the_last_pings_of_one_way() -> None:
    vitals = Vitals()
    lan, wan = UdpPath(LAN), UdpPath(AddrPort("203.0.113.20", 41641))
    for answered in (True, False):
        vitals.note(lan, answered=answered)
    assert vitals.loss(lan) is None  # two say nothing
    vitals.note(lan, answered=True)
    assert vitals.loss(lan) == pytest.approx(1 / 3)
    assert vitals.loss(wan) is None
    for _ in range(c.LOSS_PINGS):
        vitals.note(lan, answered=True)
    assert vitals.loss(lan) == 0
    vitals.note(wan, answered=False)
    assert vitals.loss(lan) is None


class Pair:
    """Two cores with time of their own between them. `lose`: which packets do not arrive, by number and path."""

    def __init__(self, rules: PathRules = NO_RULES) -> None:
        rng = Random(11).randbytes
        nodes = [NodePrivate.generate(rng).public() for _ in range(2)]
        privates = [DiscoPrivate.generate(rng) for _ in range(2)]
        self.now = T0
        self.keys: list[NodePublic] = nodes
        self.lan = rules is NO_RULES
        self.lose: Callable[[int, Path], bool] = lambda number, path: False
        self.cores = [Magicsock(nodes[at], privates[at], rng=rng, rules=rules) for at in range(2)]
        self._waiting: list[tuple[float, int, int, Path, bytes]] = []
        self._count = 0
        for at, core in enumerate(self.cores):
            core.set_local_endpoints([OURS, LAN][at : at + 1], T0)
            there = [LAN, OURS][at]
            self.send(at, core.upsert_peer(nodes[1 - at], privates[1 - at].public(), home=1, endpoints=[there], now=T0))

    def send(self, at: int, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if not isinstance(effect, SendRaw):
                continue
            relayed = isinstance(effect.path, DerpPath)
            self._count += 1
            if self.lose(self._count, effect.path) or (not relayed and not self.lan):
                continue
            came: Path = DerpPath(1, self.keys[at]) if relayed else UdpPath([OURS, LAN][at])
            due = self.now + (RELAY_DELAY if relayed else LAN_DELAY)
            self._waiting.append((due, self._count, 1 - at, came, bytes(effect.data)))

    def run(self, seconds: float, *, busy: bool = True) -> None:
        """Both talk to each other once a second, if they are `busy`."""
        end = self.now + seconds
        next_packet = self.now
        while self.now < end:
            timers = [core.deadline() or end for core in self.cores]
            self.now = max(self.now, min(end, next_packet, *timers, *(one[0] for one in self._waiting)))
            arrived = sorted(one for one in self._waiting if one[0] <= self.now)
            self._waiting = [one for one in self._waiting if one[0] > self.now]
            for _, _, to, path, data in arrived:
                self.send(to, self.cores[to].receive_disco(data, path, self.now))
            for at, core in enumerate(self.cores):
                self.send(at, core.on_timer(self.now))
                if busy and self.now >= next_packet:
                    self.send(at, core.route(self.keys[1 - at], self.now)[1])
            if self.now >= next_packet:
                next_packet = self.now + 1


def test_a_direct_path_in_use_has_its_loss() -> None:
    pair = Pair()
    pair.run(15)
    status = pair.cores[0].path(pair.keys[1])
    assert (status.kind, status.loss) == (PathKind.DIRECT, 0.0)
    dice = Random(5)
    pair.lose = lambda number, path: isinstance(path, UdpPath) and dice.random() < 0.1
    pair.run(240)
    loss = pair.cores[0].path(pair.keys[1]).loss
    assert loss is not None
    assert 0 < loss < 0.5


@pytest.mark.parametrize("rules", [NO_RULES, NEVER], ids=["no way", "forbidden"])
def test_a_relay_in_use_is_measured_as_long_as_somebody_talks(rules: PathRules) -> None:
    pair = Pair(rules)
    pair.lan = False
    pair.run(20)
    status = pair.cores[0].path(pair.keys[1])
    assert (status.kind, status.active, status.loss) == (PathKind.RELAYED, True, 0.0)
    assert status.latency == pytest.approx(2 * RELAY_DELAY)
    pair.lose = lambda number, path: isinstance(path, DerpPath)
    pair.run(70)
    assert pair.cores[0].path(pair.keys[1]).loss == 1.0
    pair.run(120, busy=False)
    assert not pair.cores[0].path(pair.keys[1]).active
    assert pair.cores[0].deadline() is None


def test_a_relay_is_left_alone_while_the_direct_path_is_good() -> None:
    pair = Pair()
    pair.run(10)
    relayed: list[int] = []
    pair.lose = lambda number, path: isinstance(path, DerpPath) and bool(relayed.append(number))  # type: ignore[func-returns-value]
    pair.run(40)
    assert relayed == []
    pair.lose = lambda number, path: False
    pair.lan = False  # it ends, and the relay carries again
    pair.run(40)
    status = pair.cores[0].path(pair.keys[1])
    assert (status.kind, status.loss) == (PathKind.RELAYED, 0.0)
    assert status.latency == pytest.approx(2 * RELAY_DELAY)
