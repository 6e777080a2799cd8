"""Bulk transfers whose checksums must be equal: 1 GB each way, on a clean path and on a bad one, by real processes and
by whole nodes in a virtual network."""

from __future__ import annotations

import hashlib
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from coder_agent.protocols.netstack import SynRequest, TcpConnection
from coder_agent.testing.lab import LinkRules
from coder_agent.testing.lab.world import DIRECT, VirtualNode, World
from coder_agent.testing.processes import run_program

from .place import Place
from .rows import Row

if TYPE_CHECKING:
    from .runner import Plan

SIZE = int(float(os.environ.get("BENCH_GB", "1")) * 1e9)
PORT = "7070"
BAD = ("0.01", "0.01", "0.01")
"""Lost, duplicated, reordered: of every hundred packets one each."""
LONGEST = 900.0
"""Seconds that one transfer may take."""


def bulk(place: Place, plan: Plan) -> Iterator[Row]:
    """Eight transfers. The row is the smallest amount that arrived intact; the runs are all of them."""
    runs = [*_by_processes(place, bad=False)]
    with Place() as other:
        runs += _by_processes(other, bad=True)
    for link in (DIRECT, replace(DIRECT, loss=0.01, duplicate=0.01, jitter=0.0002)):
        for swapped in (False, True):
            runs.append(_virtual(link, swapped=swapped) / 1e9)
    row = Row.of("bulk_integrity", "GB intact", runs)
    row.ours = min(runs)
    yield row


def _by_processes(place: Place, *, bad: bool) -> Iterator[float]:
    """Up and down between a program at the user's and a server behind the agent: GB that arrived intact."""
    if bad:
        place.join_badly(*BAD)
    place.start()
    with run_program(*place.program("bulk", "serve", PORT), host=place.workspace) as server:
        server.event("ready")
        for way in ("up", "down"):
            env = place.environment("user")
            with run_program(*place.program("bulk", way, PORT, str(SIZE)), host=place.user, env=env) as client:
                done = client.event("done", LONGEST)
            _note(f"processes, {'bad' if bad else 'clean'} link, {way}", done["seconds"])
            yield SIZE / 1e9 if done["equal"] and done["path"] == "direct" else 0.0


def _virtual(link: LinkRules, *, swapped: bool) -> int:
    """Bytes that arrived intact from one node to another in memory; the bad link delays each packet by chance."""
    world = World(1, link)
    nodes = world.node("a"), world.node("b")
    world.introduce(*nodes)
    source, sink = reversed(nodes) if swapped else nodes
    transfer = Transfer(world, source, sink, SIZE)
    started = time.monotonic()
    world.run(86_400, lambda: transfer.received >= SIZE)
    _note(f"virtual network, {'bad' if link.loss else 'clean'} link", time.monotonic() - started)
    return SIZE if transfer.is_intact else 0


def _note(what: str, seconds: float) -> None:
    print(f"  {what}: {SIZE / 1e9:g} GB in {seconds:.1f} s", file=sys.stderr, flush=True)


class Transfer:
    """Random blocks from one node to another, hashed on both sides."""

    def __init__(self, world: World, source: VirtualNode, sink: VirtualNode, size: int) -> None:
        self._world = world
        self._source, self._sink = source, sink
        self._left = size
        self._random = random.Random(size)
        self._pending = memoryview(b"")
        self._sent_hash, self._seen_hash = hashlib.sha256(), hashlib.sha256()
        self.received = 0
        sink.engine.stack.on_syn = self._accept
        self._connection = source.engine.stack.connect(sink.address, 80, world.now)
        self._connection.user = self._write
        source.engine.kick()

    @property
    def is_intact(self) -> bool:
        """Everything arrived, in order."""
        return not self._left and self._sent_hash.digest() == self._seen_hash.digest()

    def _accept(self, request: SynRequest) -> None:
        connection = request.accept(self._world.now)
        connection.user = self._reader(connection)
        self._sink.engine.kick()

    def _reader(self, connection: TcpConnection) -> Callable[[], None]:
        def read() -> None:
            for chunk in connection.read():
                self._seen_hash.update(chunk)
                self.received += len(chunk)
            self._sink.engine.kick()

        return read

    def _write(self) -> None:
        while self._pending or self._left:
            if not self._pending:
                block = self._random.randbytes(min(self._left, 1 << 20))
                self._left -= len(block)
                self._sent_hash.update(block)
                self._pending = memoryview(block)
            taken = self._connection.write(self._pending)
            self._pending = self._pending[taken:]
            if not taken:
                break
        self._source.engine.kick()
