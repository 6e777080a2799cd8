"""Waits that end early, and deadlines that move."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import anyio
import pytest
from coder_agent_apps_webproxy.waits import Deadline, Stopped, Waits

from coder_agent.hooks.web_apps import ReadyStream
from coder_agent.testing.virtual_time import VirtualLoop

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "asyncio", {"loop_factory": VirtualLoop}


class Still:
    """A stream on which nothing happens until somebody says so."""

    on_news: Callable[[], None] | None = None

    def receive_nowait(self) -> bytes | None:
        return None

    def send_nowait(self, item: bytes) -> bool:
        return True


async def test_a_deadline_that_moves_fires_once_at_its_last_place() -> None:
    loop, late = asyncio.get_running_loop(), []
    deadline = Deadline(loop, lambda: late.append(loop.time()))
    began = loop.time()
    for _ in range(10):
        deadline.move(60)
        await anyio.sleep(30)
    assert late == []
    await anyio.sleep(100)
    assert [round(at - began) for at in late] == [330]


async def test_a_deadline_can_come_nearer_and_be_taken_back() -> None:
    loop, late = asyncio.get_running_loop(), []
    deadline = Deadline(loop, lambda: late.append(loop.time()))
    began = loop.time()
    deadline.move(300)
    deadline.move(10)
    await anyio.sleep(20)
    assert [round(at - began) for at in late] == [10]
    deadline.move(10)
    deadline.move(None)
    await anyio.sleep(1000)
    deadline.move(10)
    deadline.close()
    await anyio.sleep(1000)
    assert len(late) == 1


async def test_news_wakes_whoever_waits() -> None:
    stream, waits = Still(), Waits(asyncio.get_running_loop())
    assert isinstance(stream, ReadyStream)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(waits.news, stream)
        await anyio.sleep(1)
        assert stream.on_news is not None
        stream.on_news()
        stream.on_news()
    assert stream.on_news is None


async def test_stopping_ends_all_waits_and_those_to_come() -> None:
    stream, waits = Still(), Waits(asyncio.get_running_loop())
    ended = []

    async def wait(how: Callable[[], object]) -> None:
        with pytest.raises(Stopped):
            await how()  # type: ignore[misc]
        ended.append(how)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait, lambda: waits.news(stream))
        tasks.start_soon(wait, lambda: waits.run(anyio.sleep_forever))
        await anyio.sleep(1)
        waits.deadline.move(5)
        await anyio.sleep(4)
        assert not ended
        await anyio.sleep(2)
    assert len(ended) == 2
    await wait(lambda: waits.news(stream))
    await wait(lambda: waits.run(lambda: anyio.sleep(1)))
    assert stream.on_news is None


async def test_being_cancelled_is_not_being_stopped() -> None:
    stream, waits = Still(), Waits(asyncio.get_running_loop())
    with anyio.move_on_after(3) as scope:
        await waits.news(stream)
    with anyio.move_on_after(3) as other:
        await waits.run(anyio.sleep_forever)
    assert scope.cancelled_caught
    assert other.cancelled_caught
    assert not waits.stopped
    assert stream.on_news is None
