"""Datagrams in, inner packets out, in the order they came.

A burst that is one run (one session, counters all new; some may be missing or out of order) is opened through cached
views with one Python loop around the AEAD call. What is not a run goes packet by packet from where the run ended; good
packets of one session and equal size still leave together, because the TCP above is fast on runs only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import length_hint
from typing import NamedTuple

from ...base.buffers import reserve
from ...base.burst import Burst
from ..effects import Dropped
from .columns import RUN_MAX, RUN_MIN, Columns, Nonces, ScalarColumns, VectorColumns
from .messages import HEADER_SIZE, INITIATION_SIZE, OVERHEAD, TAG_SIZE, TRANSPORT, unpack_header
from .replay import REJECT_AFTER_MESSAGES, WINDOW, ReplayWindow
from .session import Keypair

MAX_VIEWS = 32
"""Layouts of callers' buffers remembered. Each pins its buffer; a socket has one buffer and a few layouts."""
SCRATCH_SIZE = 512 << 10
"""First size of the plaintext scratch; it grows to the largest burst ever received."""


@dataclass(slots=True)
class Opened:
    """`packets` transport messages opened under `keypair`. `burst` is None if all were keepalives."""

    keypair: Keypair
    packets: int
    burst: Burst | None


class Message(NamedTuple):
    """A datagram of another type than transport."""

    data: bytes


class _Rows(NamedTuple):
    """What is kept per layout: the columns of `headers` rows, and (nonce, ciphertext, plaintext) views of the rows of
    full length."""

    buffer: memoryview  # keeps id(buffer) from being recycled
    headers: int
    columns: Columns
    rows: list[tuple[memoryview, memoryview, memoryview]]


class _Group:
    """Packets opened one by one that can leave as one burst: equal sizes, only the last may be shorter."""

    __slots__ = ("keypair", "packets", "base", "size", "rows", "last")

    def __init__(self, keypair: Keypair, base: int) -> None:
        self.keypair = keypair
        self.base = base
        self.packets = self.size = self.rows = self.last = 0

    def takes(self, keypair: Keypair, size: int) -> bool:
        """May a packet of `size` bytes join? Keepalives (size 0) leave no row and so fit anywhere."""
        if keypair is not self.keypair:
            return False
        return not size or not self.rows or (self.last == self.size and size <= self.size)

    def add(self, size: int) -> None:
        """The packet lies directly behind those before it."""
        self.packets += 1
        if size:
            if not self.rows:
                self.size = size
            self.rows += 1
            self.last = size

    def opened(self, plain: memoryview) -> Opened:
        """What became of it."""
        size = self.size
        burst = Burst(plain, self.base, size, self.rows, size, self.last) if self.rows else None
        return Opened(self.keypair, self.packets, burst)


def _are_new(counters: Sequence[int], replay: ReplayWindow) -> bool:
    """True if all of these may be accepted together."""
    if type(counters) is range:
        return counters[0] > replay.highest and counters[-1] < REJECT_AFTER_MESSAGES
    # Wider than the window, and the first ones could push it beyond the last ones: then their order decides.
    if len(set(counters)) < len(counters) or max(counters) - min(counters) > WINDOW:
        return False
    return all(map(replay.accepts, counters))


