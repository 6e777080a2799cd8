"""Our STUN against coturn, both ways round: a server and a client that nobody here wrote."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator

import pytest

from coder_agent.base.addresses import AddrPort
from coder_agent.protocols.stun import BindingResponse, encode_request, parse_response, respond

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


def ask(sock: socket.socket, server: tuple[str, int], attempts: int = 100) -> bytes:
    """Ask until the server, which may still be starting, answers."""
    sock.settimeout(0.1)
    for _ in range(attempts):
        sock.sendto(encode_request(os.urandom(12)), server)
        try:
            return sock.recv(2048)
        except (TimeoutError, ConnectionError):
            continue
    raise AssertionError(f"no answer from {server}")


@pytest.fixture(params=["127.0.0.1", "::1"])
def coturn(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    """A coturn that listens on loopback; stopped afterwards."""
    host = str(request.param)
    port = free_port(host)
    arguments = ["-n", "--stun-only", "--no-tls", "--no-dtls", "--no-cli", "--log-file", "stdout"]
    server = subprocess.Popen(
        ["turnserver", *arguments, "--listening-ip", host, "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield host, port
    finally:
        server.terminate()
        server.wait(10)


def test_coturn_tells_us_our_own_address(coturn: tuple[str, int]) -> None:
    with udp_socket(coturn[0]) as sock:
        seen = parse_response(ask(sock, coturn))
        assert isinstance(seen, BindingResponse)
        assert seen.mapped == AddrPort(*sock.getsockname()[:2])


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_coturns_client_is_answered_by_our_responder(host: str) -> None:
    with udp_socket(host) as sock:
        sock.settimeout(10)
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
        output, _ = client.communicate(timeout=10)
    assert client.returncode == 0
    assert f"UDP reflexive addr: {client_at.host}:{client_at.port}\n" in output.decode()  # no brackets, also for IPv6
