"""The clock that jumps."""

from __future__ import annotations

import socket
import time

import anyio
import pytest

from coder_agent.testing.virtual_time import VirtualLoop

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "asyncio", {"loop_factory": VirtualLoop}


async def test_an_hour_of_sleep_takes_no_time() -> None:
    before, really_before = anyio.current_time(), time.monotonic()
    await anyio.sleep(3600)
    assert anyio.current_time() - before == pytest.approx(3600)
    assert time.monotonic() - really_before < 60


async def test_timers_fire_in_the_order_of_their_deadlines() -> None:
    fired: list[float] = []

    async def at(seconds: float) -> None:
        await anyio.sleep(seconds)
        fired.append(seconds)

    async with anyio.create_task_group() as tasks:
        for seconds in (30.0, 10.0, 20.0, 10.5):
            tasks.start_soon(at, seconds)
    assert fired == [10.0, 10.5, 20.0, 30.0]


async def test_a_timeout_strikes_at_its_time() -> None:
    start = anyio.current_time()
    with anyio.move_on_after(5) as scope:
        await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert anyio.current_time() - start == pytest.approx(5)


async def test_data_that_is_there_comes_before_any_timer() -> None:
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        right.send(b"x")
        with anyio.fail_after(0.001):
            await anyio.wait_readable(left)
        assert left.recv(1) == b"x"
