"""Somebody on the path: repeats every UDP packet between two ports of loopback, whole, cut short and with a bit turned.

repeater.py PORT PORT; needs root and a namespace of its own. Prints ``{"event": "repeating"}`` when it listens and, at
SIGTERM, ``{"event": "repeated", "packets": n}``. Its packets come from a port of its own: a node that believed them
would answer to it.
"""

from __future__ import annotations

import json
import random
import signal
import socket
import sys
from types import FrameType

ETH_P_ALL = 3
HEADERS = 14 + 20
DATA = b"\x04\x00\x00\x00"
"""How a WireGuard data message begins."""


class Stopped(Exception):
    """SIGTERM."""


def stop(number: int, frame: FrameType | None) -> None:
    raise Stopped


def datagrams(payload: bytes) -> list[bytes]:
    """What the kernel hands over as one large packet (GSO), as the receiver sees it."""
    stride = payload.find(payload[:8], 8) if payload.startswith(DATA) else -1
    if stride < 0:
        return [payload]
    return [payload[start : start + stride] for start in range(0, len(payload), stride)]


def main() -> None:
    ports = {int(text) for text in sys.argv[1:]}
    chance = random.Random(7)
    repeated = 0
    signal.signal(signal.SIGTERM, stop)
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as tap,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        tap.bind(("lo", 0))
        sender.bind(("127.0.0.1", 0))
        own = sender.getsockname()[1]
        print(json.dumps({"event": "repeating"}), flush=True)
        try:
            while True:
                packet, where = tap.recvfrom(1 << 17)
                if where[2] == socket.PACKET_OUTGOING or packet[12:14] != b"\x08\x00" or packet[23] != 17:
                    continue
                source, target = (int.from_bytes(packet[at : at + 2], "big") for at in (HEADERS, HEADERS + 2))
                if source == own or not {source, target} <= ports:
                    continue
                for whole in datagrams(packet[HEADERS + 8 :]):
                    turned = bytearray(whole)
                    turned[chance.randrange(len(turned))] ^= 1 << chance.randrange(8)
                    for copy in (whole, whole[: chance.randrange(len(whole))], bytes(turned)):
                        sender.sendto(copy, ("127.0.0.1", target))
                    repeated += 1
        except Stopped:
            print(json.dumps({"event": "repeated", "packets": repeated}), flush=True)


if __name__ == "__main__":
    main()
