"""A network in one process: joins a TUN device in each of two namespaces, and loses, repeats and reorders packets.

    lossy_link.py NAMESPACE_A NAMESPACE_B DEVICE LOSS DUPLICATE REORDER SEED

Both devices exist already and are called DEVICE. The probabilities are per packet. A reordered packet is let through
behind the next few.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import random
import select
import struct
import sys
from dataclasses import dataclass

CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
"""Linux numbers. Source: linux/sched.h, linux/if_tun.h."""
BATCH = 64
"""Packets taken from one side before the other has its turn."""
OVERTAKEN_BY = 3
"""Packets that go before a reordered one: as many as make a naive sender believe in a loss."""


def open_tun(namespace: str, device: str) -> int:
    """The device's file descriptor; stays usable from any namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{namespace}", "rb") as there:
        if libc.setns(there.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TUN | IFF_NO_PI))
    return tun


@dataclass
class Way:
    """One direction."""

    source: int
    target: int
    held: bytes = b""
    overtakers: int = 0


class Weather:
    """What happens to packets."""

    def __init__(self, loss: float, duplicate: float, reorder: float, seed: int) -> None:
        self.random = random.Random(seed).random
        self.lost_below = loss
        self.doubled_below = loss + duplicate
        self.held_below = loss + duplicate + reorder
        self.counts = {"carried": 0, "lost": 0, "doubled": 0, "reordered": 0}

    def carry(self, way: Way) -> None:
        """Move what is waiting, at most BATCH packets."""
        for _ in range(BATCH):
            try:
                packet = os.read(way.source, 65536)
            except BlockingIOError:
                if way.held:  # nobody comes to overtake it
                    way.overtakers = 0
                    self._release(way)
                return
            dice = self.random()
            self.counts["carried"] += 1
            if dice < self.lost_below:
                self.counts["lost"] += 1
                continue
            if dice < self.doubled_below:
                self.counts["doubled"] += 1
                _write(way.target, packet)
            elif dice < self.held_below and not way.held:
                self.counts["reordered"] += 1
                way.held, way.overtakers = packet, OVERTAKEN_BY
                continue
            _write(way.target, packet)
            if way.held:
                way.overtakers -= 1
                self._release(way)

    def _release(self, way: Way) -> None:
        if way.overtakers <= 0:
            _write(way.target, way.held)
            way.held = b""


def _write(tun: int, packet: bytes) -> None:
    try:
        os.write(tun, packet)
    except OSError:  # the device is down, or its queue is full: a lost packet
        pass


def main(a: str, b: str, device: str, loss: str, duplicate: str, reorder: str, seed: str) -> None:
    """Carry until killed."""
    left, right = open_tun(a, device), open_tun(b, device)
    weather = Weather(float(loss), float(duplicate), float(reorder), int(seed))
    ways = {left: Way(left, right), right: Way(right, left)}
    print(json.dumps({"event": "ready"}), flush=True)
    while True:
        for tun in select.select([left, right], [], [])[0]:
            weather.carry(ways[tun])


if __name__ == "__main__":
    main(*sys.argv[1:])
