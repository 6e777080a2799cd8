"""An HTTP server for curl: GET reads and PUT writes files of a directory. Arguments: address, port, directory."""

import shutil
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from pathlib import Path
from socket import AF_INET, AF_INET6


class Files(SimpleHTTPRequestHandler):
    """Adds PUT."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        """Store exactly Content-Length bytes."""
        left = int(self.headers["Content-Length"])
        with Path(self.directory, Path(self.path).name).open("wb") as file:
            while left and (chunk := self.rfile.read(min(left, 1 << 18))):
                file.write(chunk)
                left -= len(chunk)
        self.send_response(201 if left == 0 else 400)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def copyfile(self, source: BufferedIOBase, outputfile: BufferedIOBase) -> None:  # type: ignore[override]
        """In big pieces."""
        shutil.copyfileobj(source, outputfile, 1 << 18)

    def log_message(self, format: str, *args: object) -> None:
        """Silence."""


class Server(ThreadingHTTPServer):
    """IPv4 or IPv6, as the address has it."""

    address_family = AF_INET6 if ":" in sys.argv[1] else AF_INET


with Server((sys.argv[1], int(sys.argv[2])), partial(Files, directory=sys.argv[3])) as server:
    print("serving on port", server.server_address[1], flush=True)
    server.serve_forever()
