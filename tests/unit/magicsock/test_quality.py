"""The choice between a direct path and the relay: the rule as a table, the measuring step by step."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coder_agent.base.addresses import AddrPort
from coder_agent.base.flow import Flow
from coder_agent.base.paths import PathQuality, RelayQuality
from coder_agent.magicsock import constants as c
from coder_agent.magicsock.policy import DefaultPathPolicy
from coder_agent.magicsock.quality import Quality

DIRECT = PathQuality(AddrPort("198.51.100.7", 41641), latency=0.02)
RELAY = RelayQuality(1, latency=0.04)
POLICY = DefaultPathPolicy()


@pytest.mark.parametrize(
    ("direct", "relay", "relayed", "backlog", "prefers"),
    [
        # The direct path carries.
        ({}, {}, False, False, False),
        ({"loss": 0.3}, {}, False, False, False),  # nobody waits for more
        ({"loss": 0.04}, {}, False, True, False),  # CUBIC's own
        ({"loss": None}, {}, False, True, False),
        ({"loss": 0.1}, {}, False, True, True),  # a trial: the relay's speed is not known
        ({"loss": 0.1, "goodput": 1e6}, {"goodput": 1.4e6}, False, True, False),
        ({"loss": 0.1, "goodput": 1e6}, {"goodput": 1.5e6}, False, True, True),
        # The relay carries.
        ({}, {"goodput": 9e6}, True, True, False),  # a trial of the direct path
        ({"goodput": 1e6}, {"goodput": 9e6}, True, True, True),
        ({"goodput": 7.9e6}, {"goodput": 1e7}, True, True, True),
        ({"goodput": 8e6}, {"goodput": 1e7}, True, True, False),
        ({"goodput": 1e6}, {"goodput": 9e6}, True, False, True),  # idle: no reason to change before its time
        ({"goodput": 1e6}, {}, True, True, True),
        # Ways around the world.
        ({"latency": 0.18}, {"latency": 0.04}, False, False, False),
        ({"latency": 0.19}, {"latency": 0.04}, False, False, True),
        ({"latency": 0.19}, {"latency": None}, False, False, False),
        ({"latency": 0.12}, {"latency": 0.04}, True, False, True),
        ({"latency": 0.10}, {"latency": 0.04}, True, False, False),
    ],
)
def test_prefers_relay(
    direct: dict[str, float | None], relay: dict[str, float | None], relayed: bool, backlog: bool, prefers: bool
) -> None:
    a, b = replace(DIRECT, **direct), replace(RELAY, **relay)  # type: ignore[arg-type]
    assert POLICY.prefers_relay(a, b, relayed=relayed, backlog=backlog) is prefers


class Link:
    """Feeds a Quality with what a sender sees; each step is one window."""

    def __init__(self, now: float = 100.0) -> None:
        self.quality, self.now, self.flow = Quality(), now, Flow(rtt=0.02)

    def step(self, sent: int, lost: float = 0.0, *, backlog: bool = True) -> bool:
        resent = int(sent * lost)
        flow = self.flow
        self.flow = replace(
            flow,
            sent=flow.sent + sent,
            resent=flow.resent + resent,
            acked=flow.acked + sent - resent,
            has_backlog=backlog,
        )
        self.now += c.QUALITY_WINDOW
        return self.quality.note(self.flow, DIRECT, RELAY, POLICY, self.now)

    def is_relayed(self) -> bool:
        return self.quality.relayed

    def steps(self, count: int, sent: int, lost: float = 0.0, *, backlog: bool = True) -> list[bool]:
        return [self.step(sent, lost, backlog=backlog) for _ in range(count)]


def policed() -> Link:
    """A direct path that loses a fifth, and was left for the relay."""
    link = Link()
    while not link.step(30_000, 0.2):
        assert link.now < 103.0, "it is left within three seconds"
    return link


def test_a_lossy_path_with_a_backlog_is_left_after_six_windows() -> None:
    link = Link()
    assert link.steps(c.QUALITY_WINDOWS, 30_000, 0.2) == [False] * c.QUALITY_WINDOWS  # the first only begins
    assert link.step(30_000, 0.2)
    assert link.is_relayed()


@pytest.mark.parametrize(
    ("sent", "lost", "backlog"),
    [(30_000, 0.01, True), (30_000, 0.2, False), (1_000, 0.2, True), (30_000, 0.0, True)],
    ids=["little loss", "no backlog", "too few bytes to tell", "healthy"],
)
def test_it_is_not_left_without_reason(sent: int, lost: float, backlog: bool) -> None:
    link = Link()
    assert not any(link.steps(40, sent, lost, backlog=backlog))


def test_one_burst_of_loss_is_how_tcp_finds_the_end_of_a_queue() -> None:
    link = Link()
    link.steps(4, 30_000)
    assert not any([link.step(30_000, 0.9), *link.steps(20, 30_000)])


def test_what_was_too_large_is_no_loss() -> None:
    link = Link()
    link.steps(6, 30_000, 0.2)
    link.quality.excuse(link.now + 1.0)
    assert not any(link.steps(5, 30_000, 0.2))


def test_a_relay_that_is_faster_stays_until_the_direct_path_has_its_trial() -> None:
    link = policed()
    left = link.now
    while not link.step(300_000):
        assert link.now < left + c.DIRECT_RETRY + 1
    assert link.now - left >= c.DIRECT_RETRY
    assert not link.is_relayed()
    trial = link.now
    while not link.step(30_000, 0.2):
        assert link.now < trial + 1.5, "a trial is judged by three windows"
    assert link.is_relayed()
    again = link.now
    while not link.step(300_000):
        assert link.now < again + 2 * c.DIRECT_RETRY + 1
    assert link.now - again >= 2 * c.DIRECT_RETRY, "the next trial comes later"


def test_a_path_that_became_good_is_kept_after_its_trial() -> None:
    link = policed()
    while not link.step(300_000):
        pass
    assert not any(link.steps(200, 400_000))
    assert not link.is_relayed()


def test_after_a_pause_a_direct_path_is_taken_back_without_a_trial() -> None:
    link = policed()
    link.now += c.DIRECT_RETRY_MAX
    assert link.step(100, backlog=False)
    assert not link.is_relayed()


def test_a_relay_that_does_not_answer_is_left_and_not_tried_soon() -> None:
    link = policed()
    link.quality.relay_failed(link.now)
    assert not link.is_relayed()
    failed = link.now
    while not link.step(30_000, 0.2):
        assert link.now < failed + 2 * c.RELAY_RETRY
    assert link.now - failed >= c.RELAY_RETRY


def test_what_was_asked_by_the_former_way_is_not_missing_by_this_one() -> None:
    link = policed()
    changed, quality = link.now, link.quality
    assert quality.as_of_change(Flow(unanswered_since=changed - 1)).unanswered_since == changed
    assert quality.as_of_change(Flow(unanswered_since=changed + 1)).unanswered_since == changed + 1
    assert quality.as_of_change(Flow()).unanswered_since is None
    assert quality.as_of_change(Flow(patience=0.1)).patience == c.RELAY_PATIENCE
    assert Quality().as_of_change(Flow(patience=0.1)).patience == 0.1


def test_figures_are_believed_for_their_time_only() -> None:
    link = policed()
    direct, _ = link.quality.figures(DIRECT, RELAY, link.now)
    assert direct.loss == pytest.approx(0.2, abs=0.01)
    assert direct.goodput == pytest.approx(24_000 / c.QUALITY_WINDOW, rel=0.01)
    direct, relay = link.quality.figures(DIRECT, RELAY, link.now + c.DIRECT_RETRY + 0.1)
    assert direct == DIRECT
    assert relay == RELAY
