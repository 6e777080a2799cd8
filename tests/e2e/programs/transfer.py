"""A user's program that moves bytes to or from a workspace and checks them: transfer.py WORKSPACE PORT ask [flags]

Events, a line of JSON each: `open` (connected, with the path), `path` (it changed), `progress` (bytes so far, ten per
second at most), `done` (bytes, sha256 equal or not), `opened` (one more connection worked).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time

import anyio

import coder_agent
from coder_agent.base.paths import PathKind
from coder_agent.client import Workspace
from coder_agent.errors import CoderAgentError
from coder_agent.node import TunnelStream

PERIOD = 1_000_003
REPORT = 0.1


def say(event: str, **facts: object) -> None:
    """Tell the test."""
    print(json.dumps({"event": event, **facts}), flush=True)


class Progress:
    """Tells how far it is, not too often."""

    def __init__(self) -> None:
        self.count = 0
        self._next = 0.0

    def add(self, count: int) -> None:
        """So many bytes more."""
        self.count += count
        if (now := time.monotonic()) >= self._next:
            self._next = now + REPORT
            say("progress", bytes=self.count, at=now)


async def get(stream: TunnelStream, size: int, pace: int) -> str:
    """Read to the end; the sum of what came."""
    await stream.send(json.dumps({"get": size, "pace": pace}).encode() + b"\n")
    digest, progress = hashlib.sha256(), Progress()
    while True:
        try:
            data = await stream.receive()
        except anyio.EndOfStream:
            break
        digest.update(data)
        progress.add(len(data))
    say("received", bytes=progress.count)
    return digest.hexdigest()


async def put(stream: TunnelStream, size: int, pace: int) -> str:
    """Send; the sum that the other side made."""
    await stream.send(json.dumps({"put": size}).encode() + b"\n")
    period = memoryview(pattern() * 2)
    began, progress = time.monotonic(), Progress()
    while progress.count < size:
        start = progress.count % PERIOD
        count = min(1 << 16, size - progress.count)
        await stream.send(period[start : start + count])
        progress.add(count)
        if pace and (ahead := progress.count / pace - (time.monotonic() - began)) > 0:
            await anyio.sleep(ahead)
    answer = b""
    while not answer.endswith(b"\n"):
        answer += await stream.receive()
    return str(json.loads(answer)["sha256"])


def pattern() -> bytes:
    """As bytes_server.py makes it."""
    return hashlib.shake_128(b"pattern").digest(PERIOD)


def expected(size: int) -> str:
    """The sum of the first `size` bytes of the pattern."""
    digest, period = hashlib.sha256(), pattern()
    for start in range(0, size, PERIOD):
        digest.update(period[: min(PERIOD, size - start)])
    return digest.hexdigest()


async def watch_path(workspace: Workspace) -> None:
    """Tell when the path changes; `addr` is the direct one's, `tunnel_mtu` ours towards the peer."""
    last = None
    while True:
        status = workspace.path()
        addr = str(status.addr) if status.kind is PathKind.DIRECT else ""
        if (now := (status.kind.value, addr, status.tunnel_mtu)) != last:
            last = now
            say("path", kind=status.kind.value, addr=addr, tunnel_mtu=status.tunnel_mtu, at=time.monotonic())
        await anyio.sleep(0.02)


async def main() -> int:
    """Connect, transfer, check."""
    parser = argparse.ArgumentParser()
    parser.add_argument("workspace")
    parser.add_argument("port", type=int)
    parser.add_argument("way", choices=["get", "put"])
    parser.add_argument("--size", type=int, default=0)
    parser.add_argument("--pace", type=int, default=0)
    parser.add_argument("--relayed", action="store_true")
    parser.add_argument("--direct", action="store_true")
    wanted = parser.parse_args()
    async with coder_agent.connect(wanted.workspace, direct=not wanted.relayed) as workspace:
        if wanted.direct:
            with anyio.fail_after(60):
                await workspace.wait_direct()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch_path, workspace)
            async with await workspace.open_tcp(wanted.port) as stream:
                say("open", kind=workspace.path().kind.value)
                move = get if wanted.way == "get" else put
                found = await move(stream, wanted.size, wanted.pace)
            say("done", equal=found == expected(wanted.size))
            tasks.cancel_scope.cancel()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(anyio.run(main))
    except CoderAgentError as error:
        say("failed", error=error.message)
        sys.exit(1)
