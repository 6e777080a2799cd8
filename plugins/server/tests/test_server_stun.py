"""The embedded STUN responder: answers nodes, ignores everybody else, finds a port."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from coder_agent_server.options import HostPort
from coder_agent_server.stun import open_stun
from coder_agent_server.testing import first_user, run_server

from coder_agent.base.addresses import AddrPort
from coder_agent.errors import ConfigError
from coder_agent.protocols.stun import BindingResponse, encode_request, parse_response

pytestmark = pytest.mark.anyio

TXID = bytes(range(12))


@asynccontextmanager
async def client(port: int) -> AsyncIterator[anyio.abc.ConnectedUDPSocket]:
    async with await anyio.create_connected_udp_socket("127.0.0.1", port) as udp:
        yield udp


async def test_a_node_learns_its_address_and_junk_is_ignored() -> None:
    async with open_stun(HostPort("127.0.0.1", 0), exact=True) as at:
        assert at is not None
        async with client(at.port) as udp:
            for junk in (b"", b"x", b"\0" * 20, encode_request(TXID)[:-1], b"\xff" * 1400):
                await udp.send(junk)
            await udp.send(encode_request(TXID))
            with anyio.fail_after(30):
                answer = parse_response(await udp.receive())
            mine = udp.extra(anyio.abc.SocketAttribute.local_port)
    assert isinstance(answer, BindingResponse)
    assert (answer.txid, answer.mapped) == (TXID, AddrPort("127.0.0.1", mine))


@pytest.mark.parametrize(
    ("listen", "asked"),
    [("0.0.0.0", "127.0.0.1"), ("0.0.0.0", "127.0.0.2"), ("::", "127.0.0.2"), ("::", "::1")],
    ids=lambda value: value,
)
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system chooses the address of a reply")
async def test_the_answer_comes_from_the_address_that_was_asked(listen: str, asked: str) -> None:
    """A connected socket hears nobody else, and neither does one behind a NAT."""
    async with open_stun(HostPort(listen, 0), exact=True) as at:
        assert at is not None
        # From 127.0.0.1, which would be the system's choice for the answer, too.
        source = "::1" if ":" in asked else "127.0.0.1"
        async with await anyio.create_connected_udp_socket(asked, at.port, local_host=source) as udp:
            await udp.send(encode_request(TXID))
            with anyio.fail_after(30):
                answer = parse_response(await udp.receive())
    assert isinstance(answer, BindingResponse)
    assert answer.mapped.host == source


async def test_a_taken_default_port_is_replaced_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        address = HostPort(*taken.getsockname())
        with caplog.at_level(logging.WARNING):
            async with open_stun(address, exact=False) as at:
                assert at is not None
                assert at.port != address.port
        assert str(address) in caplog.text
        with pytest.raises(ConfigError, match="STUN"):
            async with open_stun(address, exact=True):
                raise AssertionError("it is taken")


async def test_the_relay_map_names_the_port(tmp_path: Path) -> None:
    async with run_server(tmp_path, stun_address="127.0.0.1:0") as server, first_user(server.url) as alice:
        info = (await alice.get("/api/v2/workspaceagents/connection")).json()
        (node,) = info["derp_map"]["Regions"]["999"]["Nodes"]
        assert server.running.stun is not None
        assert node["STUNPort"] == server.running.stun.port
        async with client(node["STUNPort"]) as udp:
            await udp.send(encode_request(TXID))
            with anyio.fail_after(30):
                assert isinstance(parse_response(await udp.receive()), BindingResponse)
