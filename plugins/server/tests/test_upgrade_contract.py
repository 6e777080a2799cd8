"""The door of the relay, and the names of uvicorn that it hangs on."""

from __future__ import annotations

import inspect
import ssl
from pathlib import Path

import anyio
import anyio.abc
import anyio.streams.tls
import httpx2
import pytest
import trustme
import uvicorn
from coder_agent_server.testing import Api, Server, run_server
from coder_agent_server.websockets import QuietWebSocketProtocol
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

pytestmark = pytest.mark.anyio

REQUEST = b"GET /derp HTTP/1.1\r\nHost: x\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n"


def test_uvicorn_still_has_the_names_that_we_override() -> None:
    for name in ("_should_upgrade", "_get_upgrade", "_unsupported_upgrade_warning", "_unset_keepalive_if_required"):
        assert callable(getattr(H11Protocol, name)), name
    made = inspect.getsource(H11Protocol.__init__)
    for name in ("self.connections", "self.cycle", "self.conn", "self.transport", "self.scope"):
        assert name in made, name
    handled = inspect.getsource(H11Protocol.handle_events)
    assert handled.index("self._should_upgrade()") < handled.index("RequestResponseCycle(")
    cycle = inspect.getsource(RequestResponseCycle)
    assert "not self.response_started and not self.disconnected" in cycle  # what keeps it silent after a hand-over
    assert "more_body" in cycle
    assert "handshake_complete" in inspect.getsource(QuietWebSocketProtocol.__mro__[1])
    assert callable(uvicorn.Server.capture_signals)
    assert inspect.iscoroutinefunction(uvicorn.Server.startup)


async def read_until(stream: anyio.abc.ByteReceiveStream, wanted: bytes) -> bytes:
    received = b""
    with anyio.fail_after(30):
        while wanted not in received:
            received += await stream.receive()
    return received


async def test_the_head_is_answered_and_bytes_behind_it_reach_the_relay(server: Server) -> None:
    async with await anyio.connect_tcp(*server.address) as stream:
        await stream.send(REQUEST + b"\r\nearly bytes")
        received = await read_until(stream, b"ready:early bytes")
        assert received == server.relay.upgrade_head() + b"ready:early bytes"
        await stream.send(b"later")
        assert await read_until(stream, b"later") == b"later"
        (remote,) = server.relay.remotes
        assert remote is not None
        assert remote.port == stream.extra(anyio.abc.SocketAttribute.local_port)


async def test_bytes_sent_while_the_request_is_handled_are_not_lost(server: Server) -> None:
    async with await anyio.connect_tcp(*server.address) as stream:
        sent = b""
        await stream.send(REQUEST + b"\r\n")
        for number in range(50):
            sent += (chunk := b"<%d>" % number)
            await stream.send(chunk)
        received = await read_until(stream, b"<49>")
    assert received.partition(b"ready:")[2] == sent


async def test_fast_start_gets_no_head(server: Server) -> None:
    async with await anyio.connect_tcp(*server.address) as stream:
        await stream.send(REQUEST + b"Derp-Fast-Start: 1\r\n\r\n")
        assert await read_until(stream, b"ready:") == b"ready:"


async def test_the_upgrade_works_on_a_connection_that_was_used_before(server: Server) -> None:
    async with await anyio.connect_tcp(*server.address) as stream:
        await stream.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        await read_until(stream, b"OK")
        await stream.send(REQUEST + b"\r\n")
        assert (await read_until(stream, b"ready:")).startswith(b"HTTP/1.1 101 ")


async def test_keep_alive_does_not_end_a_connection_that_was_handed_over(server: Server) -> None:
    async with await anyio.connect_tcp(*server.address) as stream:
        await stream.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + REQUEST + b"\r\n")
        await read_until(stream, b"ready:")
        state = server.running.deployment
        assert state.relay is not None
        assert len(server.relay.transports) == 1
        (transport,) = server.relay.transports
        assert transport.get_protocol().__class__.__name__ == "_Echo"


@pytest.mark.parametrize("upgrade", ["", "Upgrade: foo\r\nConnection: Upgrade\r\n", "Upgrade: DERP\r\n"])
async def test_anything_else_is_told_what_to_do(server: Server, upgrade: str) -> None:
    async with await anyio.connect_tcp(*server.address) as stream:
        await stream.send(f"GET /derp HTTP/1.1\r\nHost: x\r\n{upgrade}\r\n".encode())
        assert (await read_until(stream, b"\r\n\r\n")).startswith(b"HTTP/1.1 426 ")


