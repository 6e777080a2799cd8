"""Large buffers that cost nothing until they are used."""

from __future__ import annotations

import mmap


def reserve(size_bytes: int) -> memoryview:
    """A zeroed, writable buffer. Its pages count as used memory only once they are written to, other than those of a
    bytearray, which Python fills with zeros at once: an idle agent has four sockets' worth of buffers.
    """
    return memoryview(mmap.mmap(-1, size_bytes))
