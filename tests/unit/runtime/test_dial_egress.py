"""Connections that the egress policy forbids: no name is looked up, no socket opened, no proxy told."""

from __future__ import annotations

import socket

import anyio
import pytest
from anyio.abc import SocketAttribute

from coder_agent.base.egress import Purpose, Verdict
from coder_agent.errors import EgressRefused, TransportBroken
from coder_agent.hooks.egress import Egress
from coder_agent.hooks.interfaces import DialOptions
from coder_agent.runtime.dial import Endpoint, dial, open_socket
from coder_agent.runtime.http import request
from coder_agent.runtime.sockets import resolve
from coder_agent.runtime.websocket import open_websocket

pytestmark = pytest.mark.anyio


class OnlyListed:
    """Allows the pairs of host and port that it was given; an address that was found is judged as itself."""

    name = "only-listed"

    def __init__(self, *allowed: str) -> None:
        self.allowed = set(allowed)
        self.asked: list[tuple[str, str | None, Purpose]] = []

    def judge(self, host: str, address: str | None, port: int, purpose: Purpose) -> Verdict:
        self.asked.append((host, address, purpose))
        return Verdict((address or host) in self.allowed, "the list")

    def trust(self, host: str, reason: str) -> None:
        self.allowed.add(host)


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names that were looked up; each has a public and a private address."""
    seen: list[str] = []

    async def lookup(host: str, port: int, *, family: int = 0, type: int = 0) -> list[object]:
        seen.append(host)
        return [(socket.AF_INET, type, 6, "", (address, port)) for address in ("203.0.113.1", "127.0.0.1")]

    monkeypatch.setattr(anyio, "getaddrinfo", lookup)
    return seen


@pytest.fixture
def connects(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Addresses that somebody wanted to connect to."""
    seen: list[object] = []

    class Refusing(socket.socket):
        def connect_ex(self, address: object) -> int:
            seen.append(address)
            return 111

    monkeypatch.setattr(socket, "socket", Refusing)
    return seen


def options(*allowed: str, proxy: str = "none") -> DialOptions:
    return DialOptions(proxy=proxy, egress=Egress(OnlyListed(*allowed)))


@pytest.mark.parametrize("url", ["http://outside.example", "https://outside.example:8443/x", "http://203.0.113.9"])
async def test_a_request_to_the_outside_ends_before_the_lookup(
    url: str, lookups: list[str], connects: list[object]
) -> None:
    with pytest.raises(EgressRefused, match="may not be reached from here: the list"):
        await request("GET", url, options=options())
    with pytest.raises(EgressRefused):
        await open_websocket(url, options=options())
    assert (lookups, connects) == ([], [])


async def test_what_a_name_leads_to_is_looked_at_too(lookups: list[str], connects: list[object]) -> None:
    egress = Egress(OnlyListed("inside.example", "127.0.0.1"))
    assert await resolve("inside.example", 80, egress) == [(socket.AF_INET, ("127.0.0.1", 80))]
    with pytest.raises(EgressRefused, match="none of its addresses is allowed"):
        await resolve("inside.example", 80, Egress(OnlyListed("inside.example")))
    with pytest.raises(TransportBroken, match="refuses the connection"):
        await dial(Endpoint.parse("http://inside.example"), options("inside.example", "127.0.0.1"))
    assert connects == [("127.0.0.1", 80)]


async def test_the_address_to_connect_to_counts_not_the_name_in_the_certificate(
    lookups: list[str], connects: list[object]
) -> None:
    with pytest.raises(EgressRefused, match=r"203\.0\.113\.9:443 may not"):
        await dial(Endpoint.parse("https://inside.example"), options("inside.example"), address="203.0.113.9")
    targets = [(socket.AF_INET, ("203.0.113.9", 443))]
    with pytest.raises(EgressRefused, match="none of its addresses is allowed"):
        await open_socket(Endpoint.parse("https://inside.example"), options("inside.example"), targets=targets)
    assert (lookups, connects) == ([], [])


@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_a_proxy_and_what_it_is_to_connect_to_are_both_asked_about(
    scheme: str, lookups: list[str], connects: list[object]
) -> None:
    target, proxy = Endpoint.parse("https://inside.example"), f"{scheme}://user:secret@proxy.example:3128"
    with pytest.raises(EgressRefused, match=r"^proxy\.example:3128 may not"):
        await open_socket(target, options("inside.example", proxy=proxy))
    with pytest.raises(EgressRefused, match=r"^inside\.example:443 may not"):
        await open_socket(target, options("proxy.example", proxy=proxy))
    assert (lookups, connects) == ([], [])


async def test_what_is_allowed_is_connected_to() -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(SocketAttribute.local_port)
        given = options("127.0.0.1")
        stream = await dial(Endpoint.parse(f"http://127.0.0.1:{port}"), given)
        await stream.aclose()
    assert not given.egress.refused
