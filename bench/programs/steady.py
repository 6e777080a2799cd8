"""A paced stream through the tunnel to the workspace "dev", checked byte by byte, and what interrupts it.

    steady.py serve PORT BYTES_PER_SECOND    in the workspace: the stream, and an echo of every byte that comes
    steady.py watch PORT                     on the user's machine; SIGUSR1: send one byte (a keystroke)

Events of `watch`, a line of JSON each, with the time of CLOCK_MONOTONIC: `gap` (nothing came for `seconds`, of 50 ms
and more), `path` (it changed), `listening` (for the signal), `echo` (the keystroke came back), `wrong` (a byte did).
"""

from __future__ import annotations

import json
import signal
import socket
import sys
import threading
import time

import anyio

import coder_agent
from coder_agent.client import Workspace
from coder_agent.node import TunnelStream

ADDRESS = "127.0.0.1"
TICK = 0.01
PERIOD = bytes(range(256)) * 1021
SHOWN_GAP = 0.05
ECHO = b"\xff"


def say(event: str, **facts: object) -> None:
    """Tell the benchmark."""
    print(json.dumps({"event": event, "at": time.monotonic(), **facts}), flush=True)


def serve(port: int, rate: int) -> None:
    """One stream after the other."""
    with socket.create_server((ADDRESS, port)) as server:
        say("ready")
        while True:
            connection, _ = server.accept()
            threading.Thread(target=_converse, args=(connection, rate), daemon=True).start()


def _converse(connection: socket.socket, rate: int) -> None:
    try:
        if not rate:
            while data := connection.recv(4096):
                connection.sendall(data)
            return
        began, sent = time.monotonic(), 0
        while True:
            due = int((time.monotonic() - began) * rate) - sent
            while due > 0:
                start = sent % len(PERIOD)
                chunk = PERIOD[start : start + due]
                connection.sendall(chunk)
                sent += len(chunk)
                due -= len(chunk)
            time.sleep(TICK)
    except OSError:
        return  # the watcher has gone


async def watch(port: int) -> None:
    """Connect, go direct, and tell what happens until the end of the process."""
    async with coder_agent.connect("dev") as workspace:
        await workspace.wait_direct()
        stream = await workspace.open_tcp(port)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_watch_path, workspace)
            tasks.start_soon(_type, stream)
            await _read(stream)


async def _read(stream: TunnelStream) -> None:
    received, last = 0, time.monotonic()
    while True:
        data = await stream.receive()
        now = time.monotonic()
        if data == ECHO:
            say("echo")
            continue
        if now - last >= SHOWN_GAP:
            say("gap", seconds=now - last)
        start = received % len(PERIOD)
        expected = PERIOD[start : start + len(data)]
        expected += PERIOD[: len(data) - len(expected)]
        if data != expected:
            say("wrong")
        received, last = received + len(data), now


async def _type(stream: TunnelStream) -> None:
    with anyio.open_signal_receiver(signal.SIGUSR1) as signals:
        say("listening")
        async for _ in signals:
            await stream.send(ECHO)


async def _watch_path(workspace: Workspace) -> None:
    last = ""
    while True:
        if (kind := workspace.path().kind.value) != last:
            last = kind
            say("path", kind=kind)
        await anyio.sleep(0.02)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]), int(sys.argv[3]))
    else:
        anyio.run(watch, int(sys.argv[2]))