async def test_an_upgrade_with_a_body_that_has_not_come_is_refused(server: Server) -> None:
    async with await anyio.connect_tcp(*server.address) as stream:
        await stream.send(REQUEST + b"Content-Length: 10\r\n\r\n")
        assert (await read_until(stream, b"cannot be upgraded")).startswith(b"HTTP/1.1 400 ")


async def test_other_routes_ignore_the_upgrade(server: Server) -> None:
    async with await anyio.connect_tcp(*server.address) as stream:
        await stream.send(REQUEST.replace(b"/derp", b"/healthz") + b"\r\n")
        assert (await read_until(stream, b"OK")).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("junk", [b"\0" * 100, b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00", b"A" * 100_000])
async def test_junk_is_answered_or_closed_and_nothing_breaks(server: Server, junk: bytes) -> None:
    async with await anyio.connect_tcp(*server.address) as stream:
        await stream.send(junk)
        await stream.send_eof()
        with anyio.fail_after(30):
            try:
                while await stream.receive():
                    pass
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass
    async with Api(server.url) as api:
        assert (await api.get("/healthz")).text == "OK"


async def test_the_relay_by_websocket(server: Server) -> None:
    url = server.url.replace("http", "ws") + "/derp"
    async with connect(url, subprotocols=["derp"], proxy=None) as socket:  # type: ignore[list-item]
        assert socket.subprotocol == "derp"
        await socket.send(b"frame")
        assert await socket.recv() == b"frame"
    with pytest.raises(InvalidStatus) as refused:
        await connect(url, proxy=None)
    assert refused.value.response.status_code == 400


async def test_no_relay_no_door(tmp_path: Path) -> None:
    settings = {"derp_server_enable": False}
    with pytest.raises(Exception, match="no relay"):
        async with run_server(tmp_path, **settings):
            raise AssertionError("it started")


async def test_stopping_closes_handed_over_connections(tmp_path: Path) -> None:
    async with run_server(tmp_path) as server:
        stream = await anyio.connect_tcp(*server.address)
        await stream.send(REQUEST + b"\r\n")
        await read_until(stream, b"ready:")
    async with stream:
        with anyio.fail_after(30), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await stream.receive()


async def test_the_upgrade_over_tls_on_the_second_port(tmp_path: Path) -> None:
    ca = trustme.CA()
    cert = ca.issue_cert("127.0.0.1")
    cert.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    cert.private_key_pem.write_to_path(tmp_path / "key.pem")
    trust = ssl.create_default_context()
    ca.configure_trust(trust)
    settings = {
        "tls_enable": True,
        "tls_address": "127.0.0.1:0",
        "tls_cert_file": str(tmp_path / "cert.pem"),
        "tls_key_file": str(tmp_path / "key.pem"),
    }
    async with run_server(tmp_path, **settings) as server:
        https = server.running.https
        assert https is not None
        plain = await anyio.connect_tcp(https.host, https.port)
        async with await anyio.streams.tls.TLSStream.wrap(
            plain, hostname="127.0.0.1", ssl_context=trust, standard_compatible=False
        ) as stream:
            await stream.send(REQUEST + b"\r\nearly")
            assert (await read_until(stream, b"ready:early")).startswith(b"HTTP/1.1 101 ")
            await stream.send(b"x" * 100_000 + b"!")
            assert len(await read_until(stream, b"!")) == 100_001
        async with httpx2.AsyncClient(verify=trust) as client:
            assert (await client.get(f"https://{https}/healthz")).text == "OK"


@pytest.mark.parametrize(("used_before", "begin"), [(False, b""), (False, b"GET / HT"), (True, b"GET / HT")])
async def test_who_never_finishes_a_request_head_is_dropped(
    server: Server, monkeypatch: pytest.MonkeyPatch, used_before: bool, begin: bytes
) -> None:
    if not used_before:
        monkeypatch.setattr("coder_agent_server.upgrade.HEAD_SECONDS", 0.05)
    async with await anyio.connect_tcp(*server.address) as stream:
        if used_before:
            await stream.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            await read_until(stream, b"OK")
            monkeypatch.setattr("coder_agent_server.upgrade.HEAD_SECONDS", 0.05)
        await stream.send(begin)
        with anyio.fail_after(30):
            try:
                while await stream.receive():
                    pass
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass


async def test_what_cannot_be_a_request_is_told_so_at_once(server: Server) -> None:
    """A TLS greeting at the plain port: whoever sent it shall hear why, and not wait for the end of a head."""
    async with await anyio.connect_tcp(*server.address) as stream:
        await stream.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32))
        assert b"400 Bad Request" in await read_until(stream, b"\r\n\r\n")
