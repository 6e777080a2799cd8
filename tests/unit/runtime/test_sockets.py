"""Happy eyeballs: the order of addresses, and that a dead family costs nothing. Loopback only."""

from __future__ import annotations

import socket

import anyio
import pytest

from coder_agent.errors import TransportBroken
from coder_agent.hooks import DialOptions
from coder_agent.runtime.dial import Endpoint, dial, open_socket
from coder_agent.runtime.sockets import Target, connect_first, in_turn

pytestmark = pytest.mark.anyio

DIRECT = DialOptions(proxy="")


def v4(host: str, port: int = 1) -> Target:
    return socket.AF_INET, (host, port)


def v6(host: str, port: int = 1) -> Target:
    return socket.AF_INET6, (host, port)


def test_families_take_turns_beginning_with_ipv6() -> None:
    assert in_turn([v4("a"), v4("b"), v6("c"), v6("d"), v6("e")]) == [v6("c"), v4("a"), v6("d"), v4("b"), v6("e")]
    assert in_turn([v4("a"), v4("b")]) == [v4("a"), v4("b")]


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
async def test_a_server_with_one_family_only_is_reached(family: socket.AddressFamily) -> None:
    """The other family's address refuses: the next one is tried at once."""
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    with socket.create_server((host, 0), family=family) as server:
        port = server.getsockname()[1]
        with anyio.fail_after(30):
            sock = await connect_first([v6("::1", port), v4("127.0.0.1", port)])
        assert sock.family == family
        assert not sock.getblocking()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)  # a second small write waits for no ACK
        sock.close()


async def test_an_address_that_swallows_packets_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from coder_agent.runtime import sockets

    real = sockets.connect

    async def connect(family: socket.AddressFamily, where: tuple[str, int]) -> socket.socket:
        if family == socket.AF_INET6:
            await anyio.sleep_forever()
        return await real(family, where)

    monkeypatch.setattr(sockets, "connect", connect)
    with socket.create_server(("127.0.0.1", 0)) as server:
        with anyio.fail_after(30):
            sock = await connect_first([v6("2001:db8::1"), v4("127.0.0.1", server.getsockname()[1])])
        sock.close()


async def test_what_every_address_said_is_in_the_error() -> None:
    port = closed_port()
    with pytest.raises(ConnectionRefusedError) as caught:
        await connect_first([v4("127.0.0.1", port), v4("127.0.0.2", port)])
    assert isinstance(caught.value.__cause__, ExceptionGroup)
    assert len(caught.value.__cause__.exceptions) == 2


async def test_a_server_s_name_with_two_families_is_dialled_by_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """The API's dial is the same: an IPv4-only server whose name has an IPv6 address, too."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        async def lookup(host: str, port: int, **_: object) -> list[object]:
            return [(f, 1, 6, "", (a, port)) for f, a in ((socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1"))]

        monkeypatch.setattr(anyio, "getaddrinfo", lookup)
        stream = await dial(Endpoint(False, "coder.example", port, "/"), DIRECT, timeout=5)
        await stream.aclose()


async def test_targets_that_are_given_replace_the_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        endpoint = Endpoint(True, "no-such-name.invalid", port, "/")
        sock = await open_socket(endpoint, DIRECT, targets=[v4("127.0.0.1", port)])
        sock.close()


async def test_a_refusal_is_a_sentence() -> None:
    with pytest.raises(TransportBroken, match="refuses the connection"):
        await open_socket(Endpoint(False, "127.0.0.1", closed_port(), "/"), DIRECT)
