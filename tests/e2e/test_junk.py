"""Junk on every port: it costs the sender's connection, never the service, and memory stays what it was."""

from __future__ import annotations

import errno
import os
import random
import re
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest

import coder_agent
from coder_agent.base.addresses import AddrPort
from coder_agent.base.keys import NodePrivate, NodePublic
from coder_agent.protocols.derp.frames import FrameType
from coder_agent.protocols.derp.login import ClientInfo, client_info_frame
from coder_agent.protocols.stun import BindingResponse, encode_request, parse_response
from coder_agent.testing.deployment import Deployment, Registered, resident_bytes, until
from coder_agent.testing.netns import Lab, unavailable
from coder_agent.testing.processes import Program

pytestmark = [pytest.mark.slow]
PROGRAMS = Path(__file__).parent / "programs"
FLOOD = 20_000
"""Datagrams of a flood: some 10 MB."""
ALLOWED_GROWTH = 24 << 20
"""Bytes a flood may add to a process for good: far less than what it received would be, if it were kept."""
MAGIC = "DERP🔑".encode()
UPGRADE = b"GET /derp HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: DERP\r\n\r\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A server, a user, a workspace with its agent at a known UDP port."""
    with Deployment(tmp_path_factory.mktemp("junk")) as deployment:
        deployment.start_server(verbose=True)
        deployment.sign_in()
        yield deployment


@pytest.fixture(scope="module")
def dev(place: Deployment) -> Registered:
    workspace = place.create("dev")
    place.start_agent(workspace)
    return workspace


@pytest.fixture
def server(place: Deployment) -> Program:
    return place.programs[0]


@pytest.fixture
def agent(place: Deployment, dev: Registered) -> Program:
    return place.programs[1]


def check_service(place: Deployment, dev: Registered) -> None:
    """Everything works, relayed and direct, and nobody complained of a bug."""
    for flags in ([], ["--disable-direct-connections"]):
        done = place.user.coder("ping", dev.name, "-n", "1", *flags)
        assert done.code == 0, str(done)
    for program in place.programs:
        assert program.process.poll() in (None, 0), program.name
        assert "Traceback" not in program.output, program.output[-6000:]


def check_memory(program: Program, attack: Callable[[], object]) -> None:
    """The second and third of three equal attacks cost no memory: what the first one costs are caches and buffers."""
    attack()
    before = resident_bytes(program)
    attack()
    attack()
    grown = resident_bytes(program) - before
    assert grown < ALLOWED_GROWTH, f"{program.name} grew by {grown >> 20} MiB"


# ---------------------------------------------------------------- TCP: the server's one port


def say(place: Deployment, *parts: bytes, half_close: bool = True, timeout: float = 60) -> bytes:
    """Connect, send, hang up halfway, and hear what comes."""
    with socket.create_connection(("127.0.0.1", place.port), timeout) as connection:
        answer = b""
        try:
            for part in parts:
                connection.sendall(part)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            while data := connection.recv(65536):
                answer += data
        except OSError:  # it has every right to hang up
            pass
        return answer


HTTP_JUNK = {
    "random": random.Random(1).randbytes(5000),
    "zeros": bytes(100_000),
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "half a line": b"GET / HT",
    "half a head": b"GET /api/v2/buildinfo HTTP/1.1\r\nHost: x\r\nAccept",
    "endless line": b"GET /" + b"a" * 300_000,
    "endless head": b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 300_000,
    "many headers": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"H%d: x\r\n" % n for n in range(20_000)),
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "negative length": b"POST /api/v2/users/login HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    "endless length": b"POST /api/v2/users/login HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n{",
    "two lengths": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "bad chunks": b"POST /api/v2/users/login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    "path": b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "odd path": b"GET /api/v2/workspaceagents/%00%ff/coordinate HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "unknown upgrade": b"GET /derp HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    "upgrade elsewhere": b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: DERP\r\n\r\n",
    "bad websocket": b"GET /derp HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
}


@pytest.mark.parametrize("junk", HTTP_JUNK.values(), ids=HTTP_JUNK.keys())
def test_junk_over_http(place: Deployment, server: Program, junk: bytes) -> None:
    answer = say(place, junk)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 "), answer[:200]
    assert not answer.startswith(b"HTTP/1.1 5"), answer[:400]
    assert b"root:" not in answer
    assert "Traceback" not in server.output, server.output[-4000:]


