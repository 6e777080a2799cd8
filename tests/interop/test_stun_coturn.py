"""Our STUN against coturn, both ways round: a server and a client that nobody here wrote."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import pytest
from coder_agent_nat_traversal.stun import StunSource
from coder_agent_transport_udp.settings import UdpSettings
from coder_agent_transport_udp.transport import UdpTransportFactory

from coder_agent.base.addresses import AddrPort
from coder_agent.base.burst import Burst
from coder_agent.base.derp_map import DerpMap, DerpNode, DerpRegion
from coder_agent.base.keys import NodePrivate
from coder_agent.base.paths import Path, UdpPath
from coder_agent.hooks import Transport, TransportContext
from coder_agent.protocols.stun import BindingResponse, encode_request, parse_response, respond
from coder_agent.runtime.candidates import CandidateHub

pytestmark = [
    pytest.mark.foreign,
    pytest.mark.skipif(shutil.which("turnserver") is None, reason="coturn is not installed"),
]


def udp_socket(host: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((host, 0))
    return sock


def free_port(host: str) -> int:
    with udp_socket(host) as sock:
        return int(sock.getsockname()[1])


def ask(sock: socket.socket, server: tuple[str, int], attempts: int = 600) -> bytes:
    """Ask until the server, which may still be starting, answers."""
    sock.settimeout(0.1)
    for _ in range(attempts):
        sock.sendto(encode_request(os.urandom(12)), server)
        try:
            return sock.recv(2048)
        except (TimeoutError, ConnectionError):
            continue
    raise AssertionError(f"no answer from {server}")


PORT_TRIES = 3
"""A free port may be somebody else's by the time coturn binds it: other tests run beside this one."""


@pytest.fixture(params=["127.0.0.1", "::1"])
def coturn(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    """A coturn that answers on loopback; stopped afterwards."""
    host = str(request.param)
    for _ in range(PORT_TRIES):
        port = free_port(host)
        with turnserver(host, port):
            try:
                with udp_socket(host) as sock:
                    ask(sock, (host, port))
            except AssertionError:  # it goes on without a listener when its port is taken: mute is all there is to see
                continue
            yield host, port
            return
    raise AssertionError(f"coturn did not answer at any of {PORT_TRIES} ports")


@contextmanager
def turnserver(host: str, port: int) -> Iterator[None]:
    """coturn at a port that was free a moment ago; stopped afterwards."""
    arguments = ["-n", "--stun-only", "--no-tls", "--no-dtls", "--no-cli", "--log-file", "stdout"]
    server = subprocess.Popen(
        ["turnserver", *arguments, "--listening-ip", host, "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        server.terminate()
        server.wait(60)


def test_coturn_tells_us_our_own_address(coturn: tuple[str, int]) -> None:
    with udp_socket(coturn[0]) as sock:
        seen = parse_response(ask(sock, coturn))
        assert isinstance(seen, BindingResponse)
        assert seen.mapped == AddrPort(*sock.getsockname()[:2])


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_coturns_client_is_answered_by_our_responder(host: str) -> None:
    with udp_socket(host) as sock:
        sock.settimeout(60)
        port = sock.getsockname()[1]
        client = subprocess.Popen(
            ["turnutils_stunclient", "-p", str(port), host], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        question, source = sock.recvfrom(2048)
        client_at = AddrPort.of(source[0], source[1])
        assert respond(question, client_at) is None  # the strict rule serves Tailscale's nodes only
        answer = respond(question, client_at, strict=False)
        assert answer is not None
        sock.sendto(answer, source)
        output, _ = client.communicate(timeout=60)
    assert client.returncode == 0
    assert f"UDP reflexive addr: {client_at.host}:{client_at.port}\n" in output.decode()  # no brackets, also for IPv6


class StunSink:
    """Of an engine only this: STUN packets of the data socket go to the candidate sources."""

    hub: CandidateHub

    def on_burst(self, burst: Burst, path: Path) -> None:
        assert isinstance(path, UdpPath)
        for row in burst.rows():
            self.hub.stun_received(bytes(row), path.addr, anyio.current_time())

    def on_drained(self) -> None:
        pass

    def on_writable(self, transport: Transport) -> None:
        pass

    def on_path_error(self, path: Path, error: OSError) -> None:
        raise error


@pytest.mark.anyio
async def test_a_node_learns_its_data_sockets_address_from_coturn(coturn: tuple[str, int]) -> None:
    host, port = coturn
    node = DerpNode("a", 1, "relay.invalid", stun_port=port, stun_test_ip=host)
    found = anyio.Event()
    sink = StunSink()
    context = TransportContext(sink=sink, node_key=NodePrivate(bytes(32)), emit=lambda event: None)
    async with UdpTransportFactory(UdpSettings()).open(context) as transport:
        hub = sink.hub = CandidateHub(
            transport,
            changed=lambda: found.set() if hub.endpoints() else None,
            measured=lambda: None,
            moved=lambda: None,
        )
        hub.set_map(DerpMap({1: DerpRegion(1, nodes=(node,))}))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hub.run, [StunSource()])
            with anyio.fail_after(90):
                await found.wait()
            tasks.cancel_scope.cancel()
        assert hub.endpoints() == (AddrPort(host, transport.bound_ports()[":" in host] or 0),)
        assert 0 < hub.latency()[1] < 30
