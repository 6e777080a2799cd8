"""wireguard-go and the kernel judge our WireGuard: UDP datagrams between a kernel socket behind their tunnel and
packets made here, through our `Device`. Nothing of ours but the device takes part; its clock is ours to move.

    kernel socket [fd99::1] — TUN — wireguard-go — UDP on 127.0.0.1 (in a namespace) — Device — this test [fd99::2]
"""

from __future__ import annotations

import base64
import ctypes
import itertools
import os
import random
import select
import shutil
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coder_agent.base.addresses import AddrPort
from coder_agent.base.keys import NodePrivate
from coder_agent.protocols.effects import Deliver, Effect, SendRaw, SessionReady, Transmit
from coder_agent.protocols.wireguard import Device
from coder_agent.testing.netns import Host, Lab, unavailable
from coder_agent.testing.sim_wireguard import bursts_of
from coder_agent.testing.wireguard_go import start_wireguard_go

pytestmark = [
    pytest.mark.foreign,
    pytest.mark.netns,
    pytest.mark.skipif(unavailable() is not None, reason=str(unavailable())),
    pytest.mark.skipif(shutil.which("wireguard-go") is None, reason="wireguard-go is not installed"),
    pytest.mark.skipif(shutil.which("wg") is None, reason="wg (wireguard-tools) is not installed"),
]
THEIRS, OURS = "fd99::1", "fd99::2"
PSK = bytes(range(32))
_numbers = itertools.count()
CLONE_NEWNET = 0x40000000
BATCH = 40
"""Datagrams at a time: a default socket buffer holds about 90 of full size."""
PATIENCE = 60.0
"""Seconds to wait for what must come; more than a retransmitted initiation takes."""


def socket_in(host: Host, family: socket.AddressFamily, address: str) -> socket.socket:
    """A UDP socket of another namespace: only the thread that makes it has to be there (os.setns came with 3.12)."""
    made: list[socket.socket] = []

    def make() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/run/netns/{host.name}") as namespace:
            if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        made.append(socket.socket(family, socket.SOCK_DGRAM))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    [sock] = made
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    sock.bind((address, 0))
    return sock


def udp_packet(payload: bytes, source_port: int, port: int) -> bytes:
    """An IPv6 UDP packet from us to the kernel, with its checksum."""
    addresses = socket.inet_pton(socket.AF_INET6, OURS) + socket.inet_pton(socket.AF_INET6, THEIRS)
    header = struct.pack(">HHHH", source_port, port, 8 + len(payload), 0)
    pseudo = addresses + struct.pack(">II", 8 + len(payload), 17) + header + payload
    pseudo += bytes(len(pseudo) % 2)
    total = sum(struct.unpack(f">{len(pseudo) // 2}H", pseudo)) % 0xFFFF
    header = header[:6] + struct.pack(">H", 0xFFFF - total)
    return struct.pack(">IHBB", 0x60000000, 8 + len(payload), 17, 64) + addresses + header + payload


