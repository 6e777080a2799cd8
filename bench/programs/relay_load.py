"""The load of the relay benchmarks: raw clients over TLS or plain TCP, many to a process, no event loop of ours.

relay_load.py forward ADDRESS TLS SIZE PAIRS SECONDS     frames through the relay, a window of them in flight per pair
relay_load.py pairs ADDRESS TLS PAIRS FRAMES             each to its partner, then all to one and one to all
relay_load.py latency ADDRESS TLS COUNT                  round trips through the relay, and to a bare echo over TCP
relay_load.py idle ADDRESS TLS CLIENTS SECONDS           clients that say nothing: when was each kept alive?
relay_load.py half ADDRESS TLS CONNECTIONS               requests that do not end; how long do others wait meanwhile?

ADDRESS is host:port, TLS 1 or 0 (certificates are not looked at). Tells its results as events on stdout.
"""

from __future__ import annotations

import json
import os
import resource
import select
import socket
import ssl
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from coder_agent.base.keys import NodePrivate
from coder_agent.protocols.derp.client import DerpClient
from coder_agent.protocols.derp.frames import FrameType, send_packet
from coder_agent.protocols.derp.stream import Arena

REQUEST = b"GET /derp HTTP/1.1\r\nHost: relay\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n"
WINDOW = 32
"""Frames in flight per pair: what derper queues for one client. More, and it would drop what it was sent."""
STALL = 0.25
"""Seconds without any frame after which the windows count as lost and are sent anew."""
IN_FLIGHT = 200
"""Frames on their way to one client, of 1000 bytes: a sender that does not look would be told to by TCP inside."""
PAYLOAD = 1000
PING_EVERY = 0.002
GAP = 70.0
"""Seconds between two keepalives that are too many: 60, up to 5 of jitter, and what a tick and the machine cost."""

ARENA = Arena()
ROOM = memoryview(bytearray(1 << 18))


def tell(name: str, **facts: object) -> None:
    """One event."""
    print(json.dumps({"event": name, **facts}), flush=True)


class Client:
    """A logged-in connection. It blocks until `free` is called; then `read` and `write` do what they can."""

    def __init__(self, at: tuple[str, int], tls: ssl.SSLContext | None) -> None:
        raw = socket.create_connection(at, timeout=60)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock: socket.socket = tls.wrap_socket(raw) if tls else raw
        private = NodePrivate.generate(os.urandom)
        self.key = private.public().raw
        self.unsent = memoryview(b"")
        self.kept = b""
        self.sock.sendall(REQUEST)
        head = b""
        while b"\r\n\r\n" not in head:
            head += self.sock.recv(4096)
        if not head.startswith(b"HTTP/1.1 101 "):
            raise SystemExit(f"the relay answers {head[:80]!r}")
        machine = DerpClient(private, rng=os.urandom, now=0.0, arena=ARENA)
        data = head.partition(b"\r\n\r\n")[2]
        while not machine.ready:
            if not data:
                data = self.sock.recv(4096)
            machine.room()[: len(data)] = data
            for _ in machine.received(len(data), 0.0):
                pass
            data = b""
            self.sock.sendall(machine.take_output())

    def free(self) -> None:
        """Never block again."""
        self.sock.setblocking(False)

    def read(self, room: memoryview = ROOM) -> int:
        """Take what is there into `room`."""
        total = 0
        with suppress(BlockingIOError, ssl.SSLWantReadError):
            while total < len(room):
                count = self.sock.recv_into(room[total:])
                if not count:
                    raise SystemExit("the relay closed a connection")
                total += count
        return total

    def write(self, data: memoryview | None = None) -> bool:
        """Send `data`, or what was left over. True: nothing is left over now."""
        if data is not None:
            self.unsent = data
        with suppress(BlockingIOError, ssl.SSLWantWriteError):
            while self.unsent:
                self.unsent = self.unsent[self.sock.send(self.unsent) :]
        return not self.unsent

    def frames(self) -> Iterator[tuple[int, memoryview]]:
        """The frames that are there: type and payload."""
        data = memoryview(self.kept + bytes(ROOM[: self.read()]))
        while len(data) >= 5 and len(data) >= (end := 5 + int.from_bytes(data[1:5], "big")):
            yield data[0], data[5:end]
            data = data[end:]
        self.kept = bytes(data)


