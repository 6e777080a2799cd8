"""Connections that say 64 bytes, hear 64 bytes and end: a server, and a client with many at once.

serve ADDRESS                    prints {"event": "ready", "port": …} and answers until SIGTERM
connect ADDRESS PORT COUNT MANY  makes COUNT connections, MANY at a time; prints {"event": "done", …}
ping ADDRESS PORT COUNT          COUNT round trips of one connection; prints {"event": "pongs", "seconds": […]}

Both are loops around epoll: a program that costs more than what it measures would measure itself.
"""

from __future__ import annotations

import errno
import json
import select
import signal
import socket
import sys
import time

QUESTION = b"q" * 64
ANSWER = b"a" * 64


def say(event: str, **facts: object) -> None:
    """Tell the bench."""
    print(json.dumps({"event": event, **facts}), flush=True)


def serve(address: str) -> None:
    """Answer each block of a question; close when the client does."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    listener = socket.create_server((address, 0), backlog=1024)
    listener.setblocking(False)
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    open_ones: dict[int, socket.socket] = {}
    say("ready", port=listener.getsockname()[1])
    while True:
        for number, _ in poll.poll():
            if number == listener.fileno():
                _accept(listener, poll, open_ones)
                continue
            sock = open_ones[number]
            try:
                data = sock.recv(4096)
            except OSError:
                data = b""
            if data:
                sock.send(ANSWER)
            else:
                del open_ones[number]
                sock.close()


def _accept(listener: socket.socket, poll: select.epoll, open_ones: dict[int, socket.socket]) -> None:
    while True:
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        open_ones[sock.fileno()] = sock
        poll.register(sock, select.EPOLLIN)


def connect(address: str, port: int, count: int, many: int) -> None:
    """Open, ask, hear the answer, close; as many at once as allowed."""
    poll = select.epoll()
    open_ones: dict[int, socket.socket] = {}
    started, begun, done, failed = time.monotonic(), 0, 0, 0
    while done + failed < count:
        while begun < count and len(open_ones) < many:
            sock = socket.socket()
            sock.setblocking(False)
            if (code := sock.connect_ex((address, port))) not in (0, errno.EINPROGRESS):
                raise OSError(code, "connect")
            open_ones[sock.fileno()] = sock
            poll.register(sock, select.EPOLLOUT)
            begun += 1
        for number, event in poll.poll(10):
            sock = open_ones[number]
            try:
                if event & select.EPOLLOUT and not event & (select.EPOLLERR | select.EPOLLHUP):
                    sock.send(QUESTION)
                    poll.modify(sock, select.EPOLLIN)
                    continue
                ok = sock.recv(4096) == ANSWER
            except OSError:
                ok = False
            done, failed = done + ok, failed + (not ok)
            del open_ones[number]
            sock.close()
    say("done", done=done, failed=failed, seconds=time.monotonic() - started)


def ping(address: str, port: int, count: int) -> None:
    """Round trips, one after the other, with a pause between: neither side is ever busy."""
    seconds = []
    with socket.create_connection((address, port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(count):
            began = time.perf_counter()
            sock.send(QUESTION)
            sock.recv(4096)
            seconds.append(time.perf_counter() - began)
            time.sleep(0.002)
    say("pongs", seconds=seconds)


if __name__ == "__main__":
    command, host, *numbers = sys.argv[1:]
    {"serve": serve, "connect": connect, "ping": ping}[command](host, *map(int, numbers))  # type: ignore[operator]
