"""Commands and events of the Python API against a real server and agent: what happens when things end early."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import signal
import socket
import sys
import textwrap
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

import coder_agent
import coder_agent.blocking
from coder_agent.errors import ApiError, TransportBroken, TransportClosed
from coder_agent.hooks import Event
from coder_agent.testing.deployment import Deployment, kill, until

pytestmark = [pytest.mark.slow, pytest.mark.anyio, pytest.mark.usefixtures("as_the_user")]
NAPS = itertools.count(30_000_000 + os.getpid() * 100)
"""Seconds of sleep, each number once: a process of ours is found by it."""


@pytest.fixture(scope="module")
def place(api_place: Deployment) -> Deployment:
    """A server, a user, a workspace with its agent."""
    return api_place


def naps(seconds: int) -> list[int]:
    """Processes that sleep for so long."""
    wanted = f"sleep\0{seconds}\0".encode()
    return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if _content(path) == wanted]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


async def asleep(seconds: int) -> None:
    """Wait until the command runs."""
    await anyio.to_thread.run_sync(until, f"sleep {seconds}", lambda: naps(seconds))


async def gone(seconds: int) -> None:
    """Wait until nothing of it is left."""
    await anyio.to_thread.run_sync(until, f"no sleep {seconds}", lambda: not naps(seconds))


async def test_a_command_ends_with_its_timeout_its_block_and_its_task() -> None:
    async with coder_agent.connect("dev") as workspace:
        first, second, third = (next(NAPS) for _ in range(3))
        with pytest.raises(TimeoutError):
            await workspace.run(f"sleep {first}", timeout=0.5)
        async with workspace.start(["sleep", str(second)]) as command:
            await asleep(second)
            assert command.returncode is None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(workspace.run, f"sleep {third} & wait")
            await asleep(third)
            tasks.cancel_scope.cancel()
        for seconds in (first, second, third):
            await gone(seconds)
        assert (await workspace.run("echo alive")).text == "alive\n"


async def test_many_at_once_and_much_both_ways() -> None:
    sent = os.urandom(3_000_000)
    got: dict[int, bytes] = {}

    async def cat(workspace: coder_agent.Workspace, number: int) -> None:
        got[number] = (await workspace.run("cat", input=sent[number:])).stdout

    with anyio.fail_after(90):
        async with coder_agent.connect("dev") as workspace, anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(cat, workspace, number)
    assert got == {number: sent[number:] for number in range(8)}


async def test_what_is_not_read_waits_in_the_workspace(tmp_path: Path) -> None:
    """A command that prints without end does not fill our memory; its block ends it."""
    count = tmp_path / "count"
    loop = f"while dd if=/dev/zero bs=1M count=1 2>/dev/null; do printf x >> {count}; done"
    with anyio.fail_after(90):
        async with coder_agent.connect("dev") as workspace, workspace.start(loop) as command:
            assert await command.stdout.receive(10) == bytes(10)
            size = -1
            while not count.exists() or size != count.stat().st_size:  # until it stands still
                size = count.stat().st_size if count.exists() else -1
                await anyio.sleep(0.5)
            assert size < 40  # MB: windows and socket buffers


async def test_an_agent_that_dies_breaks_its_commands(place: Deployment) -> None:
    agent = place.start_agent(place.create("mortal"))
    with anyio.fail_after(60):
        async with (
            coder_agent.connect("mortal") as workspace,
            workspace.forward(22) as forward,
            workspace.start("echo ready; cat") as command,
            await anyio.connect_tcp(*forward.address) as stream,
        ):
            assert await command.stdout.receive() == b"ready\n"
            assert (await stream.receive()).startswith(b"SSH-2.0-")
            kill(agent)
            with pytest.raises(TransportBroken, match="ended before the command did"):
                await command.wait()
            with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
                await command.stdout.receive()
            with pytest.raises(anyio.BrokenResourceError):
                await stream.receive()


async def test_an_awaited_workspace_is_closed_by_any_task() -> None:
    workspace = await coder_agent.connect("dev")

    async def close() -> None:
        await workspace.aclose()
        await workspace.aclose()  # once more does nothing

    await asyncio.create_task(close())
    with pytest.raises(ApiError, match="workspace nope not found"):
        await coder_agent.connect("nope")


async def test_awaiting_a_workspace_can_be_cancelled() -> None:
    before = asyncio.all_tasks()
    with socket.create_server(("127.0.0.1", 0)) as silent, anyio.move_on_after(0.1) as scope:
        await coder_agent.connect("dev", url=f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert scope.cancelled_caught
    assert asyncio.all_tasks() == before


async def test_events_end_with_the_workspace() -> None:
    with anyio.fail_after(90):
        async with coder_agent.connect("dev") as workspace:
            await workspace.wait_direct()
            events = workspace.events()
            called: list[Event] = []
            end = workspace.on_event(called.append)
        heard = [event async for event in events]
        end()
    kinds = {type(event) for event in heard}
    assert {coder_agent.PathChanged, coder_agent.PeerChanged, coder_agent.ControlChanged} <= kinds
    paths = [event.path for event in heard if isinstance(event, coder_agent.PathChanged)]
    assert re.match(r"([\d.]+|\[[\da-f:]+\]):\d+$|derp:", paths[0]), paths  # whichever answered first


def test_blocking_twins(place: Deployment) -> None:
    workspace = coder_agent.blocking.connect("dev")
    events = workspace.events(coder_agent.ControlChanged)
    assert events.wait(timeout=5) == coder_agent.ControlChanged(True)
    with pytest.raises(TimeoutError):
        events.wait(timeout=0.05)
    with workspace.start("cat; exit 7") as command:
        command.stdin.send(b"one")
        assert command.stdout.receive(timeout=10) == b"one"
        with pytest.raises(TimeoutError):
            command.wait(timeout=0.05)
        command.stdin.close()
        assert (command.wait(timeout=10), command.returncode, list(command.stderr)) == (7, 7, [])
    assert workspace.explain().summary
    workspace.close()
    workspace.close()
    assert list(events) == []
    with pytest.raises(TransportClosed):
        workspace.run("true")


def test_an_interrupt_cancels_a_blocking_command_and_the_end_of_a_program_closes(
    place: Deployment, tmp_path: Path
) -> None:
    """Ctrl-C in a program of its own, which then goes on, and ends without closing."""
    seconds = next(NAPS)
    script = tmp_path / "program.py"
    script.write_text(
        textwrap.dedent(f"""
            import coder_agent.blocking
            workspace = coder_agent.blocking.connect("dev")
            try:
                print("begun", flush=True)
                workspace.run("sleep {seconds}")
            except KeyboardInterrupt:
                print(workspace.run("echo it goes on").text, flush=True)
        """),
        "utf-8",
    )
    program = place.start(place.user, sys.executable, "-W", "error", str(script))
    program.wait_for("begun")
    until("the command runs", lambda: naps(seconds))
    program.process.send_signal(signal.SIGINT)
    assert program.wait(30) == 0
    assert "it goes on" in program.output
    assert "Traceback" not in program.output
    until("the command is gone", lambda: not naps(seconds))
