"""How many packets per second the UDP transport moves over loopback: with offload, without, and mixed.

    python scripts/bench_udp.py [--seconds 2] [--size 1312] [--burst 49]

Sender and receiver share one process and one event loop: the figures are for both directions on one core. Not a
test: read the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import time

from coder_agent_transport_udp.loops import open_loop
from coder_agent_transport_udp.settings import UdpSettings
from coder_agent_transport_udp.transport import UdpTransport

from coder_agent.base.addresses import AddrPort
from coder_agent.base.burst import Burst
from coder_agent.base.paths import Path, UdpPath
from coder_agent.hooks import Transport

MODES = {
    "GSO + GRO": (UdpSettings(ipv6=False), UdpSettings(ipv6=False)),
    "GSO, stacked receive": (UdpSettings(ipv6=False), UdpSettings(ipv6=False, gro=False)),
    "packet per send, GRO on": (UdpSettings(ipv6=False, gso=False), UdpSettings(ipv6=False)),
    "no offload, stacked receive": (UdpSettings(ipv6=False, offload="off"), UdpSettings(ipv6=False, offload="off")),
}


class Sink:
    """Counts."""

    def __init__(self) -> None:
        self.packets = 0
        self.bursts = 0

    def on_burst(self, burst: Burst, path: Path) -> None:
        self.packets += burst.count
        self.bursts += 1

    def on_drained(self) -> None:
        pass

    def on_writable(self, transport: Transport) -> None:
        pass

    def on_path_error(self, path: Path, error: OSError) -> None:
        raise error


async def measure(modes: tuple[UdpSettings, UdpSettings], seconds: float, size: int, count: int) -> Sink:
    """Send four bursts, let the receiver have its turn, and so on; count what arrived."""
    sink = Sink()
    async with open_loop() as loop:
        sender, receiver = UdpTransport(Sink(), modes[0], loop), UdpTransport(sink, modes[1], loop)
        path = UdpPath(AddrPort("127.0.0.1", receiver.bound_ports()[0] or 0))
        burst = Burst(memoryview(bytearray(size * count)), 0, size, count, size, size)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for _ in range(4):
                sender.send(burst, path)
            await asyncio.sleep(0)
        receiver.close()
        sender.close()
    return sink


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--size", type=int, default=1312, help="bytes per packet")
    parser.add_argument("--burst", type=int, default=49, help="packets per burst")
    options = parser.parse_args()
    print(f"{'mode':30} {'packets/s':>12} {'Gbit/s':>8} {'rows/burst':>11}")
    for name, modes in MODES.items():
        sink = asyncio.run(measure(modes, options.seconds, options.size, options.burst))
        rate = sink.packets / options.seconds
        rows = sink.packets / max(sink.bursts, 1)
        print(f"{name:30} {rate:12,.0f} {rate * options.size * 8 / 1e9:8.2f} {rows:11.1f}")


if __name__ == "__main__":
    main()