class Tunnel:
    """Our end: a device on a UDP socket, driven by hand. `skew` seconds are added to its clock."""

    def __init__(
        self, host: Host, private: NodePrivate, theirs: NodePrivate, *, psk: bytes | None, vector: bool
    ) -> None:
        self.wire = socket_in(host, socket.AF_INET, "127.0.0.1")
        self.kernel = socket_in(host, socket.AF_INET6, THEIRS)
        self.kernel.settimeout(PATIENCE)
        self.device = Device(private, rng=random.Random(os.urandom(8)).randbytes, wall=time.time, vector=vector)
        self.public, self.peer = private.public(), theirs.public()
        self.device.add_peer(self.peer, psk=psk)
        self.remote = ("127.0.0.1", 0)
        self.skew = 0.0
        self.sessions = 0
        self.received: list[bytes] = []

    def now(self) -> float:
        return time.monotonic() + self.skew

    def carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Transmit):
                for row in effect.burst.rows():
                    self.wire.sendto(row, self.remote)
            elif isinstance(effect, SendRaw):
                self.wire.sendto(effect.data, self.remote)
            elif isinstance(effect, SessionReady):
                self.sessions += 1
            elif isinstance(effect, Deliver):
                for row in effect.burst.rows():
                    if row[6] == 17:  # the kernel also says hello to its neighbours (ICMPv6)
                        self.received.append(bytes(row[48 : 40 + int.from_bytes(row[4:6], "big")]))

    def send(self, payloads: list[bytes]) -> None:
        """Send datagrams to the kernel's socket."""
        port = self.kernel.getsockname()[1]
        for burst in bursts_of([udp_packet(payload, 4242, port) for payload in payloads]):
            self.carry_out(self.device.send(self.peer, burst, self.now()))

    def pump(self, until: Callable[[], bool]) -> None:
        """Receive in bursts, and keep the timers, until something is the case."""
        end = time.monotonic() + PATIENCE
        while not until():
            assert time.monotonic() < end, dict(self.device.counters)
            self.carry_out(self.device.on_timer(self.now()))
            if select.select([self.wire], [], [], 0.01)[0]:
                messages = [self.wire.recv(2048)]
                while select.select([self.wire], [], [], 0)[0]:
                    messages.append(self.wire.recv(2048))
                for burst in bursts_of(messages):
                    self.carry_out(self.device.receive(burst, AddrPort(*self.remote), self.now()))

    def pump_until_received(self, count: int) -> None:
        """Until that many datagrams have come from the kernel."""
        self.pump(lambda: len(self.received) >= count)

    def pump_until_session(self, count: int) -> None:
        """Until that many sessions have been made."""
        self.pump(lambda: self.sessions >= count)

    def say(self, payload: bytes) -> None:
        """Let the kernel send us a datagram."""
        self.kernel.sendto(payload, (OURS, 4242))

    def exchange(self, payloads: list[bytes]) -> None:
        """All of them there, and back from the kernel's socket; few at a time, for its buffers are small."""
        for start in range(0, len(payloads), BATCH):
            batch = payloads[start : start + BATCH]
            arrived: list[bytes] = []
            self.received.clear()
            self.send(batch)
            self.pump(lambda: len(self._read_kernel(arrived)) >= len(batch))  # noqa: B023 (called at once)
            assert sorted(arrived) == sorted(batch)
            for payload in arrived:
                self.say(payload)
            self.pump_until_received(len(batch))
            assert sorted(self.received) == sorted(batch)

    def _read_kernel(self, arrived: list[bytes]) -> list[bytes]:
        while select.select([self.kernel], [], [], 0)[0]:
            arrived.append(self.kernel.recv(2048))
        return arrived


@pytest.fixture(params=[False, True], ids=["scalar", "vector"])
def tunnel(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tunnel]:
    """wireguard-go as our peer, not connected yet; endpoint and keys configured on both sides."""
    ours, theirs = NodePrivate.generate(os.urandom), NodePrivate.generate(os.urandom)
    with Lab() as lab:
        host = lab.host("wg")
        # Its control socket lies in /run/wireguard, which namespaces share: the name must be ours alone.
        device = f"wg{os.getpid()}n{next(_numbers)}"
        start_wireguard_go(host, device, tmp_path)
        key_file, psk_file = tmp_path / "key", tmp_path / "psk"
        key_file.write_text(base64.b64encode(theirs.secret).decode())
        psk_file.write_text(base64.b64encode(PSK).decode())
        host.run("ip", "address", "add", f"{THEIRS}/64", "dev", device, "nodad")
        host.run("ip", "link", "set", device, "mtu", "1280", "up")
        tunnel = Tunnel(host, ours, theirs, psk=PSK, vector=request.param)
        public = base64.b64encode(ours.public().raw).decode()
        host.run(
            "wg", "set", device, "private-key", str(key_file), "peer", public, "preshared-key", str(psk_file),
            "endpoint", f"127.0.0.1:{tunnel.wire.getsockname()[1]}", "allowed-ips", f"{OURS}/128",
        )  # fmt: skip
        tunnel.remote = ("127.0.0.1", int(host.run("wg", "show", device, "listen-port")))
        yield tunnel
        tunnel.wire.close()
        tunnel.kernel.close()


