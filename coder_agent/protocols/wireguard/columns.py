"""The header columns of a burst: one loop in pure Python, or a few numpy operations for all rows at once.

Both do the same. The vector one costs a few microseconds however many rows there are, so it pays from about a dozen
rows on; below that the callers use neither, but go packet by packet.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Protocol

from ...base.optional_numpy import has_numpy, load_numpy
from ...errors import LocalProtocolError

RUN_MIN = 12
"""Rows from which a burst is treated as one. Measured: vector and scalar cost the same at 12 to 16 rows."""
RUN_MAX = 256
"""Rows up to which it is: more than a 256 KiB stream buffer holds of full-size packets."""
NONCE_SIZE = 12

_HEADER = struct.Struct("<QQ")
_COUNTER = struct.Struct("<Q")


class Nonces:
    """RUN_MAX nonces of 12 bytes (4 zero bytes ‖ counter u64), reused for every burst, and views of each."""

    __slots__ = ("raw", "rows")

    def __init__(self) -> None:
        self.raw = bytearray(NONCE_SIZE * RUN_MAX)
        view = memoryview(self.raw)
        self.rows = [view[i : i + NONCE_SIZE] for i in range(0, NONCE_SIZE * RUN_MAX, NONCE_SIZE)]


class Columns(Protocol):
    """The 16-byte headers of `rows` packets at `base`, `base + stride`, … of one buffer, and the nonces beside them."""

    def write(self, count: int, word: int, first: int) -> None:
        """Fill the first `count` headers with `word` (type ‖ receiver) and counters from `first` on, and the nonces."""
        ...

    def read(self, count: int) -> tuple[int, Sequence[int]] | None:
        """If the first `count` headers have equal words: that word and the counters, with the nonces filled. The
        counters are a range if they are consecutive. Otherwise (rows of several sessions or kinds) None."""
        ...


class ScalarColumns:
    """Columns in pure Python."""

    __slots__ = ("_buffer", "_base", "_stride", "_nonces")

    def __init__(self, buffer: memoryview, base: int, stride: int, rows: int, nonces: Nonces) -> None:
        self._buffer = buffer
        self._base = base
        self._stride = stride
        self._nonces = nonces.raw

    def write(self, count: int, word: int, first: int) -> None:
        """See Columns."""
        pack_header, pack_counter = _HEADER.pack_into, _COUNTER.pack_into
        buffer, nonces, stride, position = self._buffer, self._nonces, self._stride, self._base
        nonce = 4
        for counter in range(first, first + count):
            pack_header(buffer, position, word, counter)
            pack_counter(nonces, nonce, counter)
            position += stride
            nonce += NONCE_SIZE

    def read(self, count: int) -> tuple[int, Sequence[int]] | None:
        """See Columns."""
        unpack, pack_counter = _HEADER.unpack_from, _COUNTER.pack_into
        buffer, nonces, stride, position = self._buffer, self._nonces, self._stride, self._base
        expected, first = unpack(buffer, position)
        counters = []
        nonce = 4
        for _ in range(count):
            word, counter = unpack(buffer, position)
            if word != expected:
                return None
            pack_counter(nonces, nonce, counter)
            counters.append(counter)
            position += stride
            nonce += NONCE_SIZE
        run = range(first, first + count)
        return expected, run if counters == list(run) else counters


class VectorColumns:
    """Columns as strided numpy views (any alignment). They keep the buffer alive and unresizable."""

    __slots__ = ("_words", "_counters", "_nonces", "_steps", "_add")

    def __init__(self, buffer: memoryview, base: int, stride: int, rows: int, nonces: Nonces) -> None:
        np = load_numpy()

        def column(source: memoryview | bytearray, offset: int, step: int, count: int) -> Any:
            return np.ndarray((count,), "<u8", source, offset, (step,))

        self._words = column(buffer, base, stride, rows)
        self._counters = column(buffer, base + 8, stride, rows)
        self._nonces = column(nonces.raw, 4, NONCE_SIZE, RUN_MAX)
        self._steps = np.arange(RUN_MAX, dtype="<u8")
        self._add = np.add

    def write(self, count: int, word: int, first: int) -> None:
        """See Columns."""
        nonces = self._nonces[:count]
        self._add(self._steps[:count], first, out=nonces)
        self._counters[:count] = nonces
        self._words[:count] = word

    def read(self, count: int) -> tuple[int, Sequence[int]] | None:
        """See Columns."""
        words, counters, nonces = self._words[:count], self._counters[:count], self._nonces[:count]
        word, first = int(words[0]), int(counters[0])
        # Comparing bytes is cheaper than numpy's own compare and reduce for so few rows.
        if words.tobytes() != word.to_bytes(8, "little") * count:
            return None
        self._add(self._steps[:count], first, out=nonces)
        if counters.tobytes() == nonces.tobytes() and first + count <= 2**64:
            return word, range(first, first + count)
        nonces[:] = counters
        return word, counters.tolist()


def choose_columns(vector: bool | None) -> type[ScalarColumns] | type[VectorColumns]:
    """The back end: None takes numpy if it is installed. Raises LocalProtocolError if it is asked for and missing."""
    if vector and not has_numpy():
        raise LocalProtocolError("the vector back end needs numpy", hint="pip install 'coder-agent[fast]'")
    return VectorColumns if vector or (vector is None and has_numpy()) else ScalarColumns
