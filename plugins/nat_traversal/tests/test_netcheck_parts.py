"""The parts of a check that touch the system: HTTPS latency, ping, interfaces. On loopback only."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from coder_agent_nat_traversal.https import measure_https, relay_endpoint, relay_options
from coder_agent_nat_traversal.netcheck.captive import MAX_ENDPOINTS, pages
from coder_agent_nat_traversal.netcheck.icmp import checksum, encode_echo, is_answer, ping
from coder_agent_nat_traversal.netcheck.interface import Interface
from coder_agent_nat_traversal.netcheck.links import mtu_of, read_interfaces, smallest_mtu
from coder_agent_nat_traversal.netcheck.relay import Effort, check_relay
from coder_agent_nat_traversal.netcheck.stun_probe import open_sockets
from hypothesis import given
from hypothesis import strategies as st

from coder_agent.base.addresses import AddrPort
from coder_agent.base.derp_map import DerpMap, DerpNode, DerpRegion
from coder_agent.hooks import DialOptions

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
DIRECT = DialOptions(proxy="")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def answering(answer: bytes) -> Serve:
    """A server that reads one request head and says `answer`; the requests are in `seen`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        writer.close()

    seen: list[bytes] = []
    serve.seen = seen  # type: ignore[attr-defined]
    return serve


def relay(serve: Serve) -> AbstractAsyncContextManager[DerpNode]:
    @asynccontextmanager
    async def running() -> AsyncIterator[DerpNode]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            yield DerpNode("a", 1, "relay.invalid", ipv4="127.0.0.1", derp_port=port, force_http=True)

    return running()


@pytest.mark.anyio
async def test_a_relays_latency_is_that_of_one_request_at_its_stated_address() -> None:
    serve = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    async with relay(serve) as node:
        answer = await measure_https(node, DialOptions(proxy="", headers={"X-Team": "blue"}))
    assert answer.latency is not None
    assert 0 < answer.latency < 2
    assert answer.family == "v4"
    (request,) = serve.seen  # type: ignore[attr-defined]
    assert request.startswith(b"GET /derp/latency-check HTTP/1.1\r\n")
    assert b"Host: relay.invalid:" in request
    assert b"X-Team: blue" in request


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("said", "error"),
    [
        pytest.param(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "answers with HTTP status 404", id="404"),
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n", "does not answer as a relay does", id="not-http"),
        pytest.param(b"", "does not answer as a relay does", id="hangs-up"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000, "does not answer as a relay does", id="endless-head"),
    ],
)
async def test_what_is_no_relay_is_told(said: bytes, error: str) -> None:
    async with relay(answering(said)) as node:
        answer = await measure_https(node, DIRECT)
        assert answer.latency is None
        assert error in answer.error
        check = await check_relay(node, DIRECT)
        assert (check.latency, check.exchanged) == (None, False)
        assert error in check.error


@pytest.mark.anyio
async def test_a_refused_upgrade_means_a_websocket() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        status = b"200 OK" if b"latency-check" in head else b"426 Upgrade Required"
        writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with relay(serve) as node:
        check = await check_relay(node, DIRECT)
    assert (check.uses_websocket, check.exchanged) == (True, False)
    assert "refuses the upgrade to DERP (HTTP 426)" in check.error


@pytest.mark.anyio
async def test_a_proxy_that_refuses_both_ways_is_told_with_both_reasons() -> None:
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        asked.append(head)
        status = b"200 OK" if b"latency-check" in head else b"400 Bad Request"
        writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with relay(serve) as node:
        check = await check_relay(node, DIRECT)
        assert check.error.startswith(f"relay.invalid:{node.derp_port} refuses the upgrade to DERP (HTTP 400); ")
        assert f"; relay.invalid:{node.derp_port} refuses a WebSocket: " in check.error
        assert (check.uses_websocket, check.exchanged) == (True, False)
        asked.clear()
        forced = await check_relay(node, DIRECT, Effort(websocket=True))
    assert not any(b"Upgrade: DERP" in head for head in asked)
    assert forced.error.startswith(f"relay.invalid:{node.derp_port} refuses a WebSocket: ")


@pytest.mark.anyio
async def test_how_often_a_relay_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coder_agent_nat_traversal.netcheck.relay.RETRY_PAUSE", 0.0)
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    async with relay(serve) as node:
        assert not (await check_relay(node, DIRECT, Effort(tries=3))).exchanged
        assert len(asked) == 3
        assert not (await check_relay(node, DIRECT)).exchanged
        assert len(asked) == 4


@pytest.mark.anyio
async def test_nobody_listens() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # taken, but nobody listens: the connection is refused
        node = DerpNode("a", 1, "x", ipv4="127.0.0.1", derp_port=sock.getsockname()[1], force_http=True)
        answer = await measure_https(node, DIRECT)
    assert "refuses the connection" in answer.error
    assert answer.hint


