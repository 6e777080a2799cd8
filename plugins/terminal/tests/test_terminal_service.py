"""The agent's side with real pseudo-terminals and real shells."""

from __future__ import annotations

import hashlib
import os
import re
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import anyio
import anyio.abc
import pytest
from anyio.streams.stapled import StapledObjectStream
from coder_agent_terminal.protocol import End, Ending, Init, Input, MarkReader, Size, Start
from coder_agent_terminal.service import TerminalService
from coder_agent_terminal.settings import TerminalSettings

from coder_agent.hooks import AgentFacts
from coder_agent.sessions import members

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(os.name != "posix", reason="needs pseudo-terminals")]
SHELL = "/bin/sh"
Stream = StapledObjectStream[bytes]
PATIENCE = 60.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Screen:
    """A viewer: what it was sent so far, and how the terminal ended."""

    stream: Stream
    seen: bytes = b""
    end: End | None = None
    is_over: bool = False
    marks: MarkReader = field(default_factory=MarkReader)

    async def type(self, text: str) -> None:
        await self.stream.send(Input(text).encode())

    async def resize(self, height: int, width: int) -> None:
        await self.stream.send(Input(size=Size(height, width)).encode())

    async def until(self, pattern: str) -> re.Match[bytes]:
        """Read until `pattern` was seen."""
        with anyio.move_on_after(PATIENCE):
            while (found := re.search(pattern.encode(), self.seen)) is None:
                assert await self.receive(), f"the stream ended without {pattern!r}: {self.seen!r}"
            return found
        raise AssertionError(f"{pattern!r} never came: {self.seen!r}")

    async def rest(self) -> bytes:
        """Everything until the stream ends."""
        with anyio.fail_after(PATIENCE):
            while await self.receive():
                pass
        return self.seen

    async def receive(self) -> bool:
        try:
            self.seen += self.marks.feed(await self.stream.receive())
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            if not self.is_over:
                rest, self.end = self.marks.end()
                self.seen += rest
            self.is_over = True
        return not self.is_over


@dataclass
class Agent:
    """The service, and connections to it."""

    service: TerminalService
    tasks: anyio.abc.TaskGroup
    streams: list[Stream] = field(default_factory=list)

    async def connect(self) -> Stream:
        """A bare connection, before the opening message."""
        up_in, up_out = anyio.create_memory_object_stream[bytes](2)
        down_in, down_out = anyio.create_memory_object_stream[bytes](2)
        ours, theirs = StapledObjectStream(up_in, down_out), StapledObjectStream(down_in, up_out)
        self.streams += [ours, theirs]
        self.tasks.start_soon(self._serve, theirs)
        return ours

    async def _serve(self, stream: Stream) -> None:
        async with stream:
            await self.service.serve(cast(anyio.abc.ByteStream, stream))

    async def attach(self, id: UUID, **fields: Any) -> Screen:
        stream = await self.connect()
        await stream.send(Init(id, **{"size": Size(24, 80), **fields}).encode())
        return Screen(stream)

    @property
    def terminals(self) -> int:
        assert self.service._sessions is not None
        return len(self.service._sessions)

    async def gone(self, count: int = 0) -> None:
        """Wait until so many terminals are left."""
        await until(lambda: self.terminals == count)


@asynccontextmanager
async def agent(tmp_path: Path, environment: dict[str, str] | None = None, **settings: Any) -> AsyncIterator[Agent]:
    facts = AgentFacts(
        "http://coder.test",
        uuid4(),
        uuid4(),
        "main",
        "dev",
        "alice",
        str(tmp_path),
        {"PS1": "$ ", **(environment or {})},
    )
    service = TerminalService(TerminalSettings(**{"shell": SHELL, **settings}))
    async with service.open(lambda: facts), anyio.create_task_group() as tasks:
        place = Agent(service, tasks)
        try:
            yield place
        finally:
            tasks.cancel_scope.cancel()
            for stream in place.streams:
                await anyio.aclose_forcefully(stream)


async def until(look: Callable[[], bool]) -> None:
    """For what another process does."""
    with anyio.fail_after(PATIENCE):
        while not look():  # noqa: ASYNC110 - nobody tells us
            await anyio.sleep(0.01)