PAYLOADS = [bytes([n]) * 1232 for n in range(80)] + [bytes([n]) * (n + 1) for n in range(40)]
"""Full-size ones (1280 bytes with headers) as bursts, and one of each small size for the padding."""


def test_we_initiate(tunnel: Tunnel) -> None:
    tunnel.exchange(PAYLOADS)
    assert tunnel.device.counters["initiations-sent"] == 1
    assert tunnel.sessions == 1


def test_they_initiate(tunnel: Tunnel) -> None:
    tunnel.say(b"first")
    tunnel.pump(lambda: tunnel.received == [b"first"])
    tunnel.exchange(PAYLOADS)
    assert tunnel.device.counters["initiations-sent"] == 0
    assert tunnel.device.counters["responses-sent"] == 1


def test_rekey_under_traffic(tunnel: Tunnel) -> None:
    tunnel.exchange(PAYLOADS[:20])
    for sessions in (2, 3):
        # Their clock does not move with ours: they take one initiation in 20 ms, and ours carry real time stamps.
        later = time.monotonic() + 0.05
        tunnel.pump(lambda: time.monotonic() > later)  # noqa: B023 (called at once)
        tunnel.skew += 121.0
        tunnel.exchange(PAYLOADS[:49])
        tunnel.pump_until_session(sessions)
        tunnel.exchange(PAYLOADS)
    assert tunnel.device.counters["initiations-sent"] == 3


def flood(tunnel: Tunnel) -> None:
    """Put our device under load: initiations of strangers, who all know its public key."""
    for n in range(130):
        stranger = Device(NodePrivate(n.to_bytes(32, "big")), rng=os.urandom, wall=time.time)
        stranger.add_peer(tunnel.public)
        [initiation] = stranger.initiate(tunnel.public, 0.0)
        assert isinstance(initiation, Transmit)
        tunnel.device.receive(initiation.burst, AddrPort("192.0.2.9", n), tunnel.now())


def test_under_load_they_answer_with_our_cookie(tunnel: Tunnel) -> None:
    flood(tunnel)
    cookies = tunnel.device.counters["cookies-sent"]
    tunnel.say(b"patience")
    tunnel.pump(lambda: tunnel.device.counters["cookies-sent"] > cookies)
    flooded = time.monotonic()

    def is_received() -> bool:
        nonlocal flooded
        if time.monotonic() - flooded > 0.5:  # the load would end after a second
            flood(tunnel)
            flooded = time.monotonic()
        return bool(tunnel.received)

    tunnel.pump(is_received)
    assert tunnel.received == [b"patience"]
    assert tunnel.device.counters["responses-sent"] == 1


def test_under_load_we_answer_with_their_cookie(tunnel: Tunnel) -> None:
    strangers = []
    for n in range(400):
        stranger = Device(NodePrivate(n.to_bytes(32, "big")), rng=os.urandom, wall=time.time)
        stranger.add_peer(tunnel.peer)
        [initiation] = stranger.initiate(tunnel.peer, 0.0)
        assert isinstance(initiation, Transmit)
        strangers.append(bytes(initiation.burst.row(0)))

    flooded = tried = -1.0

    def until(met: Callable[[], bool]) -> None:
        tunnel.pump(lambda: met() or try_again())

    def try_again() -> bool:
        """Keep them under load, and initiate between the floods: what follows one at once drowns in their buffer."""
        nonlocal flooded, tried
        now = time.monotonic()
        if now - flooded > 0.5:  # the load would end after a second
            flooded = now
            for message in strangers * 5:
                tunnel.wire.sendto(message, tunnel.remote)
        elif now - max(flooded, tried) > 0.1:
            tried = now
            tunnel.skew += 6.0  # the next one is due
            tunnel.send([b"patience"])  # and if they were given up, here is a new reason
        return False

    until(lambda: tunnel.device.counters["cookies-received"] > 0)
    made = tunnel.sessions
    until(lambda: tunnel.sessions > made)
    assert tunnel.kernel.recv(100) == b"patience"
