"""The agent's side of SSH keeps its worker as long as somebody uses it."""

from __future__ import annotations

from uuid import UUID

import anyio
import anyio.abc
import pytest
from coder_agent_ssh import service
from coder_agent_ssh.service import Gate
from coder_agent_ssh.settings import SshSettings

from coder_agent.hooks import AgentFacts

pytestmark = pytest.mark.anyio
FACTS = AgentFacts("http://127.0.0.1", UUID(int=1), UUID(int=2))


class Silent(anyio.abc.ByteStream):
    """A client that says nothing until `leave`."""

    def __init__(self) -> None:
        self.leave = anyio.Event()
        self.heard = anyio.Event()

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await self.leave.wait()
        raise anyio.EndOfStream

    async def send(self, item: bytes) -> None:
        self.heard.set()

    async def send_eof(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


async def test_a_worker_that_nobody_uses_ends_and_the_next_user_gets_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "IDLE", 0.0)
    gate = Gate(SshSettings())
    pids = set()
    with anyio.fail_after(60):
        async with gate.open(lambda: FACTS):
            for _ in range(2):
                client = Silent()
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(gate.serve, 1, client)
                    await client.heard.wait()  # the version line
                    process = gate._process
                    assert process is not None
                    pids.add(process.pid)
                    client.leave.set()
                assert process is not None  # said again: a task group might have swallowed the first
                assert await process.wait() == 0
    assert len(pids) == 2
