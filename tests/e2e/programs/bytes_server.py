"""The program in the workspace that transfers talk to: one JSON line asks, then bytes come or go.

    {"get": size, "pace": bytes per second or 0}    we send `size` bytes of the pattern, and close
    {"put": size}                                   we read `size` bytes and answer {"sha256": …}

Prints ``{"event": "listening", "port": …}``. The argument is the address to listen on.
"""

from __future__ import annotations

import hashlib
import json
import socket
import socketserver
import sys
import time
from typing import Any

PERIOD = 1_000_003
"""Bytes until the pattern repeats: a prime, so that no lost, doubled or swapped packet leaves the sum as it was."""
SLICE = 1 << 16


def pattern() -> bytes:
    """One period."""
    return hashlib.shake_128(b"pattern").digest(PERIOD)


class Conversation(socketserver.StreamRequestHandler):
    """One transfer."""

    def handle(self) -> None:
        request: dict[str, Any] = json.loads(self.rfile.readline())
        if "get" in request:
            self._send(request["get"], request.get("pace", 0))
        else:
            digest = hashlib.sha256()
            left = int(request["put"])
            while left and (data := self.rfile.read1(min(left, SLICE))):
                digest.update(data)
                left -= len(data)
            self.wfile.write(json.dumps({"sha256": digest.hexdigest(), "missing": left}).encode() + b"\n")

    def _send(self, size: int, pace: int) -> None:
        period = memoryview(pattern() * 2)
        began, sent = time.monotonic(), 0
        while sent < size:
            count = min(SLICE, size - sent)
            start = sent % PERIOD
            self.connection.sendall(period[start : start + count])
            sent += count
            if pace and (ahead := sent / pace - (time.monotonic() - began)) > 0:
                time.sleep(ahead)


class Server(socketserver.ThreadingTCPServer):
    """Any number of transfers at once."""

    allow_reuse_address = True
    daemon_threads = True


class Server6(Server):
    """The same on IPv6."""

    address_family = socket.AF_INET6


if __name__ == "__main__":
    address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1"
    kind = Server6 if ":" in address else Server
    with kind((address, 0), Conversation) as server:
        print(json.dumps({"event": "listening", "port": server.server_address[1]}), flush=True)
        server.serve_forever()
