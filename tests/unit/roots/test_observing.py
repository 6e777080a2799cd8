"""Events of a workspace: state first, bounded memory, nobody's failure is another's."""

from __future__ import annotations

import gc
import logging

import anyio
import pytest

from coder_agent.base.keys import NodePrivate
from coder_agent.base.paths import PathKind
from coder_agent.hooks.events import ControlChanged, Event, OutsideRefused, PathChanged, RelayChanged
from coder_agent.observing import MAX_KEPT, EventHub, Events

pytestmark = pytest.mark.anyio
PEER = NodePrivate(bytes(range(32))).public()
DIRECT = PathChanged(PEER, PathKind.DIRECT, "192.0.2.1:1", "derp:1", "pong")
RELAYED = PathChanged(PEER, PathKind.RELAYED, "derp:1", "", "first-send")


def hub() -> EventHub:
    return EventHub(lambda event: None)


async def read(events: Events[Event]) -> list[Event]:
    return [event async for event in events]


async def test_a_reader_hears_how_things_stand_and_then_what_changes() -> None:
    first: list[Event] = []
    made = EventHub(first.append)
    made(RELAYED)
    made(ControlChanged(True))
    made(OutsideRefused("dns", "example.com:53", "", "policy"))  # nothing that stands
    made(DIRECT)
    events: Events[Event] = made.add(Events())
    made(RelayChanged(1, True))
    made.close()
    assert await read(events) == [ControlChanged(True), DIRECT, RelayChanged(1, True)]
    assert len(first) == 5


async def test_only_the_kinds_that_were_asked_for() -> None:
    made = hub()
    events = made.add(Events((ControlChanged,)))
    made(DIRECT)
    made(ControlChanged(False, "gone"))
    made.close()
    assert [event.reason async for event in events] == ["gone"]


async def test_a_slow_reader_loses_the_oldest_and_knows() -> None:
    made = hub()
    events: Events[Event] = made.add(Events(limit=3))
    for region in range(5):
        made(RelayChanged(region, True))
    made.close()
    assert await read(events) == [RelayChanged(region, True) for region in (2, 3, 4)]
    assert events.dropped == 2


async def test_a_reader_that_waits_is_woken_by_an_event_and_by_the_end() -> None:
    made = hub()
    events: Events[Event] = made.add(Events())
    got: list[Event] = []

    async def follow() -> None:
        async for event in events:
            got.append(event)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            await anyio.wait_all_tasks_blocked()
            made(DIRECT)
            await anyio.wait_all_tasks_blocked()
            assert got == [DIRECT]
            made.close()


async def test_a_cancelled_wait_loses_nothing() -> None:
    made = hub()
    events: Events[Event] = made.add(Events())
    with anyio.move_on_after(0):
        await anext(events)
    made(DIRECT)
    assert events.take() == DIRECT
    assert events.take() is None


async def test_readers_that_nobody_holds_are_forgotten() -> None:
    made = hub()
    made.add(Events())
    gc.collect()
    assert not list(made._readers)


async def test_a_callback_that_fails_hears_no_more(caplog: pytest.LogCaptureFixture) -> None:
    made, heard = hub(), list[Event]()
    times = 0

    def broken(event: Event) -> None:
        nonlocal times
        times += 1
        raise RuntimeError("mine")

    made.subscribe(broken)
    end = made.subscribe(heard.append)
    with caplog.at_level(logging.ERROR):
        made(DIRECT)
        made(RELAYED)
    end()
    end()
    made(DIRECT)
    assert (times, heard) == (1, [DIRECT, RELAYED])
    assert "hears no more" in caplog.text


async def test_what_stands_is_bounded() -> None:
    made = hub()
    for region in range(MAX_KEPT + 10):
        made(RelayChanged(region, True))
    events = made.add(Events((RelayChanged,)))
    made.close()
    assert [event.region async for event in events] == list(range(10, MAX_KEPT + 10))
