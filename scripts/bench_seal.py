#!/usr/bin/env python3
"""What WireGuard costs per packet: `Device.send` and `Device.receive` for whole bursts, with both back ends.

    scripts/bench_seal.py [--size 1280] [--rows 49] [--rounds 400]

Prints nanoseconds per packet: the best round, which a busy machine disturbs least, and the median. "aead" is the bare
encrypt_into and decrypt_into loop over ready-made views, the floor for both.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterable

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from coder_agent.base.burst import Burst
from coder_agent.base.keys import NodePrivate, NodePublic
from coder_agent.base.optional_numpy import has_numpy
from coder_agent.protocols.effects import Deliver, Effect, Transmit
from coder_agent.protocols.wireguard import Device


def connect(vector: bool) -> tuple[Device, Device, NodePublic]:
    """Two devices with a session that both may use, and the second one's key."""
    keys = NodePrivate.generate(os.urandom), NodePrivate.generate(os.urandom)
    one, two = (Device(key, rng=os.urandom, wall=time.time, vector=vector) for key in keys)
    one.add_peer(keys[1].public())
    two.add_peer(keys[0].public())
    effects: list[Effect] = one.initiate(keys[1].public(), 0.0)
    for receiver in (two, one, two):
        [message] = [effect for effect in effects if isinstance(effect, Transmit)]
        effects = receiver.receive(message.burst.copy(), "peer", 0.0)
    return one, two, keys[1].public()


def timed(calls: Iterable[Callable[[], object]], packets: int) -> list[float]:
    """Nanoseconds per packet of each call."""
    times = []
    for call in calls:
        start = time.perf_counter_ns()
        call()
        times.append((time.perf_counter_ns() - start) / packets)
    return times


def report(name: str, times: list[float]) -> None:
    """One line of the table."""
    print(f"{name:34} {min(times):8.0f} {statistics.median(times):8.0f}")


def bench_floor(size: int, rows: int, rounds: int) -> None:
    """The AEAD calls alone."""
    aead = ChaCha20Poly1305(os.urandom(32))
    plain, sealed = memoryview(bytearray(size * rows)), memoryview(bytearray((size + 16) * rows))
    views = [
        (bytes(4) + i.to_bytes(8, "little"), plain[i * size :][:size], sealed[i * (size + 16) :][: size + 16])
        for i in range(rows)
    ]

    def seal() -> None:
        for nonce, data, out in views:
            aead.encrypt_into(nonce, data, None, out)

    def open_() -> None:
        for nonce, data, out in views:
            aead.decrypt_into(nonce, out, None, data)

    report("aead seal", timed([seal] * rounds, rows))
    report("aead open", timed([open_] * rounds, rows))


def bench_device(vector: bool, size: int, rows: int, rounds: int) -> None:
    """One back end: seal for UDP and for a relay, open a run, a run with a hole, and a reordered burst."""
    one, two, key = connect(vector)
    name = "vector" if vector else "scalar"
    packets = Burst(memoryview(bytearray(os.urandom(size * rows))), 0, size, rows, size, size)
    report(f"{name} seal", timed([lambda: one.send(key, packets, 1.0)] * rounds, rows))
    report(f"{name} seal, relay headroom", timed([lambda: one.send(key, packets, 1.0, headroom=37)] * rounds, rows))
    single = Burst(packets.buffer, 0, size, 1, size, size)
    report(f"{name} seal, one packet", timed([lambda: one.send(key, single, 1.0)] * rounds, 1))

    buffer = memoryview(bytearray(256 << 10))

    def opening(label: str, order: Callable[[list[bytes]], list[bytes]]) -> None:
        times = []
        for _ in range(rounds):
            [sealed] = one.send(key, packets, 1.0)
            assert isinstance(sealed, Transmit)
            messages = order([bytes(row) for row in sealed.burst.rows()])
            length = len(messages[0])
            buffer[: length * len(messages)] = b"".join(messages)
            burst = Burst(buffer, 0, length, len(messages), length, length)
            delivered: list[Effect] = []
            times += timed([lambda b=burst, d=delivered: d.extend(two.receive(b, "peer", 1.0))], len(messages))  # type: ignore[misc]
            assert sum(e.burst.count for e in delivered if isinstance(e, Deliver)) == len(messages)
        report(label, times)

    opening(f"{name} open", lambda m: m)
    opening(f"{name} open, one lost", lambda m: m[:5] + m[6:] if len(m) > 6 else m)
    opening(f"{name} open, reordered", lambda m: [*m[1:], m[0]])
    opening(f"{name} open, one packet", lambda m: m[:1])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1280, help="bytes per inner packet")
    parser.add_argument("--rows", type=int, default=49, help="packets per burst")
    parser.add_argument("--rounds", type=int, default=400)
    options = parser.parse_args()
    print(f"{options.size} B × {options.rows} packets per burst{'ns per packet: best':>24} {'median':>8}")
    bench_floor(options.size, options.rows, options.rounds)
    for vector in (True, False):
        if has_numpy() or not vector:
            bench_device(vector, options.size, options.rows, options.rounds)


if __name__ == "__main__":
    main()