def test_a_relay_that_cannot_be_verified_gets_none_of_the_users_headers() -> None:
    mine = DialOptions(headers={"Authorization": "secret"}, proxy="http://p:1")
    assert relay_options(DerpNode("a", 1, "x"), mine) is mine
    for node in (
        DerpNode("a", 1, "x", insecure_for_tests=True),
        DerpNode("a", 1, "x", cert_name="sha256-raw:" + "0" * 64),
    ):
        assert relay_options(node, mine) == DialOptions(insecure=True, proxy="http://p:1")


def test_where_a_relay_is_dialled() -> None:
    endpoint, address = relay_endpoint(
        DerpNode("a", 1, "relay.example", cert_name="cert.example", ipv4="none"), "/derp"
    )
    assert (str(endpoint), endpoint.secure, address) == ("cert.example:443", True, "relay.example")
    endpoint, address = relay_endpoint(DerpNode("a", 1, "r.example", ipv6="2001:db8::1", force_http=True), "/derp")
    assert (str(endpoint), endpoint.secure, address) == ("r.example:80", False, "2001:db8::1")


def test_an_echo_request_and_its_answer() -> None:
    packet = encode_echo(0x1234, 1, b"data")
    assert packet.hex() == "0800" + "0d08" + "12340001" + b"data".hex()
    assert checksum(packet) == 0
    answer = b"\0" + packet[1:]
    assert is_answer(answer, 1, b"data")
    assert is_answer(bytes([0x45]) + bytes(19) + answer, 1, b"data")  # behind an IPv4 header
    assert not is_answer(answer, 2, b"data")
    assert not is_answer(answer, 1, b"other")
    assert not is_answer(packet, 1, b"data")  # a request, on loopback


@given(st.binary(max_size=80))
def test_junk_is_no_answer(junk: bytes) -> None:
    assert not is_answer(junk, 1, b"sixteen bytes ok")


@pytest.mark.anyio
async def test_ping_is_silent_where_it_is_not_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> socket.socket:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("coder_agent_nat_traversal.netcheck.icmp.socket.socket", refuse)
    assert await ping("127.0.0.1") is None


def test_this_machines_interfaces_are_read_with_their_mtu() -> None:
    loopback = next(each for each in read_interfaces() if each.is_loopback)
    assert "127.0.0.1/8" in loopback.addresses
    assert loopback.mtu >= 1500
    assert not loopback.too_small
    assert mtu_of("no-such-interface") == 0


def test_the_smallest_mtu_is_that_of_the_way_out() -> None:
    lo = Interface("lo", 65536, ("127.0.0.1/8",), is_loopback=True)
    docker, eth = Interface("docker0", 1280), Interface("eth0", 1450, used=True)
    assert smallest_mtu((lo, docker, eth)) == 1450
    assert smallest_mtu((lo, docker)) == 1280
    assert smallest_mtu((lo, Interface("x", 0))) == 0


def test_few_are_asked_about_a_portal_the_home_region_first() -> None:
    def region(number: int, *, avoid: bool) -> DerpRegion:
        node = DerpNode(f"{number}", number, f"r{number}", ipv4=f"192.0.2.{number}", can_port_80=True)
        return DerpRegion(number, nodes=(node,), avoid=avoid)

    derp_map = DerpMap({n: region(n, avoid=n == 1) for n in range(1, 10)})
    asked = pages(derp_map, ["http://mine.example/"], home=7)
    assert len(asked) == MAX_ENDPOINTS
    assert asked[0].url == "http://192.0.2.7/generate_204"
    assert asked[0].challenge == "ts_r7"
    assert "http://192.0.2.1/generate_204" not in [page.url for page in asked]
    hidden = DerpNode("a", 1, "relay.example", ipv4="none", can_port_80=True)
    assert pages(DerpMap({1: DerpRegion(1, nodes=(hidden,))}), []) == []  # nothing is looked up for it


@pytest.mark.anyio
async def test_sockets_hand_over_what_arrives() -> None:
    with open_sockets() as sockets, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        assert "v4" in sockets.families
        server.bind(("127.0.0.1", 0))
        server.settimeout(30)
        sockets.send(b"question", "v4", AddrPort(*server.getsockname()))
        data, source = server.recvfrom(100)
        assert data == b"question"
        heard = asyncio.Queue[bytes]()
        listening = asyncio.create_task(sockets.listen("v4", heard.put_nowait))
        server.sendto(b"answer", source)
        assert await asyncio.wait_for(heard.get(), 30) == b"answer"
        listening.cancel()
