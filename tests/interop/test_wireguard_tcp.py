"""wireguard-go and the kernel's TCP judge a whole node of ours: WireGuard, IPv6, TCP, UDP transport. Two machines:

curl, iperf3 - kernel TCP [fd99::1] - wireguard-go - UDP - our node [fd99::2] - loopback - HTTP server, iperf3
                                 and from loopback through our node to the kernel's servers
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from coder_agent.base.keys import NodePrivate
from coder_agent.testing.exchange import FileExchange
from coder_agent.testing.netns import Host, Lab, unavailable
from coder_agent.testing.processes import Program, run_program
from coder_agent.testing.wireguard_go import start_wireguard_go

pytestmark = [
    pytest.mark.foreign,
    pytest.mark.netns,
    pytest.mark.skipif(unavailable() is not None, reason=str(unavailable())),
    *(
        pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")
        for program in ("wireguard-go", "wg", "iperf3", "curl")
    ),
]
PROGRAMS = Path(__file__).parent / "programs"
THEIRS, OURS = "fd99::1", "fd99::2"
HTTP, IPERF, CLOSED = 8000, 5201, 9999
SIZE = 64 << 20


@dataclass
class Tunnel:
    """Both ends, connected. Both machines serve `files` by HTTP."""

    kernel: Host
    node: Host
    program: Program
    files: FileExchange

    def local(self, port: int) -> int:
        """The port of loopback, on our node's machine, that leads to `port` of the kernel's."""
        [facts] = [facts for facts in self.program.events("listening") if facts["to"] == port]
        return int(facts["port"])


@pytest.fixture(scope="module")
def tunnel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tunnel]:
    """One tunnel for all tests, as a real one lives."""
    directory = tmp_path_factory.mktemp("tunnel")
    files = FileExchange(directory / "files", SIZE)
    ours, theirs, psk = NodePrivate.generate(os.urandom), NodePrivate.generate(os.urandom), os.urandom(32)
    with Lab() as lab:
        kernel, node = lab.host("kernel"), lab.host("node")
        lab.switch(kernel, node)
        port = start_peer(kernel, directory, theirs, ours, psk, f"{node.address4}:51821")
        said = {"private": ours.secret.hex(), "peer": theirs.public().raw.hex(), "psk": psk.hex()}
        said |= {"address": OURS, "peer_address": THEIRS, "endpoint": f"{kernel.address4}:{port}"}
        (directory / "node.json").write_text(json.dumps(said | {"port": 51821, "dial": [HTTP, IPERF, CLOSED]}))
        with (
            run_program(sys.executable, str(PROGRAMS / "wg_node.py"), str(directory / "node.json"), host=node) as ran,
            files.serve("127.0.0.1", HTTP, node),
            files.serve("::", HTTP, kernel),
            run_program("iperf3", "-s", "--forceflush", host=node) as near,
            run_program("iperf3", "-s", "--forceflush", host=kernel) as far,
        ):
            for server in (near, far):
                server.wait_for("Server listening")
            ran.event("ready")
            yield Tunnel(kernel, node, ran, files)
            assert "Traceback" not in ran.stop()
            counters = ran.event("stats")
            print(counters)
            assert not counters["tcp"].get("malformed")


def start_peer(host: Host, directory: Path, private: NodePrivate, peer: NodePrivate, psk: bytes, endpoint: str) -> int:
    """wireguard-go on `host`, which gets the inner address; returns its UDP port."""
    device = f"wgt{os.getpid()}"  # its control socket lies in /run/wireguard, which namespaces share
    start_wireguard_go(host, device, directory)
    for name, secret in (("key", private.secret), ("psk", psk)):
        (directory / name).write_text(base64.b64encode(secret).decode())
    public = base64.b64encode(peer.public().raw).decode()
    host.run(
        "wg", "set", device, "private-key", str(directory / "key"), "peer", public, "preshared-key",
        str(directory / "psk"), "endpoint", endpoint, "allowed-ips", f"{OURS}/128",
    )  # fmt: skip
    host.run("ip", "address", "add", f"{THEIRS}/64", "dev", device, "nodad")
    host.run("ip", "link", "set", device, "mtu", "1280", "up")
    return int(host.run("wg", "show", device, "listen-port"))


def iperf(host: Host, address: str, port: int, *options: str) -> float:
    """Mbit/s that arrived."""
    said = host.run("iperf3", "-J", "-t", "3", "-c", address, "-p", str(port), *options)
    return float(json.loads(said)["end"]["sum_received"]["bits_per_second"]) / 1e6


def test_the_kernel_dials_us(tunnel: Tunnel) -> None:
    tunnel.files.both_ways(f"[{OURS}]:{HTTP}", tunnel.kernel)


def test_we_dial_the_kernel(tunnel: Tunnel) -> None:
    tunnel.files.both_ways(f"127.0.0.1:{tunnel.local(HTTP)}", tunnel.node)


def test_many_connections_at_once(tunnel: Tunnel) -> None:
    """200 short ones, 50 at a time, each with a small file."""
    small = tunnel.files.directory / "small"
    small.write_bytes(os.urandom(20_000))
    # HTTP/1.0: curl 7.88 tries to use connections again that "Connection: close" has ended, and gives up in the end
    options = ("--parallel", "--parallel-max", "50", "--http1.0", "-o", os.devnull)
    for host, address, port in ((tunnel.kernel, OURS, HTTP), (tunnel.node, "127.0.0.1", tunnel.local(HTTP))):
        where = ("--resolve", f"peer:{port}:{address}", f"http://peer:{port}/small?n=[1-200]")
        said = host.run("curl", "-sS", "--fail", *options, "-w", "%{http_code} %{size_download}\n", *where)
        assert said.splitlines() == ["200 20000"] * 200


@pytest.mark.parametrize("options", [(), ("-R",), ("--bidir", "-P", "4")], ids=["to us", "from us", "both"])
def test_iperf3_from_the_kernel(tunnel: Tunnel, options: tuple[str, ...]) -> None:
    assert report("kernel dials", options, iperf(tunnel.kernel, OURS, IPERF, *options)) > 10


@pytest.mark.parametrize("options", [(), ("-R",)], ids=["from us", "to us"])
def test_iperf3_to_the_kernel(tunnel: Tunnel, options: tuple[str, ...]) -> None:
    assert report("we dial", options, iperf(tunnel.node, "127.0.0.1", tunnel.local(IPERF), *options)) > 10


def report(what: str, options: tuple[str, ...], rate: float) -> float:
    print(f"{what} {' '.join(options)}: {rate:.0f} Mbit/s")
    return rate


def test_the_kernel_pings_us(tunnel: Tunnel) -> None:
    sizes = [0, 1, 56, 1000, 1231, 1232]  # 1232 fills a packet of 1280
    said = tunnel.kernel.run(sys.executable, str(PROGRAMS / "icmp6_echo.py"), OURS, *map(str, sizes))
    assert said.split() == " ".join(f"echo of {size}" for size in sizes).split()


def test_a_port_without_a_program_refuses_at_once(tunnel: Tunnel) -> None:
    refused = tunnel.kernel.try_run("curl", "-sS", "--max-time", "10", f"http://[{OURS}]:{CLOSED}/", timeout=20)
    assert refused.returncode == 7, refused.stderr  # could not connect; a time-out would be 28
    ours = tunnel.node.try_run("curl", "-sS", "--max-time", "10", f"http://127.0.0.1:{tunnel.local(CLOSED)}/")
    assert ours.returncode in (52, 56), ours.stderr  # the local connection ends without an answer
    assert "refused" in tunnel.program.event("refused")["why"]