def connect(at: tuple[str, int], tls: ssl.SSLContext | None, count: int) -> list[Client]:
    """`count` clients, and as many file descriptors as they need."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return [Client(at, tls) for _ in range(count)]


# ---------------------------------------------------------------- forward


def forward(at: tuple[str, int], tls: ssl.SSLContext | None, size: int, pairs: int, seconds: float) -> None:
    """Each sender keeps a window of frames in flight to its sink. Told: the frames that arrived."""
    frame = size + 37
    senders, sinks = connect(at, tls, pairs), connect(at, tls, pairs)
    poll = select.epoll()
    flows: dict[int, tuple[Client, Client, memoryview]] = {}
    for sender, sink in zip(senders, sinks, strict=True):
        sender.free()
        sink.free()
        window = memoryview(send_packet(sink.key, os.urandom(size)) * WINDOW)
        flows[sink.sock.fileno()] = sender, sink, window
        poll.register(sink.sock, select.EPOLLIN)
    partial = dict.fromkeys(flows, 0)
    lost = total = 0
    tell("ready")
    begun, cpu = time.monotonic(), time.process_time()
    for sender, _, window in flows.values():
        sender.write(window)
    while (now := time.monotonic()) < begun + seconds:
        ready = poll.poll(STALL)
        if not ready:
            lost += 1
            for sender, _, window in flows.values():
                sender.write(None if sender.unsent else window)
        for number, _ in ready:
            sender, sink, window = flows[number]
            count = sink.read()
            total += count
            frames, partial[number] = divmod(partial[number] + count, frame)
            while not sender.write():  # it is only ever a window behind
                time.sleep(0)
            sender.write(window[: min(frames, WINDOW) * frame])
    used = time.process_time() - cpu
    tell("forwarded", frames=total / frame, seconds=now - begun, stalls=lost, load=used / (now - begun))


# ---------------------------------------------------------------- pairs


@dataclass(slots=True)
class Sink:
    """A client that receives: how much is on its way to it, and who wants to send it more."""

    client: Client
    flying: int = 0
    waiting: deque[Client] = field(default_factory=deque)


def pairs(at: tuple[str, int], tls: ssl.SSLContext | None, count: int, frames: int) -> None:
    """All pairs at once; everybody to one (fan-in); one to everybody (fan-out)."""
    left, right = connect(at, tls, count), connect(at, tls, count)
    for client in left + right:
        client.free()
    tell("ready")
    one = left[0]
    both = list(zip(left, right, strict=True))
    tell("pairs", **exchange(both + [(b, a) for a, b in both], frames))
    tell("fan_in", **exchange([(client, one) for client in right], frames))
    tell("fan_out", **exchange([(one, client) for client in right], frames))


def exchange(flows: list[tuple[Client, Client]], frames: int) -> dict[str, object]:
    """Send `frames` frames along every flow, and compare every byte of what comes out."""
    sinks = {sink.sock.fileno(): Sink(sink) for _, sink in flows}
    poll = select.epoll()
    for number in sinks:
        poll.register(number, select.EPOLLIN)
    for source, target in flows:
        sinks[target.sock.fileno()].waiting.extend([source] * frames)
    sent: dict[tuple[bytes, bytes], int] = {}
    arrived: dict[tuple[bytes, bytes], int] = {}
    begun = time.monotonic()
    wrong = 0
    blocked: set[Client] = set()
    for sink in sinks.values():
        refill(sink, sent, blocked)
    while sum(arrived.values()) < len(flows) * frames:
        ready = poll.poll(5)
        if not ready and not blocked:
            break
        blocked = {client for client in blocked if not client.write()}
        for number, _ in ready:
            sink = sinks[number]
            for kind, payload in sink.client.frames():
                if kind == FrameType.RECV_PACKET:
                    flow = bytes(payload[:32]), sink.client.key
                    wrong += payload[32:] != content(*flow, arrived.get(flow, 0))
                    arrived[flow] = arrived.get(flow, 0) + 1
                    sink.flying -= 1
            refill(sink, sent, blocked)
    total = sum(arrived.values())
    return {
        "flows": len(flows),
        "missing": len(flows) * frames - total,
        "wrong": wrong,
        "bytes": total * PAYLOAD,
        "seconds": time.monotonic() - begun,
    }


def refill(sink: Sink, sent: dict[tuple[bytes, bytes], int], blocked: set[Client]) -> None:
    """Let as many frames fly to `sink` as may."""
    while sink.waiting and sink.flying < IN_FLIGHT:
        source = sink.waiting.popleft()
        flow = source.key, sink.client.key
        number = sent.get(flow, 0)
        sent[flow] = number + 1
        sink.flying += 1
        data = send_packet(sink.client.key, content(*flow, number))
        if not source.write(memoryview(bytes(source.unsent) + data)):
            blocked.add(source)


def content(source: bytes, target: bytes, number: int) -> bytes:
    """What the frame `number` of a flow holds."""
    mark = source[:12] + target[:12] + number.to_bytes(8, "big")
    return (mark * (PAYLOAD // len(mark) + 1))[:PAYLOAD]


# ---------------------------------------------------------------- latency


def latency(at: tuple[str, int], tls: ssl.SSLContext | None, count: int) -> None:
    """Frames there and back through the relay, and as many bytes there and back over one TCP connection."""
    a, b = Client(at, tls), Client(at, tls)
    there, back = send_packet(b.key, bytes(100)), send_packet(a.key, bytes(100))
    tell("relayed", seconds=round_trips(a.sock, there, lambda: echo(b.sock, back), count))
    listener = socket.create_server(("127.0.0.1", 0))
    direct = socket.create_connection(listener.getsockname())
    answering, _ = listener.accept()
    for sock in (direct, answering):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    tell("direct", seconds=round_trips(direct, there, lambda: echo(answering, back), count))


def round_trips(sock: socket.socket, data: bytes, answer: Callable[[], None], count: int) -> list[float]:
    """Seconds of each; `answer` runs in a process of its own."""
    if not (child := os.fork()):
        with suppress(BaseException):
            answer()
        os._exit(0)
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        sock.sendall(data)
        exactly(sock, len(data))
        times.append(time.perf_counter() - begun)
        time.sleep(PING_EVERY)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return times


def echo(sock: socket.socket, data: bytes) -> None:
    """Answer every frame with `data`, which is as long."""
    while True:
        exactly(sock, len(data))
        sock.sendall(data)


def exactly(sock: socket.socket, count: int) -> None:
    """Read `count` bytes and forget them."""
    while count:
        got = sock.recv_into(ROOM[:count])
        if not got:
            raise SystemExit("the connection ended")
        count -= got


# ---------------------------------------------------------------- idle


def idle(at: tuple[str, int], tls: ssl.SSLContext | None, count: int, seconds: float) -> None:
    """Connect, say so, and only listen."""
    clients = connect(at, tls, count)
    now = time.monotonic()
    heard = dict.fromkeys((client.sock.fileno() for client in clients), now)
    by_number = {client.sock.fileno(): client for client in clients}
    poll = select.epoll()
    for client in clients:
        client.free()
        poll.register(client.sock, select.EPOLLIN)
    tell("ready", clients=len(clients))
    end, longest, keepalives, closed = now + seconds, 0.0, 0, 0
    while (now := time.monotonic()) < end:
        for number, _ in poll.poll(end - now):
            now = time.monotonic()
            try:
                kinds = [kind for kind, _ in by_number[number].frames()]
            except (SystemExit, OSError):
                closed += 1
                poll.unregister(number)
                continue
            if FrameType.KEEP_ALIVE in kinds:
                keepalives += kinds.count(FrameType.KEEP_ALIVE)
                longest = max(longest, now - heard[number])
                heard[number] = now
    late = sum(end - at > GAP for at in heard.values())
    tell("idled", clients=len(clients), keepalives=keepalives, longest=longest, late=late, closed=closed)


HALF_REQUEST = b"GET /derp HTTP/1.1\r\nHost: relay\r\n"
HALF_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
"""TLS 1.x, a ClientHello of 508 bytes, of which these are the first."""
VISITORS = 20


def half(at: tuple[str, int], tls: ssl.SSLContext | None, count: int) -> None:
    """Open connections that begin to ask and do not end; then time whole logins and a packet there and back."""
    began = time.monotonic()
    opened = []
    for _ in range(count):
        sock = socket.create_connection(at, timeout=60)
        sock.sendall(HALF_REQUEST if tls is None else HALF_HELLO)
        opened.append(sock)
    tell("opened", connections=len(opened), seconds=time.monotonic() - began)
    waits = []
    for _ in range(VISITORS):
        began = time.monotonic()
        visitor = Client(at, tls)
        visitor.sock.sendall(send_packet(visitor.key, bytes(PAYLOAD)))
        if not visitor.sock.recv(PAYLOAD):
            raise SystemExit("a visitor was thrown out")
        waits.append(time.monotonic() - began)
    tell("visited", seconds=waits)
    sys.stdin.read()  # hold them while the relay's memory is looked at


def main() -> None:
    what, address, tls, *numbers = sys.argv[1:]
    host, _, port = address.rpartition(":")
    context = None
    if tls == "1":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    at = host, int(port)
    if what == "forward":
        forward(at, context, int(numbers[0]), int(numbers[1]), float(numbers[2]))
    elif what == "pairs":
        pairs(at, context, int(numbers[0]), int(numbers[1]))
    elif what == "latency":
        latency(at, context, int(numbers[0]))
    elif what == "half":
        half(at, context, int(numbers[0]))
    elif what == "idle":
        idle(at, context, int(numbers[0]), float(numbers[1]))
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
