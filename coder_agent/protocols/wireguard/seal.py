"""Inner packets in, transport messages out: a whole burst under one session.

Bursts of a dozen rows or more go through cached views of the caller's buffer and of a fixed scratch, so that the only
work per packet is the AEAD call. Everything else (short bursts, rows that need padding, queued
packets) goes row by row.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from ...base.buffers import reserve
from ...base.burst import Burst
from .columns import RUN_MAX, RUN_MIN, Columns, Nonces, ScalarColumns, VectorColumns
from .messages import HEADER_SIZE, OVERHEAD, PADDING, padded_size
from .session import Keypair

SCRATCH_BYTES = 512 << 10
"""Of the reusable scratch, whose pages count once they are used; larger bursts get memory of their own."""
MAX_VIEWS = 16
"""Layouts of callers' buffers remembered. Each pins its buffer; callers have one or two."""

_HEADER = struct.Struct("<QQ")
_ZEROS = bytes(PADDING)


class _Rows(NamedTuple):
    """What is kept per layout: (nonce, plaintext, ciphertext) views of RUN_MAX or fewer rows."""

    buffer: memoryview  # keeps id(buffer) from being recycled
    columns: Columns
    rows: list[tuple[memoryview, memoryview, memoryview]]


class Sealer:
    """Seals bursts into a scratch of its own, overwritten by the next call."""

    __slots__ = ("_backend", "_mtu", "_nonces", "_wire", "_views")

    def __init__(self, backend: type[ScalarColumns] | type[VectorColumns], mtu: int) -> None:
        self._backend = backend
        self._mtu = mtu
        self._nonces = Nonces()
        self._wire = reserve(SCRATCH_BYTES)
        self._views: dict[tuple[int, int, int, int, int], _Rows] = {}

    def seal(self, keypair: Keypair, packets: Burst, headroom: int, *, fresh: bool = False) -> Burst:
        """`packets` as transport messages, counters consecutive. `fresh`: in memory of its own.

        Layout per row: headroom | header 16 B | ciphertext | tag 16 B, at stride headroom + 32 + padded size.
        The caller has made sure that the session can send that many.
        """
        count, length = packets.count, packets.length
        padded = padded_size(length, self._mtu)
        stride = headroom + OVERHEAD + padded
        last = OVERHEAD + padded_size(packets.last, self._mtu)
        sealed = Burst(self._wire, headroom, stride, count, OVERHEAD + padded, last, headroom)
        if fresh or count > RUN_MAX or stride * count > len(self._wire):
            sealed.buffer = memoryview(bytearray(stride * count))
            self._seal_rows(keypair, packets, sealed, 0)
            return sealed
        if count >= RUN_MIN and padded == length:
            self._seal_run(keypair, packets, sealed)
        else:
            self._seal_rows(keypair, packets, sealed, 0)
        return sealed

    def _seal_run(self, keypair: Keypair, packets: Burst, sealed: Burst) -> None:
        """Rows of one size by the cached views, then the last one if it is shorter."""
        count = packets.count
        full = count if packets.last == packets.length else count - 1
        views = self._lookup(packets, sealed, full)
        views.columns.write(full, keypair.word, keypair.counter)
        rows = views.rows if len(views.rows) == full else views.rows[:full]
        encrypt = keypair.encrypt
        for nonce, plain, out in rows:
            encrypt(nonce, plain, None, out)
        keypair.counter += full
        if full < count:
            self._seal_rows(keypair, packets, sealed, full)

    def _lookup(self, packets: Burst, sealed: Burst, full: int) -> _Rows:
        key = (id(packets.buffer), packets.base, packets.stride, packets.length, sealed.headroom)
        views = self._views.get(key)
        if views is None or len(views.rows) < full:
            if len(self._views) >= MAX_VIEWS:
                del self._views[next(iter(self._views))]
            views = self._views[key] = self._cut(packets, sealed, full)
        return views

    def _cut(self, packets: Burst, sealed: Burst, full: int) -> _Rows:
        source, wire = packets.buffer, sealed.buffer
        columns = self._backend(wire, sealed.base, sealed.stride, full, self._nonces)
        rows = []
        for i in range(full):
            start = packets.base + i * packets.stride
            out = sealed.base + i * sealed.stride
            plain = source[start : start + packets.length]
            rows.append((self._nonces.rows[i], plain, wire[out + HEADER_SIZE : out + sealed.length]))
        return _Rows(source, columns, rows)

    def _seal_rows(self, keypair: Keypair, packets: Burst, sealed: Burst, start: int) -> None:
        """Row by row from row `start`, padding where needed."""
        wire, encrypt, word, counter = sealed.buffer, keypair.encrypt, keypair.word, keypair.counter
        position = sealed.base + start * sealed.stride
        final = packets.count - 1
        for i in range(start, packets.count):
            plain: memoryview | bytes = packets.row(i)
            end = position + (sealed.last if i == final else sealed.length)
            missing = end - position - OVERHEAD - len(plain)
            if missing:
                plain = bytes(plain) + _ZEROS[:missing]
            _HEADER.pack_into(wire, position, word, counter)
            encrypt((counter << 32).to_bytes(12, "little"), plain, None, wire[position + HEADER_SIZE : end])
            counter += 1
            position += sealed.stride
        keypair.counter = counter
