"""The user of one cell of the laboratory: connects to a workspace, keeps talking to it, and tells which way that goes.

    python -m coder_agent.testing.netns_seeker WORKSPACE

Waits for the workspace's agent to be connected, however long. Events (a line of JSON each): ``connected`` {after},
``path`` {kind, addr, region, after, at}, ``pong`` {kind, took, at}, ``silence``, and after SIGTERM ``evidence``: every
candidate, the product's `verdict` and its `summary`, the endpoints that the server names for the agent (`theirs`) and
those that we publish (`own`). `after`: seconds since the connection was begun. With ``--relayed`` direct connections
are disabled, as by ``--disable-direct-connections``; ``--talk`` is the time between pings.
"""

from __future__ import annotations

import argparse
import signal
import time

import anyio

from ..api import connect
from ..client import Workspace
from ..errors import CoderAgentError, PeerUnreachable
from ..explain import explain_after_asking
from .node_program import say

TALK = 0.2
"""Seconds between pings through the tunnel, which a path is looked for."""
LOOK = 0.02
"""Seconds between two looks at the path."""
RETRY = 0.1


async def main(workspace: str, direct: bool, talk: float) -> None:
    """Connect and talk until SIGTERM."""
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        while True:
            began = time.monotonic()
            try:
                async with connect(workspace, direct=direct) as opened, anyio.create_task_group() as tasks:
                    say("connected", after=round(time.monotonic() - began, 3))
                    tasks.start_soon(_watch, opened, began)
                    tasks.start_soon(_talk, opened, talk)
                    async for _ in signals:
                        break
                    tasks.cancel_scope.cancel()
                    with anyio.CancelScope(shield=True):
                        await _tell_evidence(opened)
                return
            except PeerUnreachable as exc:
                if "connected" in exc.message:  # its agent comes later than we do
                    await anyio.sleep(RETRY)
                    continue
                say("failed", error=exc.message)
                return
            except CoderAgentError as exc:
                say("failed", error=exc.message)
                return


async def _watch(workspace: Workspace, began: float) -> None:
    last: object = None
    while True:
        try:
            status = workspace.path()
        except PeerUnreachable:
            await anyio.sleep(LOOK)
            continue
        addr = str(status.addr) if status.addr is not None else ""
        now = (status.kind, addr if status.kind.value == "direct" else "")
        if now != last:
            last = now
            after = round(time.monotonic() - began, 3)
            say("path", kind=status.kind.value, addr=now[1], region=status.region, after=after, at=time.monotonic())
        await anyio.sleep(LOOK)


async def _talk(workspace: Workspace, pause: float) -> None:
    """Ask, and ask again until there is an answer; `took` counts from the first asking."""
    began = time.monotonic()
    while True:
        try:
            await workspace.ping_tunnel(timeout=0.5)
        except PeerUnreachable:
            say("silence", at=time.monotonic())
            continue
        now = time.monotonic()
        say("pong", kind=workspace.path().kind.value, took=round(now - began, 3), at=now)
        await anyio.sleep(pause)
        began = time.monotonic()


async def _tell_evidence(workspace: Workspace) -> None:
    verdict = await explain_after_asking(workspace.node, workspace.key)
    status = workspace.path()
    candidates = [
        {"addr": str(one.addr), "sources": one.sources, "sent": one.sent, "answered": one.answered, "why": one.why_not}
        for one in status.candidates
    ]
    theirs = [str(e) for peer in workspace.node.peers if peer.key == workspace.key for e in peer.endpoints]
    own = [str(endpoint) for endpoint in workspace.node.self_node().endpoints]
    said = {"verdict": verdict.code, "summary": verdict.summary}
    say("evidence", kind=status.kind.value, candidates=candidates, theirs=theirs, own=own, **said)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("workspace")
    parser.add_argument("--relayed", action="store_true")
    parser.add_argument("--talk", type=float, default=TALK)
    wanted = parser.parse_args()
    anyio.run(main, wanted.workspace, not wanted.relayed, wanted.talk)