class Opener:
    """Opens bursts into a scratch of its own, overwritten by the next burst."""

    __slots__ = ("_backend", "_nonces", "_plain", "_used", "_views")

    def __init__(self, backend: type[ScalarColumns] | type[VectorColumns]) -> None:
        self._backend = backend
        self._nonces = Nonces()
        self._plain = reserve(SCRATCH_SIZE)
        self._used = 0
        self._views: dict[tuple[int, int, int, int], _Rows] = {}

    def open(self, burst: Burst, sessions: Mapping[int, Keypair], now: float) -> Iterator[Opened | Message | Dropped]:
        """Go through `burst` in order. Lazy: what the caller does to `sessions` between two items counts for the next.

        All plaintexts of one burst stay valid until the next call.
        """
        self._used = 0
        if burst.size_bytes > len(self._plain):
            self._plain = reserve(burst.size_bytes)
            self._views.clear()
        start = 0
        if RUN_MIN <= burst.count <= RUN_MAX:
            run = self._open_run(burst, sessions, now)
            if run is not None:
                start = run.packets
                yield run
        if start < burst.count:
            yield from self._open_rows(burst, start, sessions, now)

    # ------------------------------------------------------------ all at once

    def _open_run(self, burst: Burst, sessions: Mapping[int, Keypair], now: float) -> Opened | None:
        """Open the burst as one run, up to the first forged packet. None if it is not one."""
        count, length, last = burst.count, burst.length, burst.last
        if length <= OVERHEAD or not OVERHEAD <= last <= length:
            return None
        full = count if last == length else count - 1
        views = self._lookup(burst, full)
        head = views.columns.read(count)
        if head is None:
            return None
        word, counters = head
        keypair = sessions.get(word >> 32) if word & 0xFFFFFFFF == TRANSPORT else None
        if keypair is None or keypair.is_expired(now) or not _are_new(counters, keypair.replay):
            return None
        opened = self._decrypt_run(burst, full, views, keypair)
        if not opened:
            return None
        if type(counters) is range:
            keypair.replay.mark_run(counters[0], opened)
        else:
            for counter in counters[:opened]:
                keypair.replay.mark(counter)
        size = length - OVERHEAD
        self._used = size * opened
        tail = last - OVERHEAD if opened == count else size
        rows = opened if tail else opened - 1  # the last one may be a keepalive
        return Opened(keypair, opened, Burst(self._plain, 0, size, rows, size, tail or size))

    def _decrypt_run(self, burst: Burst, full: int, views: _Rows, keypair: Keypair) -> int:
        """How many rows opened, counted from the front."""
        rows = iter(views.rows if len(views.rows) == full else views.rows[:full])
        decrypt = keypair.decrypt
        try:
            for nonce, sealed, plain in rows:
                decrypt(nonce, sealed, None, plain)
        except keypair.forged:
            return full - length_hint(rows) - 1
        if full < burst.count:
            start = full * (burst.length - OVERHEAD)
            plain = self._plain[start : start + burst.last - OVERHEAD]
            try:
                decrypt(self._nonces.rows[full], burst.row(full)[HEADER_SIZE:], None, plain)
            except keypair.forged:
                return full
        return burst.count

    def _lookup(self, burst: Burst, full: int) -> _Rows:
        key = (id(burst.buffer), burst.base, burst.stride, burst.length)
        views = self._views.get(key)
        if views is None or views.headers < burst.count or len(views.rows) < full:
            if len(self._views) >= MAX_VIEWS:
                del self._views[next(iter(self._views))]
            views = self._views[key] = self._cut(burst, full)
        return views

    def _cut(self, burst: Burst, full: int) -> _Rows:
        buffer, plain, nonces = burst.buffer, self._plain, self._nonces.rows
        size = burst.length - OVERHEAD
        columns = self._backend(buffer, burst.base, burst.stride, burst.count, self._nonces)
        rows = []
        for i in range(full):
            start = burst.base + i * burst.stride
            sealed = buffer[start + HEADER_SIZE : start + burst.length]
            rows.append((nonces[i], sealed, plain[i * size : (i + 1) * size]))
        return _Rows(buffer, burst.count, columns, rows)

    # ------------------------------------------------------------ one by one

    def _open_rows(
        self, burst: Burst, start: int, sessions: Mapping[int, Keypair], now: float
    ) -> Iterator[Opened | Message | Dropped]:
        buffer, final = burst.buffer, burst.count - 1
        position = burst.base + (start - 1) * burst.stride
        group: _Group | None = None
        drops: dict[str, int] = {}
        for i in range(start, burst.count):
            position += burst.stride
            size = burst.last if i == final else burst.length
            kind, index, counter = unpack_header(buffer, position) if size >= OVERHEAD else (0, 0, 0)
            if kind != TRANSPORT:
                if 0 < kind < TRANSPORT and size <= INITIATION_SIZE:
                    if group is not None:
                        yield group.opened(self._plain)
                        group = None
                    yield Message(bytes(buffer[position : position + size]))
                else:
                    drops["malformed"] = drops.get("malformed", 0) + 1
                continue
            keypair = sessions.get(index)
            base = self._used
            reason = self._open_row(keypair, counter, buffer[position + HEADER_SIZE : position + size], now)
            if reason or keypair is None:
                drops[reason] = drops.get(reason, 0) + 1
                continue
            if group is None or not group.takes(keypair, size - OVERHEAD):
                if group is not None:
                    yield group.opened(self._plain)
                group = _Group(keypair, base)
            group.add(size - OVERHEAD)
        if group is not None:
            yield group.opened(self._plain)
        for reason, count in drops.items():
            yield Dropped(reason, count)

    def _open_row(self, keypair: Keypair | None, counter: int, sealed: memoryview, now: float) -> str:
        """Open one packet behind those opened before it. Returns why not, or nothing."""
        if keypair is None:
            return "unknown-session"
        if keypair.is_expired(now):
            return "expired-session"
        replay = keypair.replay
        if not replay.accepts(counter):
            return "replayed"
        end = self._used + len(sealed) - TAG_SIZE
        try:
            keypair.decrypt((counter << 32).to_bytes(12, "little"), sealed, None, self._plain[self._used : end])
        except keypair.forged:
            return "bad-tag"
        replay.mark(counter)
        self._used = end
        return ""
