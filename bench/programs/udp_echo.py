"""A bare UDP echo, server or client: what the network and the kernel cost without any of us.

udp_echo.py serve ADDRESS PORT
udp_echo.py ping ADDRESS PORT COUNT INTERVAL_MS
"""

from __future__ import annotations

import json
import socket
import sys
import time

SIZE = 96
"""Bytes: what a ping in the tunnel has on the wire."""


def serve(address: str, port: int) -> None:
    """Answer until killed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((address, port))
        print(json.dumps({"event": "ready"}), flush=True)
        while True:
            data, source = sock.recvfrom(2048)
            sock.sendto(data, source)


def ping(address: str, port: int, count: int, interval: float) -> list[float]:
    """Round trips in seconds."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.2)
        times: list[float] = []
        deadline = time.monotonic() + 20
        while len(times) < count and time.monotonic() < deadline:
            started = time.perf_counter()
            sock.sendto(bytes(SIZE), (address, port))
            try:
                sock.recvfrom(2048)
            except (TimeoutError, ConnectionError):  # the server is not up yet
                continue
            times.append(time.perf_counter() - started)
            time.sleep(interval)
    return times


if __name__ == "__main__":
    role, where, number, *rest = sys.argv[1:]
    if role == "serve":
        serve(where, int(number))
    else:
        print(json.dumps({"event": "pongs", "seconds": ping(where, int(number), int(rest[0]), int(rest[1]) / 1e3)}))