def alive(pid: int) -> bool:
    """Is this process there, and not just waiting to be reaped?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def dead(*pids: int) -> None:
    await until(lambda: not any(alive(pid) for pid in pids))


async def test_a_login_shell_has_a_terminal_a_place_and_the_workspaces_variables(tmp_path: Path) -> None:
    async with agent(tmp_path, {"FLAVOUR": "mint"}) as place:
        screen = await place.attach(uuid4())
        await screen.type("echo =$CODER,$CODER_WORKSPACE_NAME,$CODER_WORKSPACE_OWNER_NAME,$TERM,$FLAVOUR=\r")
        await screen.until("=true,dev,alice,xterm-256color,mint=")
        await screen.type("echo; stty size; pwd; tty; ps -o tpgid= -o pgid= -p $$\r")
        await screen.until(r"\n24 80\r\n")
        await screen.until(f"\n{tmp_path}\r\n/dev/pts/\\d+\r\n")
        found = await screen.until(r"\n *(\d+) +(\d+)\r\n")  # job control works: the shell is no background job
        assert int(found[2]) > 0


async def test_the_agents_own_token_is_not_in_the_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODER_AGENT_TOKEN", "very-secret")
    async with agent(tmp_path) as place:
        screen = await place.attach(uuid4(), command="env; echo done")
        assert b"done" in await screen.rest()
        assert b"very-secret" not in screen.seen


async def test_a_command_runs_and_its_status_is_shown(tmp_path: Path) -> None:
    async with agent(tmp_path) as place:
        plain = await place.attach(uuid4(), command="echo hello; exit 3")
        assert await plain.rest() == b"hello\r\n\r\n[exited with status 3]\r\n"
        marked = await place.attach(uuid4(), command="kill -9 $$", marks=True)
        assert await marked.rest() == b""
        assert (marked.marks.start, marked.end) == (Start(), End(Ending.EXITED, 137))
        await place.gone()


async def test_the_same_identity_finds_the_same_shell_and_what_it_wrote(tmp_path: Path) -> None:
    async with agent(tmp_path) as place:
        id = uuid4()
        first = await place.attach(id, marks=True)
        await first.type("fruit=apple; echo plan''ted\r")
        await first.until("planted\r\n")
        assert first.marks.start == Start()
        await first.stream.aclose()
        second = await place.attach(id, marks=True)
        await second.until("planted\r\n")
        assert second.marks.start == Start(len(first.seen))
        await second.type("echo =$fruit=\r")
        await second.until("=apple=")
        assert place.terminals == 1
        stranger = await place.attach(uuid4())
        await stranger.type("echo =$fruit=\r")
        await stranger.until("==")
        assert place.terminals == 2


async def test_several_viewers_see_the_same_and_the_last_size_wins(tmp_path: Path) -> None:
    async with agent(tmp_path) as place:
        id = uuid4()
        first = await place.attach(id)
        await first.type("echo fir''st\r")
        await first.until("first\r\n")
        second = await place.attach(id, size=Size(30, 100))
        await second.until("first\r\n")
        await second.type("echo; stty size\r")
        await first.until(r"\n30 100\r\n")
        await first.resize(40, 120)
        await first.type("echo; stty size\r")
        await second.until(r"\n40 120\r\n")
        await second.type("exit 5\r")
        for screen in (first, second):
            await screen.until(r"exited with status 5")
            assert not await screen.receive()


async def test_a_program_in_front_is_told_of_a_new_size(tmp_path: Path) -> None:
    async with agent(tmp_path) as place:
        screen = await place.attach(uuid4(), command="trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done")
        await screen.until("ready")
        await screen.resize(11, 22)
        await screen.until("\n11 22\r\n")


async def test_reattaching_asks_the_program_in_front_to_paint_again(tmp_path: Path) -> None:
    async with agent(tmp_path) as place:
        id = uuid4()
        command = "trap 'echo painted' WINCH; echo ready; while :; do sleep 0.05; done"
        await (await place.attach(id, command=command)).until("ready")
        await (await place.attach(id, command=command)).until("painted")


async def test_a_replay_is_64_kib_at_most(tmp_path: Path) -> None:
    async with agent(tmp_path) as place:
        id = uuid4()
        first = await place.attach(id, command="seq 1 30000; echo end; sleep 60")
        await first.until("\nend\r\n")
        second = await place.attach(id)
        await second.until("\nend\r\n")
        assert 60_000 < len(second.seen) <= 65_536
        assert first.seen.endswith(second.seen)
        assert re.match(rb"\d{5}\r\n", second.seen)


async def test_a_terminal_ends_when_nobody_looks_but_never_before(tmp_path: Path) -> None:
    async with agent(tmp_path, idle_timeout=0.3) as place:
        id = uuid4()
        screen = await place.attach(id, command="echo pid $$; cat", marks=True)
        pid = int((await screen.until(r"pid (\d+)\r"))[1])
        for number in range(20):  # six times as long as the time-out, without a break
            await anyio.sleep(0.1)
            await screen.type(f"{number}\r")
            await screen.until(f"{number}\r\n{number}\r\n")
        assert alive(pid)
        await screen.stream.aclose()
        await place.gone()
        await dead(pid)


async def test_everything_in_the_terminal_ends_with_it_but_what_ignores_hang_ups(tmp_path: Path) -> None:
    async with agent(tmp_path, idle_timeout=0.05) as place:
        id = uuid4()
        screen = await place.attach(
            id,
            command="echo leader $$; sleep 1000 & echo job $!; sh -c \"trap '' TERM; sleep 1001\" & echo stubborn $!; "
            "nohup sleep 1002 >/dev/null 2>&1 & echo kept $!; wait",
        )
        pids = {
            name: int((await screen.until(rf"{name} (\d+)\r"))[1]) for name in ("leader", "job", "stubborn", "kept")
        }
        assert {pids["leader"], pids["job"], pids["stubborn"], pids["kept"]} <= set(members(pids["leader"]))
        await screen.until("kept")
        await ignores_hangup(pids["kept"])
        await screen.stream.aclose()
        await place.gone()
        try:
            await dead(pids["leader"], pids["job"], pids["stubborn"])
            assert members(pids["leader"]) == [pids["kept"]]
        finally:
            os.kill(pids["kept"], signal.SIGKILL)


async def ignores_hangup(pid: int) -> None:
    """Wait until `nohup` has done its work."""
    status = Path(f"/proc/{pid}/status")
    await until(lambda: bool(int(re.findall(r"SigIgn:\s+(\w+)", status.read_text())[0], 16) & 1))


async def test_a_shell_that_ignores_hang_ups_is_killed_with_the_agent(tmp_path: Path) -> None:
    async with agent(tmp_path) as place:
        screen = await place.attach(uuid4(), command="trap '' HUP TERM INT; echo pid $$; while :; do sleep 0.1; done")
        pid = int((await screen.until(r"pid (\d+)\r"))[1])
        assert alive(pid)
    assert not alive(pid)


async def test_a_background_job_of_a_shell_that_exited_gets_a_hang_up(tmp_path: Path) -> None:
    async with agent(tmp_path) as place:
        screen = await place.attach(uuid4(), command="sleep 1000 & echo job $!; exit 0")
        job = int((await screen.until(r"job (\d+)\r"))[1])
        await screen.rest()
        await dead(job)


async def test_a_slow_viewer_stalls_nobody_and_is_let_go(tmp_path: Path) -> None:
    async with agent(tmp_path) as place:
        id = uuid4()
        slow = await place.attach(id, command="read x; seq 1 1000000; echo end; read x")
        fast = await place.attach(id)
        await fast.type("\r")
        await fast.until("\nend\r\n")
        assert b"\n999999\r\n" in fast.seen
        await slow.rest()  # what the sockets held, then the end
        assert b"\nend\r\n" not in slow.seen
        again = await place.attach(id)
        await again.until("\nend\r\n")


async def test_a_lone_slow_viewer_makes_the_program_wait_and_misses_nothing(tmp_path: Path) -> None:
    async with agent(tmp_path) as place:
        screen = await place.attach(uuid4(), command="seq 1 400000; echo end")
        await screen.until("\n1\r\n|^1\r\n")
        await screen.rest()
        numbers = screen.seen.split(b"end")[0].split()
        assert numbers == [str(number).encode() for number in range(1, 400001)]


async def test_without_viewers_a_program_goes_on(tmp_path: Path) -> None:
    async with agent(tmp_path) as place:
        id, done = uuid4(), tmp_path / "done"
        screen = await place.attach(id, command=f"echo go; seq 1 300000; touch {done}; echo end; read x")
        await screen.until("go")
        await screen.stream.aclose()
        await until(done.exists)
        await (await place.attach(id)).until("\nend\r\n")


async def test_a_paste_that_nobody_reads_waits_and_arrives_whole(tmp_path: Path) -> None:
    async with agent(tmp_path) as place:
        text = "0123456789abcdef" * 4096
        command = f"stty raw -echo; echo ready; read -r go <{tmp_path}/gate; head -c {len(text)} | md5sum"
        os.mkfifo(tmp_path / "gate")
        screen = await place.attach(uuid4(), command=command)
        await screen.until("ready")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(screen.type, text)
            await anyio.to_thread.run_sync((tmp_path / "gate").write_text, "go\n")
            await screen.until("[0-9a-f]{32}")
        assert hashlib.md5(text.encode()).hexdigest().encode() in screen.seen


async def test_the_number_of_terminals_is_bounded(tmp_path: Path) -> None:
    async with agent(tmp_path, max_sessions=2, max_viewers=2) as place:
        ids = [uuid4() for _ in range(3)]
        screens = [await place.attach(id, command="echo ready; cat") for id in ids[:2]]
        for screen in screens:
            await screen.until("ready")
        assert b"has 2 terminals open already" in await (await place.attach(ids[2])).rest()
        second = await place.attach(ids[0])
        await second.until("ready")
        assert b"already has 2 viewers" in await (await place.attach(ids[0])).rest()
        await screens[1].type("\x04")
        await screens[1].until("exited with status 0")
        await place.gone(1)
        await (await place.attach(ids[2], command="echo ready")).until("ready")


@pytest.mark.parametrize(
    ("opening", "answer"),
    [
        (b"\x05\x00hello", "the opening message is not JSON"),
        (b"\x02\x00{}", "no valid ID"),
        (b"\xff\xff" + b"[" * 65535, "the opening message is not JSON"),
        (Init(UUID(int=1), container="box").encode(), "no terminals inside containers"),
    ],
    ids=["no-json", "no-id", "huge", "container"],
)
async def test_an_opening_that_makes_no_sense_is_answered_in_words(tmp_path: Path, opening: bytes, answer: str) -> None:
    async with agent(tmp_path) as place:
        screen = Screen(await place.connect())
        await screen.stream.send(opening)
        assert answer.encode() in await screen.rest()
        assert place.terminals == 0


async def test_an_opening_that_is_cut_or_never_comes_costs_one_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coder_agent_terminal.visits.INIT_TIMEOUT", 0.05)
    async with agent(tmp_path) as place:
        cut = Screen(await place.connect())
        await cut.stream.send(Init(uuid4()).encode()[:20])
        await cut.stream.send_eof()
        assert b"before the opening message was complete" in await cut.rest()
        silent = Screen(await place.connect())
        assert b"no opening message" in await silent.rest()
        reset = await place.connect()
        await reset.aclose()
        await (await place.attach(uuid4(), command="echo fine")).until("fine")


async def test_nonsense_from_one_viewer_ends_that_viewer_only(tmp_path: Path) -> None:
    async with agent(tmp_path) as place:
        id = uuid4()
        good = await place.attach(id, command="echo ready; cat")
        await good.until("ready")
        bad = await place.attach(id)
        await bad.until("ready")
        await bad.stream.send(b'{"data":"still read\\r"} nonsense')
        await bad.rest()
        await good.until("still read\r\nstill read\r\n")
        await good.type("on\r")
        await good.until("on\r\non\r\n")


async def test_a_shell_that_does_not_exist_says_so(tmp_path: Path) -> None:
    async with agent(tmp_path, shell="/no/such/shell") as place:
        screen = await place.attach(uuid4())
        assert b"/no/such/shell" in await screen.rest()
        assert b"exited with status 127" in screen.seen


async def test_no_file_is_left_open(tmp_path: Path) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    async with agent(tmp_path) as place:
        await (await place.attach(uuid4(), command="true")).rest()
        await place.gone()
        before = count()
        for _ in range(5):
            screen = await place.attach(uuid4(), command="true")
            await screen.rest()
            await screen.stream.aclose()
        await place.gone()
        assert count() <= before
