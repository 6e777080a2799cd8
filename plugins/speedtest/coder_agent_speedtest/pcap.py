"""Writes what a node's tap sees as a capture file that tcpdump and Wireshark read without a plug-in.

Layout: classic pcap, microseconds, LINKTYPE_RAW (101): each record is one inner IP packet. Disco messages travel
outside the tunnel and have no inner header; each is wrapped in IPv6 + UDP between ``::`` and ``::``, port 41641.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

LINKTYPE_RAW = 101
SNAPLEN = 65535
DISCO_PORT = 41641
_RECORD = struct.Struct("<IIII")


class PcapWriter:
    """Appends packets to `file`; pass `write` to `TailnetNode.set_tap`.

    A disk that is full ends the capture and not the connection: `error` says why it is incomplete.
    """

    def __init__(self, file: BinaryIO, wall: float, now: float) -> None:
        self._file = file
        self._offset = wall - now
        self.packets = 0
        self.error: OSError | None = None
        self._append(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, SNAPLEN, LINKTYPE_RAW))

    def write(self, kind: str, packet: bytes, now: float) -> None:
        """One packet at monotonic time `now`. WireGuard's padding behind an inner packet is cut off."""
        if kind == "disco":
            packet = _wrap(packet)
        elif len(packet) >= 40 and packet[0] >> 4 == 6:
            packet = packet[: 40 + int.from_bytes(packet[4:6], "big")]
        at = self._offset + now
        seconds = int(at)
        self._append(_RECORD.pack(seconds, int((at - seconds) * 1e6), len(packet), len(packet)) + packet)
        self.packets += self.error is None

    def close(self) -> None:
        """Write what is left, and close the file."""
        for finish in (self._file.flush, self._file.close):
            try:
                finish()
            except OSError as error:
                self.error = self.error or error

    def _append(self, data: bytes) -> None:
        if self.error is not None:
            return
        try:
            self._file.write(data)
        except OSError as error:
            self.error = error


def _wrap(message: bytes) -> bytes:
    length = 8 + len(message)
    return (
        struct.pack(">IHBB", 0x60000000, length, 17, 64) + bytes(32)
        + struct.pack(">HHHH", DISCO_PORT, DISCO_PORT, length, 0) + message
    )  # fmt: skip
