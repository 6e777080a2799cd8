"""An HTTP server for curl: GET reads and PUT writes files of a directory.

Run it as ``python -m coder_agent.testing.files_http ADDRESS PORT DIRECTORY``; it says ``serving on port N``.
"""

from __future__ import annotations

import shutil
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from pathlib import Path
from socket import AF_INET, AF_INET6

PIECE = 1 << 18


class _Files(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        """Store exactly Content-Length bytes."""
        left = int(self.headers["Content-Length"])
        with Path(self.directory, Path(self.path).name).open("wb") as file:
            while left and (chunk := self.rfile.read(min(left, PIECE))):
                file.write(chunk)
                left -= len(chunk)
        self.send_response(201 if left == 0 else 400)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def copyfile(self, source: BufferedIOBase, outputfile: BufferedIOBase) -> None:  # type: ignore[override]
        """In big pieces."""
        shutil.copyfileobj(source, outputfile, PIECE)

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