def test_http_bodies_are_bounded(place: Deployment, server: Program) -> None:
    size = 64 << 20
    head = (
        b"POST /api/v2/users/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    )
    before = resident_bytes(server)
    answer = say(place, head % size, *[b'"' + b"a" * 65535] * (size // 65536), timeout=60)
    assert answer == b"" or re.match(rb"HTTP/1\.1 4\d\d", answer), answer[:200]
    assert resident_bytes(server) - before < ALLOWED_GROWTH


JSON_JUNK = {
    "nothing": b"",
    "no json": b"{",
    "a list": b"[]",
    "null": b"null",
    "deep": b"[" * 50_000,
    "wrong types": b'{"email": 5, "password": {"a": []}}',
    "nul": b'{"email": "a\\u0000b", "password": "\\ud800"}',
    "endless password": b'{"email": "alice@example.com", "password": "' + b"x" * 500_000 + b'"}',
}


@pytest.mark.parametrize("body", JSON_JUNK.values(), ids=JSON_JUNK.keys())
def test_junk_for_the_api(place: Deployment, server: Program, body: bytes) -> None:
    for path in (b"/api/v2/users/login", b"/api/v2/users/first", b"/api/v2/workspaceagents/me/rpc"):
        head = b"POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (path, len(body))
        answer = say(place, head + body, half_close=False)
        assert re.match(rb"HTTP/1\.1 4\d\d", answer), answer[:400]
    assert "Traceback" not in server.output, server.output[-4000:]


def test_many_idle_connections_do_not_shut_others_out(place: Deployment, dev: Registered) -> None:
    idle = [socket.create_connection(("127.0.0.1", place.port), 60) for _ in range(200)]
    try:
        for number, connection in enumerate(idle):
            connection.sendall((b"", b"GET / HTTP/1.1\r\n", UPGRADE)[number % 3])
        check_service(place, dev)
    finally:
        for connection in idle:
            connection.close()


# ---------------------------------------------------------------- TCP: the relay


def frame(kind: int, payload: bytes, length: int | None = None) -> bytes:
    """A DERP frame, perhaps with a length that lies."""
    return struct.pack(">BI", kind, len(payload) if length is None else length) + payload


RELAY_JUNK = {
    "random": random.Random(2).randbytes(5000),
    "zeros": bytes(5000),
    "half a frame": frame(2, b"x" * 10, 100),
    "endless login": frame(2, b"x" * 300_000),
    "four gigabytes": frame(2, b"x" * 100, 0xFFFFFFFF),
    "login that does not open": frame(2, os.urandom(32 + 24 + 80)),
    "packet before login": frame(4, bytes(32) + b"x" * 100),
}


@pytest.mark.parametrize("junk", RELAY_JUNK.values(), ids=RELAY_JUNK.keys())
def test_junk_for_the_relay_before_login(place: Deployment, server: Program, junk: bytes) -> None:
    with greeted(place)[0] as connection:
        speak_and_hear_the_end(connection, junk)
    assert "Traceback" not in server.output, server.output[-4000:]


def test_junk_for_the_relay_after_login(place: Deployment, dev: Registered, server: Program) -> None:
    junk = [
        frame(200, b"x" * 1000),
        frame(4, b"too short"),
        frame(4, bytes(32) + b"x" * 70_000),
        frame(4, bytes(32), 0x7FFFFFFF),
        frame(18, b"x" * 3),
        frame(0x0A, b"forward packet from no mesh"),
        random.Random(3).randbytes(3000),
    ]
    for one in junk:
        with logged_in(place) as connection:
            speak_and_hear_the_end(connection, one)
    check_service(place, dev)


def test_a_flood_through_the_relay_is_bounded(place: Deployment, dev: Registered, server: Program) -> None:
    """To a key that nobody has, and to a client that never reads."""
    key = NodePrivate.generate(os.urandom)
    with logged_in(place, key), logged_in(place) as sender:
        sender.settimeout(90)

        def attack() -> None:
            for target in (bytes(32), key.public().raw):
                block = frame(4, target + os.urandom(1200)) * 50
                for _ in range(200):
                    sender.sendall(block)

        check_memory(server, attack)
    check_service(place, dev)


def greeted(place: Deployment) -> tuple[socket.socket, NodePublic]:
    """A relay connection before its login, and the relay's key."""
    connection = socket.create_connection(("127.0.0.1", place.port), 60)
    connection.sendall(UPGRADE)
    received = b""
    while (at := received.find(MAGIC)) < 0 or len(received) < at + 40:
        received += connection.recv(4096)
    assert received.startswith(b"HTTP/1.1 101 ")
    return connection, NodePublic(received[at + 8 : at + 40])


def speak_and_hear_the_end(connection: socket.socket, junk: bytes) -> None:
    """The relay hangs up; it may do so rudely, and before it has heard everything."""
    connection.settimeout(60)
    try:
        connection.sendall(junk)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass
    except ConnectionError:
        pass
    except OSError as exc:
        if exc.errno != errno.ENOTCONN:  # shutdown after a reset
            raise


def logged_in(place: Deployment, key: NodePrivate | None = None) -> socket.socket:
    """A relay connection behind its login."""
    connection, relay = greeted(place)
    private = key or NodePrivate.generate(os.urandom)
    connection.sendall(client_info_frame(private, relay, ClientInfo(), os.urandom))
    kind, _ = struct.unpack(">BI", connection.recv(5, socket.MSG_WAITALL))
    assert kind == FrameType.SERVER_INFO
    return connection


# ---------------------------------------------------------------- UDP: STUN, agent, client


def datagrams(seed: int) -> Iterator[bytes]:
    """Junk of every kind that our ports tell apart by their first bytes."""
    chance = random.Random(seed)
    heads = [
        b"",
        b"TS\xf0\x9f\x92\xac",  # disco
        b"\x01\x00\x00\x00",  # WireGuard: initiation, response, cookie, data
        b"\x02\x00\x00\x00",
        b"\x03\x00\x00\x00",
        b"\x04\x00\x00\x00",
        b"\x00\x01\x00\x00\x21\x12\xa4\x42",  # STUN
        b"\x01\x01\x00\x0c\x21\x12\xa4\x42",
        b"meow",
    ]
    sizes = (0, 1, 4, 20, 31, 62, 92, 116, 148, 200, 1200, 1310)
    while True:
        yield chance.choice(heads) + chance.randbytes(chance.choice(sizes))


def flood(address: tuple[str, int], seed: int, count: int = FLOOD) -> None:
    junk = datagrams(seed)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(count):
            try:
                sender.sendto(next(junk), address)
            except ConnectionError:  # an ICMP answer to an earlier one: the port may be closed
                pass
        for _ in range(20):
            sender.sendto(os.urandom(65_000), address)  # larger than anything that our nodes send


def udp_port(program: Program) -> int:
    """The IPv4 port that a program has open for direct connections, as the kernel tells."""
    inodes = set()
    for path in Path(f"/proc/{program.process.pid}/fd").iterdir():
        try:
            target = os.readlink(path)
        except FileNotFoundError:
            continue
        if found := re.fullmatch(r"socket:\[(\d+)\]", target):
            inodes.add(found[1])
    for line in Path(f"/proc/{program.process.pid}/net/udp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[9] in inodes:
            return int(fields[1].rpartition(":")[2], 16)
    raise AssertionError(f"{program.name} has no UDP socket")


def stun_answer(place: Deployment) -> AddrPort:
    """Ask the STUN responder; the address that it saw."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.bind(("127.0.0.1", 0))
        asker.settimeout(1)
        txid = os.urandom(12)

        def ask() -> AddrPort | None:
            asker.sendto(encode_request(txid), ("127.0.0.1", place.stun_port))
            try:
                answer = parse_response(asker.recv(2000))
            except TimeoutError:
                return None
            assert isinstance(answer, BindingResponse)
            assert answer.txid == txid
            return answer.mapped

        return until("STUN answers", ask)


def test_a_flood_at_the_stun_port(place: Deployment, server: Program) -> None:
    assert stun_answer(place).ip.is_loopback
    check_memory(server, lambda: flood(("127.0.0.1", place.stun_port), 4))
    assert stun_answer(place).ip.is_loopback


def test_a_flood_at_the_agents_port(place: Deployment, dev: Registered, agent: Program) -> None:
    check_memory(agent, lambda: flood(("127.0.0.1", udp_port(agent)), 5))
    check_service(place, dev)


def test_a_flood_at_the_clients_port(place: Deployment, dev: Registered) -> None:
    """In the middle of its conversation."""
    ping = place.start(place.user, "coder", "ping", dev.name, "--wait", "50ms")
    ping.wait_for(r"^pong from dev p2p")
    port = udp_port(ping)
    check_memory(ping, lambda: flood(("127.0.0.1", port), 6))
    told = ping.output.count("pong from")
    until("it goes on", lambda: ping.output.count("pong from") > told + 5)
    assert ping.output.rstrip().rpartition("\n")[2].startswith("pong from dev p2p"), ping.output[-500:]
    ping.stop()
    place.programs.remove(ping)
    assert "Traceback" not in ping.output


@pytest.mark.netns
@pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))
def test_replayed_and_damaged_packets_of_a_real_conversation(tmp_path: Path) -> None:
    """Somebody on the path repeats everything: whole, cut short, with a bit turned."""
    with Lab() as lab:
        host = lab.host("all")
        host.run("ip", "link", "set", "lo", "mtu", "1500")  # packets as on Ethernet
        host.run("ip", "-6", "address", "flush", "dev", "lo")  # each direction would choose its family
        with Deployment(tmp_path, hosts=(host, host, host)) as place:
            place.start_server()
            place.sign_in()
            dev = place.create("dev")
            agent = place.start_agent(dev)
            port = place.start(place.workspace, sys.executable, str(PROGRAMS / "bytes_server.py")).event("listening")
            transfer = place.start(
                place.user, sys.executable, str(PROGRAMS / "transfer.py"), dev.name, str(port["port"]), "get",
                "--direct", "--size", "24000000", "--pace", "3000000",
            )  # fmt: skip
            assert transfer.event("open")["kind"] == "direct"
            ports = (str(udp_port(agent)), str(udp_port(transfer)))
            repeater = place.start(place.user, sys.executable, str(PROGRAMS / "repeater.py"), *ports)
            repeater.event("repeating")
            assert transfer.event("done", 60)["equal"] is True
            assert {event["kind"] for event in transfer.events("path")} <= {"direct", "relayed"}
            assert transfer.events("path")[-1]["kind"] == "direct"
            repeater.stop()
            assert repeater.event("repeated")["packets"] > 1000
            check_service(place, dev)


# ---------------------------------------------------------------- services inside the tunnel

SPEEDTEST_JUNK = {
    "nothing": b"",
    "no json": b"hello\n",
    "a list": b"[]\n",
    "old version": b'{"version":1,"time":5000000000,"direction":0}\n',
    "for ever": b'{"version":2,"time":999999999999999999,"direction":0}\n',
    "no time": b'{"version":2,"time":-1,"direction":1}\n',
    "sideways": b'{"version":2,"time":5000000000,"direction":7}\n',
    "wrong types": b'{"version":2,"time":"x","direction":[]}\n',
    "endless line": b"x" * 1_000_000,
    "random": random.Random(8).randbytes(10_000),
    "deep": b"[" * 4000 + b"\n",
}


@pytest.mark.anyio
async def test_junk_for_the_speedtest_service(
    place: Deployment, dev: Registered, agent: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODER_CONFIG_DIR", str(place.user.folder / ".config/coderv2"))
    with anyio.fail_after(60):
        async with coder_agent.connect("dev") as workspace:
            for name, junk in SPEEDTEST_JUNK.items():
                stream = await workspace.open_tcp(3)
                answer = b""
                try:
                    await stream.send(junk)
                    await stream.send_eof()
                    async for part in stream:
                        answer += part
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):  # it has every right to hang up
                    pass
                await stream.aclose()
                assert answer == b"" or answer.startswith(b'{"error":'), (name, answer[:200])
            hanging = [await workspace.open_tcp(3) for _ in range(100)]
            for stream in hanging:
                stream.abort()
    await anyio.to_thread.run_sync(check_service, place, dev)
