"""An app that knows nothing of prefixes, for test_web_apps.py: it names everything from the root."""

from __future__ import annotations

import base64
import hashlib
import json
import socketserver
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAGE = b"""<!doctype html><html><head><title>app</title><link rel="stylesheet" href="/static/style.css">
<script type="module" src="/static/main.js"></script></head>
<body><script src="/static/plain.js"></script></body></html>"""
MAIN = b"""import { value } from "/static/dep.js"; window.seen = Object.assign(window.seen || {}, { module: value });"""
PLAIN = b"""window.seen = window.seen || {};
(async () => {
  localStorage.setItem("k", "kept"); seen.stored = localStorage.getItem("k");
  seen.fetch = await (await fetch("/static/fetched.txt")).text();
  seen.api = await (await fetch("/api/v2/users/me")).text();
  seen.events = await new Promise(done => {
    const s = new EventSource("/events"); s.onmessage = e => { s.close(); done(e.data) } });
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  seen.socket = await new Promise(done => { const w = new WebSocket(scheme + "//" + location.host + "/socket");
    w.onopen = () => w.send("hello"); w.onmessage = e => done(e.data) });
  if (window.origin !== "null") while (!seen.module) await new Promise(done => setTimeout(done, 20));
  document.body.dataset.done = "yes";
})();"""
FILES = {
    "/": ("text/html", PAGE),
    "/static/main.js": ("text/javascript", MAIN), "/static/plain.js": ("text/javascript", PLAIN),
    "/static/dep.js": ("text/javascript", b'export const value = "imported";'),
    "/static/style.css": ("text/css", b"body { color: green }"), "/static/fetched.txt": ("text/plain", b"fetched"),
    "/api/v2/users/me": ("text/plain", b"app"),
}  # fmt: skip
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Handler(BaseHTTPRequestHandler):
    """By path."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path in FILES:
            self.reply(*FILES[path])
        elif path == "/events":
            self.events()
        elif path == "/socket":
            self.socket()
        elif path == "/trailers":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n")
            self.wfile.write(b"3\r\nabc\r\n3\r\ndef\r\n0\r\nX-Sum: 6\r\n\r\n")
        else:
            self.reply("application/json", json.dumps({"target": self.path}).encode())

    def do_PUT(self) -> None:
        digest, size = hashlib.sha256(), 0
        for piece in self.body():
            digest.update(piece)
            size += len(piece)
        self.reply("application/json", json.dumps({"size": size, "sha256": digest.hexdigest()}).encode())

    def body(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers["Content-Length"])
        while left:
            piece = self.rfile.read(min(left, 65536))
            left -= len(piece)
            yield piece

    def reply(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def events(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for number in (1, 2, 3):
            self.wfile.write(f"data: {number}\n\n".encode())
            self.wfile.flush()
            time.sleep(0.05)
        self.close_connection = True

    def socket(self) -> None:
        """One short text frame, echoed; the origin must be the app's own, as careful apps ask."""
        if self.headers["Origin"] != f"http://{self.headers['Host']}":
            self.send_error(403)
            return
        accept = base64.b64encode(hashlib.sha1(self.headers["Sec-WebSocket-Key"].encode() + GUID).digest())
        self.wfile.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
            + accept + b"\r\n\r\n"
        )  # fmt: skip
        head = self.rfile.read(6)
        text = bytes(byte ^ head[2 + at % 4] for at, byte in enumerate(self.rfile.read(head[1] & 127)))
        answer = b"echo: " + text
        self.wfile.write(b"\x81" + bytes([len(answer)]) + answer)
        self.rfile.read(1)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


if __name__ == "__main__":
    socketserver.TCPServer.request_queue_size = 64
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"listening on {server.server_port}", flush=True)
    server.serve_forever()
