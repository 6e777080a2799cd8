"""An HTTP server for curl: GET reads and PUT writes files of a directory. ``?rate=N`` behind a name makes GET send N
bytes a second, evenly; a client that reads slowly would let data pile up in buffers on the way instead.

Run it as ``python -m coder_agent.testing.files_http ADDRESS PORT DIRECTORY``; it says ``serving on port N``.
"""

from __future__ import annotations

import shutil
import sys
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from pathlib import Path
from socket import AF_INET, AF_INET6
from urllib.parse import parse_qs, urlsplit

PIECE = 1 << 18


class _Files(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        """Store exactly Content-Length bytes."""
        left = int(self.headers["Content-Length"])
        with Path(self.directory, Path(urlsplit(self.path).path).name).open("wb") as file:
            while left and (chunk := self.rfile.read(min(left, PIECE))):
                file.write(chunk)
                left -= len(chunk)
        self.send_response(201 if left == 0 else 400)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def copyfile(self, source: BufferedIOBase, outputfile: BufferedIOBase) -> None:  # type: ignore[override]
        """In big pieces, or evenly."""
        rate = parse_qs(urlsplit(self.path).query).get("rate")
        if rate is None:
            shutil.copyfileobj(source, outputfile, PIECE)
            return
        piece = int(rate[0]) // 50
        while data := source.read(piece):
            outputfile.write(data)
            time.sleep(0.02)

    def log_message(self, format: str, *args: object) -> None:
        """Silence."""


def main(address: str, port: str, directory: str) -> None:
    """Serve until killed."""

    class Server(ThreadingHTTPServer):
        address_family = AF_INET6 if ":" in address else AF_INET
        request_queue_size = 128  # of many connections at once, none shall wait for a repeated SYN

    with Server((address, int(port)), partial(_Files, directory=directory)) as server:
        print("serving on port", server.server_address[1], flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
