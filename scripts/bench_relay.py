#!/usr/bin/env python3
"""How many frames per second the relay alone forwards: a blocking sender and a blocking sink in processes of their own.

    scripts/bench_relay.py [--seconds 3] [--size 1312] [--tls | --plain]

The relay has one core to itself if there are two; sender and sink share the other. Prints one line per case.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import socket
import ssl
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

from coder_agent_transport_derp.relay import DerpRelay
from coder_agent_transport_derp.standalone import serve_relay

from coder_agent.base.burst import Burst
from coder_agent.base.keys import NodePrivate, NodePublic
from coder_agent.protocols.derp.client import DerpClient

REQUEST = b"GET /derp HTTP/1.1\r\nHost: relay\r\nUpgrade: DERP\r\nConnection: Upgrade\r\nDerp-Fast-Start: 1\r\n\r\n"
ROWS = 150


def login(port: int, tls: bool, key: NodePrivate) -> tuple[socket.socket, DerpClient]:
    """A logged-in blocking connection."""
    sock: socket.socket = socket.create_connection(("127.0.0.1", port))
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        sock = context.wrap_socket(sock)
    sock.sendall(REQUEST)
    client = DerpClient(key, rng=os.urandom, now=0.0)
    while not client.ready:
        for _ in client.received(sock.recv_into(client.room()), 0.0):
            pass
        sock.sendall(client.take_output())
    return sock, client


def send(port: int, tls: bool, destination: bytes, size: int, seconds: float, out: Connection) -> None:
    """Send as fast as the relay reads."""
    pin(1)
    sock, client = login(port, tls, NodePrivate.generate(os.urandom))
    stride = size + 37
    buffer = memoryview(bytearray(os.urandom(stride * ROWS)))
    burst = Burst(buffer, 37, stride, ROWS, size, size, 37)
    sent = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        data = client.send(burst, NodePublic(destination), 0.0)
        assert data is not None
        sock.sendall(data)
        sent += ROWS
    out.send(sent)
    sock.close()


def sink(port: int, tls: bool, out: Connection) -> None:
    """Count bytes until nothing comes any more."""
    pin(1)
    key = NodePrivate.generate(os.urandom)
    sock, _ = login(port, tls, key)
    out.send(key.public().raw)
    buffer = memoryview(bytearray(256 << 10))
    first = last = 0.0
    total = 0
    sock.settimeout(2)
    while True:
        try:
            count = sock.recv_into(buffer)
        except TimeoutError:
            break
        last = time.monotonic()
        first = first or last
        total += count
    out.send((total, last - first))


def pin(core: int) -> None:
    """Keep the measured process apart from the two that feed it."""
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {core})


def server_context(folder: Path) -> ssl.SSLContext:
    """TLS with a throw-away certificate."""
    import trustme

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    return context


async def measure(tls: bool, size: int, seconds: float) -> str:
    """One case: start the relay here, sender and sink beside it."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        context = server_context(Path(folder)) if tls else None
        relay = DerpRelay()
        loop = asyncio.get_running_loop()
        async with serve_relay(relay, tls=context) as address:
            sink_end, sink_side = spawn.Pipe()
            send_end, send_side = spawn.Pipe()
            consumer = spawn.Process(target=sink, args=(address.port, tls, sink_side))
            consumer.start()
            key = await loop.run_in_executor(None, sink_end.recv)
            producer = spawn.Process(target=send, args=(address.port, tls, key, size, seconds, send_side))
            before = time.process_time()
            producer.start()
            sent = await loop.run_in_executor(None, send_end.recv)
            cpu = time.process_time() - before
            total, duration = await loop.run_in_executor(None, sink_end.recv)
            producer.join()
            consumer.join()
        if not duration:
            return f"{'tls' if tls else 'plain':5} {size:5} B  nothing arrived within 2 s: the machine is too busy"
        frames = total / (size + 37)
        return (
            f"{'tls' if tls else 'plain':5} {size:5} B  {frames / duration / 1e6:6.3f} M frames/s  "
            f"{frames * size * 8 / duration / 1e9:6.2f} Gbit/s  dropped {100 * (1 - frames / sent):4.1f} %  "
            f"relay {cpu / seconds:4.0%} of a core, {cpu / sent * 1e6:5.2f} µs per frame"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--size", type=int, default=1312)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--plain", action="store_true")
    options = parser.parse_args()
    pin(0)
    for tls in [t for t in (False, True) if (options.tls if t else options.plain) or options.tls == options.plain]:
        print(asyncio.run(measure(tls, options.size, options.seconds)), flush=True)


if __name__ == "__main__":
    main()
