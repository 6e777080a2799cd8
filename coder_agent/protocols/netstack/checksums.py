"""Verification of received TCP checksums, whole runs at a time. Off by default: see StackConfig.verify_checksums."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from ...base.burst import Burst
from ...base.optional_numpy import load_numpy
from . import ip
from .merger import VECTOR_THRESHOLD, payload_size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Verifier = Callable[[Burst, int, int], bool]
"""(burst, first row, number of rows of one run) → all checksums are right."""


def make_verifier(*, vector: bool) -> Verifier:
    """The back end asked for."""
    return verify_vector if vector else verify_scalar


def verify_scalar(burst: Burst, index: int, count: int) -> bool:
    """Row by row, about 2 µs each."""
    return all(ip.verify(burst.row(row), payload_size(burst, row), ip.TCP) for row in range(index, index + count))


def verify_vector(burst: Burst, index: int, count: int) -> bool:
    """All rows but the last, which may be shorter, in one sum."""
    size = payload_size(burst, index)
    full = count - 1
    if full < VECTOR_THRESHOLD or size & 3:
        return verify_scalar(burst, index, count)
    begin = burst.base + index * burst.stride + 8
    numpy = load_numpy()
    words: NDArray[np.uint32] = numpy.ndarray(
        (full, (size + ip.HEADER_SIZE - 8) // 4), "<u4", burst.buffer, begin, (burst.stride, 4)
    )
    sums = numpy.add.reduce(words, axis=1, dtype=numpy.uint64) + ip.partial_sum(struct.pack(">II", size, ip.TCP))
    return not (sums % 65535).any() and verify_scalar(burst, index + full, 1)
