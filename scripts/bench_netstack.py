"""What the userspace TCP/IP stack costs: nanoseconds per segment out and in, and two stacks back to back.

    python scripts/bench_netstack.py [--seconds 1.0]

No sockets, no encryption, one process: `out` is `transmit` and what follows from acknowledgements, `in` is `receive`
and the application's `read`. Figures are the best of several rounds; read ratios, not absolutes.
"""

from __future__ import annotations

import argparse
import os
from ipaddress import IPv6Address, IPv6Network
from time import perf_counter

from coder_agent.base.burst import Burst
from coder_agent.base.optional_numpy import has_numpy
from coder_agent.protocols.netstack import Stack, StackConfig, SynRequest, TcpConnection

LEFT = IPv6Address("fd7a:115c:a1e0::1")
RIGHT = IPv6Address("fd7a:115c:a1e0::2")
BLOCK = memoryview(os.urandom(1 << 20))


class Pair:
    """Two stacks, each the other's only peer, joined by function calls."""

    def __init__(self, *, vector: bool, timestamps: bool = False, verify: bool = False) -> None:
        config = StackConfig(timestamps=timestamps, verify_checksums=verify, keepalive_idle=0)
        self.left = Stack(config, rng=os.urandom, vector=vector)
        self.right = Stack(config, rng=os.urandom, vector=vector)
        self.left.add_address(LEFT)
        self.right.add_address(RIGHT)
        self.left.set_peer("right", [IPv6Network(RIGHT)])
        self.right.set_peer("left", [IPv6Network(LEFT)])
        self.out_seconds = self.in_seconds = self.ack_seconds = 0.0
        self.segments = 0
        accepted: list[TcpConnection] = []

        def accept(request: SynRequest) -> None:
            accepted.append(request.accept(perf_counter()))

        self.right.on_syn = accept
        self.sender = self.left.connect(RIGHT, 9, perf_counter())
        while self.sender.state != "established" or not accepted:
            self._carry(self.left, self.right, "left")
            self._carry(self.right, self.left, "right")
        self.receiver = accepted[0]

    def turn(self) -> int:
        """One wake-up on each side; returns the bytes delivered."""
        while self.sender.write(BLOCK):
            pass
        self._bulk()
        delivered = sum(len(chunk) for chunk in self.receiver.read())
        begin = perf_counter()
        self._carry(self.right, self.left, "right")
        self.ack_seconds += perf_counter() - begin
        return delivered

    def _bulk(self) -> None:
        clock = perf_counter
        begin = clock()
        for _, burst in self.left.transmit(begin):
            middle = clock()
            self.right.receive("left", burst, middle)
            end = clock()
            self.out_seconds += middle - begin
            self.in_seconds += end - middle
            self.segments += burst.count
            begin = end
        self.out_seconds += clock() - begin

    def _carry(self, source: Stack, target: Stack, name: str) -> None:
        now = perf_counter()
        bursts: list[Burst] = [burst.copy() for _, burst in source.transmit(now)]
        for burst in bursts:
            target.receive(name, burst, now)


def measure(name: str, seconds: float, *, vector: bool, timestamps: bool = False, verify: bool = False) -> None:
    """Print one row: the best of five rounds."""
    best = (float("inf"), 0.0, 0.0, 0.0)
    for _ in range(5):
        pair = Pair(vector=vector, timestamps=timestamps, verify=verify)
        begin, delivered = perf_counter(), 0
        while perf_counter() - begin < seconds / 5:
            delivered += pair.turn()
        elapsed, count = perf_counter() - begin, pair.segments
        out, into, acks = (x / count * 1e9 for x in (pair.out_seconds, pair.in_seconds, pair.ack_seconds))
        best = min(best, (out + into + acks, out, into, delivered / elapsed / 1e6))
    print(f"{name:34} {best[1]:8.0f} {best[2]:8.0f} {best[0] - best[1] - best[2]:8.0f} {best[3]:10.0f}")


def main() -> None:
    """Measure every back end and layout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="time per row")
    seconds = parser.parse_args().seconds
    print(f"{'one stream, MTU 1280':34} {'out ns':>8} {'in ns':>8} {'acks ns':>8} {'MB/s':>10}")
    for vector in (True, False) if has_numpy() else (False,):
        back_end = "vector" if vector else "scalar"
        measure(back_end, seconds, vector=vector)
        measure(f"{back_end}, timestamps", seconds, vector=vector, timestamps=True)
        measure(f"{back_end}, checksums verified", seconds, vector=vector, verify=True)


if __name__ == "__main__":
    main()
