"""`coder derp`: its HTTP door, WebSockets by a foreign library, admission, mesh of two programs, figures, its end."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trustme
from coder_agent_transport_derp.daemon import door as door_module
from coder_agent_transport_derp.daemon.admission import UrlVerifier, shows_token
from coder_agent_transport_derp.daemon.options import resolve
from coder_agent_transport_derp.daemon.program import RelayProgram, open_relay
from coder_agent_transport_derp.daemon.settings import RelayProgramSettings
from coder_agent_transport_derp.settings import DerpSettings
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from coder_agent import tls_server
from coder_agent.base.addresses import AddrPort
from coder_agent.base.keys import NodePrivate, NodePublic
from coder_agent.errors import ConfigError
from coder_agent.hooks import Egress, Purpose, Verdict
from coder_agent.hooks.interfaces import DialOptions
from coder_agent.protocols.derp import frames
from coder_agent.protocols.derp.frames import FrameType
from coder_agent.protocols.derp.login import ClientInfo, client_info_frame

pytestmark = pytest.mark.anyio

MESH = "ab" * 32
NO_PROXY = DialOptions(proxy="")
UPGRADE = "GET /derp HTTP/1.1\r\nHost: r\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n{more}\r\n"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


OPENED: list[asyncio.StreamWriter] = []


async def hang_up() -> None:
    """Close what a test opened."""
    for writer in OPENED:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    OPENED.clear()


async def dial(at: AddrPort, **how: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(at.host, at.port, **how)
    OPENED.append(writer)
    return reader, writer


@asynccontextmanager
async def running(mesh_key: str = "", **settings: Any) -> AsyncIterator[RelayProgram]:
    quiet = {"address": "127.0.0.1:0", "stun_address": "disable", "drain_seconds": 0.0}
    relay = DerpSettings.model_validate({"relay_mesh_key": mesh_key} if mesh_key else {})
    async with open_relay(resolve(program_settings(**{**quiet, **settings}), relay), NO_PROXY) as program:
        try:
            yield program
        finally:
            await hang_up()


def program_settings(**settings: Any) -> RelayProgramSettings:
    return RelayProgramSettings.model_validate(settings)


class Client:
    """A raw connection that logs in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: NodePrivate) -> None:
        self.reader, self.writer, self.private = reader, writer, key
        self.key = key.public().raw

    @classmethod
    async def connect(cls, program: RelayProgram, *, more: str = "", tls: ssl.SSLContext | None = None) -> Client:
        """Everything up to our ClientInfo."""
        reader, writer = await dial(program.address, ssl=tls, server_hostname="localhost" if tls else None)
        client = cls(reader, writer, NodePrivate.generate(os.urandom))
        writer.write(UPGRADE.format(more=more).encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101"), head
        assert (await client.frame())[0] == FrameType.SERVER_KEY
        info = ClientInfo(can_ack_pings=True)
        writer.write(client_info_frame(client.private, program.relay.core.public, info, os.urandom))
        return client

    @classmethod
    async def enter(cls, program: RelayProgram, **how: Any) -> Client:
        client = await cls.connect(program, **how)
        assert (await client.frame())[0] == FrameType.SERVER_INFO
        return client

    async def frame(self) -> tuple[int, bytes]:
        with anyio.fail_after(30):
            head = await self.reader.readexactly(5)
            return head[0], await self.reader.readexactly(int.from_bytes(head[1:], "big"))

    async def is_closed(self) -> bool:
        with anyio.fail_after(30):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True


async def ask(at: AddrPort, text: str) -> tuple[int, bytes]:
    reader, writer = await dial(at)
    writer.write(text.encode())
    with anyio.fail_after(30):
        status = int((await reader.readline()).split()[1])
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        body = await reader.readexactly(length)
    writer.close()
    return status, body


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(30):
        while not condition():  # noqa: ASYNC110  (the other end of a socket: there is nothing to wait on here)
            await anyio.sleep(0.005)


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"address": "here"}, "not host:port"),
        ({"tls_cert_file": "x"}, "tls_key_file is not"),
        ({"tls_cert_file": "/x", "tls_key_file": "/y"}, "there is no file /x"),
        ({"mesh_with": ["a"]}, "no mesh key"),
        ({"verify_url": "http://a", "coder_url": "http://b"}, "both set"),
        ({"verify_url": "a"}, "not an http or https URL"),
        ({"stun_address": "x:y"}, "stun_address"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_faults_are_found_before_anything_is_opened(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        resolve(program_settings(**settings), DerpSettings.model_validate({}))


def test_the_default_address_depends_on_tls() -> None:
    options = resolve(program_settings(), DerpSettings.model_validate({}))
    assert (str(options.address), str(options.stun)) == ("127.0.0.1:3340", "127.0.0.1:3478")
    known = resolve(program_settings(coder_url="https://coder.example/"), DerpSettings.model_validate({}))
    assert known.verify_url == "https://coder.example/api/v2/derp/verify"


async def test_a_taken_port_is_said() -> None:
    async with running() as program:
        with pytest.raises(ConfigError, match="cannot listen on"):
            async with running(address=str(program.address)):
                raise AssertionError("it listened")


# ---------------------------------------------------------------- the door


async def test_pages() -> None:
    async with running() as program:
        status, body = await ask(program.address, "GET / HTTP/1.1\r\nHost: r\r\n\r\n")
        assert status == HTTPStatus.OK
        assert program.relay.core.public.raw.hex() in body.decode()
        assert (await ask(program.address, "GET /healthz HTTP/1.1\r\nHost: r\r\n\r\n"))[0] == HTTPStatus.OK
        reader, writer = await dial(program.address)
        writer.write(b"GET /generate_204 HTTP/1.1\r\nHost: r\r\nX-Tailscale-Challenge: ts_r\r\n\r\n")
        with anyio.fail_after(30):
            head = await reader.readuntil(b"\r\n\r\n")
        assert b"X-Tailscale-Response: response ts_r\r\n" in head
        writer.close()


async def test_a_token_is_asked_for_in_either_header() -> None:
    async with running(token="secret") as program:
        for more in ("", "Derp-Token: wrong\r\n", "Authorization: Basic secret\r\n"):
            status, body = await ask(program.address, UPGRADE.format(more=more))
            assert (status, body) == (HTTPStatus.UNAUTHORIZED, b"this relay wants a token\n")
        await Client.enter(program, more="Derp-Token: secret\r\n")
        await Client.enter(program, more="Authorization: bearer secret\r\n")
        assert program.figures()["clients"] == 2
    assert not shows_token({b"authorization": b"Bearer "}, "secret")


async def test_a_foreign_websocket_client_relays_with_a_raw_one() -> None:
    async with running() as program:
        raw = await Client.enter(program)
        key = NodePrivate.generate(os.urandom)
        url = f"ws://{program.address}/derp"
        async with connect(url, subprotocols=[Subprotocol("derp")], proxy=None) as socket:
            assert socket.subprotocol == "derp"
            assert (await socket.recv())[:1] == b"\x01"
            login = client_info_frame(key, program.relay.core.public, ClientInfo(), os.urandom)
            for byte in range(0, len(login), 7):  # message boundaries carry no meaning
                await socket.send(login[byte : byte + 7])
            assert (await socket.recv())[:1] == b"\x03"
            await socket.send(frames.send_packet(raw.key, b"hello" * 1000))
            assert await raw.frame() == (FrameType.RECV_PACKET, key.public().raw + b"hello" * 1000)
            raw.writer.write(frames.send_packet(key.public().raw, b"back"))
            assert (await socket.recv())[-4:] == b"back"
        await until(lambda: program.figures()["clients"] == 1)


async def test_websockets_that_are_none_of_ours() -> None:
    async with running() as program:
        url = f"ws://{program.address}/derp"
        async with connect(url, subprotocols=[Subprotocol("derp")], proxy=None) as socket:
            await socket.recv()
            await socket.send("text")
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1003
        with pytest.raises(InvalidStatus):
            await connect(f"ws://{program.address}/elsewhere", subprotocols=[Subprotocol("derp")], proxy=None)


async def test_half_open_connections_cost_bounded_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "MAX_WAITING", 50)
    async with running() as program:
        writers = [(await dial(program.address))[1] for _ in range(80)]
        for writer in writers:
            writer.write(b"GET /derp HTTP/1.1\r\nHost: r\r\n")
        await until(lambda: program.figures()["waiting_connections"] == 50)
        await Client.enter(program)  # takes the place of the oldest, and leaves it at once
        assert program.figures()["waiting_connections"] == 49
        for writer in writers:
            writer.close()
        await until(lambda: program.figures()["waiting_connections"] == 0)
        await Client.enter(program)


def certificate(folder: Path) -> tuple[dict[str, str], ssl.SSLContext]:
    """Settings of a relay with TLS, and what its clients trust."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    return {"tls_cert_file": str(folder / "cert.pem"), "tls_key_file": str(folder / "key.pem")}, trusting


async def test_half_open_tls_costs_bounded_room_and_keeps_nobody_out(tmp_path: Path) -> None:
    """Before the handshake and in the middle of it. All 10,000 of them: `make bench ONLY=relay_half_open`."""
    files, trusting = certificate(tmp_path)
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
    async with running(**files) as program:
        gate = program._gate
        assert gate is not None
        gate.most = 50
        writers = [(await dial(program.address))[1] for _ in range(80)]
        for writer in writers[::2]:
            writer.write(hello)
        await until(lambda: program.figures()["tls_handshakes_waiting"] == 50)
        await until(lambda: program.figures()["tls_handshake_failures"] == 30)
        a = await Client.enter(program, tls=trusting)  # takes the place of the oldest, and leaves it at once
        b = await Client.enter(program, tls=trusting)
        a.writer.write(frames.send_packet(b.key, b"through"))
        assert await b.frame() == (FrameType.RECV_PACKET, a.key + b"through")
        assert program.figures()["tls_handshakes_waiting"] <= 50
        for writer in writers:
            writer.close()
        await until(lambda: program.figures()["tls_handshakes_waiting"] == 0)


def shaken(tls: ssl.SSLObject) -> bool:
    """Is the handshake over? If not, it wants to read."""
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


@pytest.mark.parametrize(
    ("record", "whole"),
    [
        (b"", False),
        (b"\x16\x03\x01", False),
        (b"\x16\x03\x01\x00\x02\x01", False),
        (b"\x16\x03\x01\x00\x02\x01\x00", True),
        (b"\x16\x03\x01\xff\xff", True),
        (b"G", True),
        (b"GET / HTTP/1.1", True),
    ],
    ids=["nothing", "half a head", "half a record", "a record", "too long", "a letter", "HTTP"],
)
def test_openssl_is_asked_when_it_can_say_something(record: bytes, whole: bool) -> None:
    assert tls_server.is_whole(record) is whole


async def test_a_greeting_in_single_bytes_is_a_greeting(tmp_path: Path) -> None:
    files, trusting = certificate(tmp_path)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = trusting.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    async with running(**files) as program:
        reader, writer = await dial(program.address)
        for byte in outgoing.read():
            writer.write(bytes((byte,)))
            await writer.drain()
            await anyio.lowlevel.checkpoint()
        with anyio.fail_after(30):
            for done in iter(partial(shaken, tls), True):
                assert not done
                incoming.write(await reader.read(65536))
        assert tls.version() == "TLSv1.3"


async def test_a_tls_handshake_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_server, "HANDSHAKE_TIMEOUT", 0.05)
    files, _ = certificate(tmp_path)
    async with running(**files) as program:
        reader, _ = await dial(program.address)
        with anyio.fail_after(30):
            with suppress(ConnectionError):
                assert await reader.read(1) == b""
        await until(lambda: program.figures()["tls_handshakes_waiting"] == 0)
        assert program.figures()["tls_handshake_failures"] == 1


# ---------------------------------------------------------------- admission by somebody else


class Judge:
    """An HTTP server that decides, as the URL of --verify-url."""

    def __init__(self) -> None:
        self.allow: bool | None = True
        self.asked: list[dict[str, str]] = []
        self.status = b"200 OK"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        self.asked.append(json.loads(await reader.readexactly(length)))
        body = json.dumps({"Allow": self.allow}).encode()
        writer.write(
            b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (self.status, len(body), body)
        )
        writer.close()


@asynccontextmanager
async def judged(**settings: Any) -> AsyncIterator[tuple[Judge, RelayProgram]]:
    judge = Judge()
    server = await asyncio.start_server(judge.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/verify"
    try:
        async with running(verify_url=url, **settings) as program:
            yield judge, program
    finally:
        server.close()


async def test_a_url_decides_in_stock_derpers_words() -> None:
    async with judged() as (judge, program):
        client = await Client.enter(program)
        assert judge.asked == [{"NodePublic": str(NodePublic(client.key)), "Source": "127.0.0.1"}]
        judge.allow = False
        assert await (await Client.connect(program)).is_closed()
        judge.allow, judge.status = True, b"403 Forbidden"
        assert await (await Client.connect(program)).is_closed()
        assert program.figures()["refused_admission"] == 2


@pytest.mark.parametrize("fail_open", [True, False])
async def test_when_nobody_answers(fail_open: bool) -> None:
    async with running(verify_url="http://127.0.0.1:9/verify", verify_fail_open=fail_open) as program:
        client = await Client.connect(program)
        if fail_open:
            assert (await client.frame())[0] == FrameType.SERVER_INFO
        else:
            assert await client.is_closed()
        assert program.figures()["verify_failures"] == 1


async def test_a_yes_is_remembered_while_who_said_it_is_away() -> None:
    judge = Judge()
    server = await asyncio.start_server(judge.serve, "127.0.0.1", 0)
    verifier = UrlVerifier(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", dial=NO_PROXY)
    key, other = (NodePrivate.generate(os.urandom).public() for _ in range(2))
    assert await verifier.ask(key, "")
    server.close()
    await server.wait_closed()
    assert await verifier.ask(key, "")
    assert not await verifier.ask(other, "")


# ---------------------------------------------------------------- mesh


async def test_two_programs_mesh_and_find_each_other_again() -> None:
    async with running(MESH) as far, running(MESH, mesh_with=[f"http://{far.address}/derp"]) as near:
        await until(lambda: near.figures()["mesh_links_up"] == 1)
        a, b = await Client.enter(near), await Client.enter(far)
        await until(lambda: near.figures()["mesh_clients"] == 1)
        a.writer.write(frames.send_packet(b.key, b"across" * 200) * 50)
        for _ in range(50):
            assert await b.frame() == (FrameType.RECV_PACKET, a.key + b"across" * 200)
        for session in list(far.relay.core.mesh_watchers):
            session.close()
        await until(lambda: near.figures()["mesh_clients"] == 0)
        assert near.figures()["mesh_links_up"] == 0


@pytest.mark.parametrize("case", ["wrong key", "itself", "no relay"])
async def test_links_that_cannot_be(case: str) -> None:
    async with running("cd" * 32 if case == "wrong key" else MESH) as far:
        path = "/healthz" if case == "no relay" else "/derp"
        settings = {"address": str(far.address)} if case == "itself" else {}
        if case == "itself":
            from coder_agent_transport_derp.daemon.mesh import MeshDialer

            with anyio.fail_after(30):  # it ends by itself
                await MeshDialer(far.relay.core, bytes.fromhex(MESH), f"http://{far.address}/derp", NO_PROXY).run()
            return
        async with running(MESH, mesh_with=[f"http://{far.address}{path}"], **settings) as near:
            await until(lambda: near.mesh[0].problem)
            assert near.figures()["mesh_links_up"] == 0


# ---------------------------------------------------------------- figures, certificates, the end


async def test_figures_for_prometheus() -> None:
    async with running(metrics_address="127.0.0.1:0") as program:
        await Client.enter(program)
        assert program.metrics is not None
        status, body = await ask(program.metrics, "GET /metrics HTTP/1.1\r\nHost: r\r\n\r\n")
        assert status == HTTPStatus.OK
        assert b"# TYPE derp_clients gauge\nderp_clients 1.0\n" in body
        assert b"derp_accepts_total 1.0\n" in body
        assert (await ask(program.metrics, "GET / HTTP/1.1\r\nHost: r\r\n\r\n"))[0] == HTTPStatus.NOT_FOUND


async def test_what_an_air_gap_refuses_is_counted() -> None:
    class Nobody:
        name = "nobody"

        def judge(self, host: str, address: str | None, port: int, purpose: Purpose) -> Verdict:
            return Verdict(host == "127.0.0.1", "a rule")

        def trust(self, host: str, reason: str) -> None: ...

    egress = Egress(Nobody())
    settings = program_settings(
        address="127.0.0.1:0",
        stun_address="disable",
        mesh_with=["http://relay.example/derp"],
        metrics_address="127.0.0.1:0",
    )
    options = resolve(settings, DerpSettings.model_validate({"relay_mesh_key": MESH}))
    async with open_relay(options, DialOptions(proxy="", egress=egress)) as program:
        await until(lambda: program.figures()["airgap_refused_lookup"] or program.figures()["airgap_refused_connect"])
        assert program.metrics is not None
        status, body = await ask(program.metrics, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert status == 200
        assert b"derp_airgap_refused_stun_total 0.0" in body
    async with running() as program:
        assert not any(name.startswith("airgap") for name in program.figures())
        await hang_up()


async def test_a_renewed_certificate_is_served_and_a_broken_one_is_not(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    first, second = trustme.CA(), trustme.CA()

    def issue(authority: trustme.CA) -> None:
        issued = authority.issue_cert("localhost")
        issued.cert_chain_pems[0].write_to_path(cert)
        issued.private_key_pem.write_to_path(key)

    def trusting(authority: trustme.CA) -> ssl.SSLContext:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        return context

    issue(first)
    async with running(tls_cert_file=str(cert), tls_key_file=str(key)) as program:
        old = await Client.enter(program, tls=trusting(first))
        issue(second)
        program.reload()
        new = await Client.enter(program, tls=trusting(second))
        key.write_text("broken")
        program.reload()
        await Client.enter(program, tls=trusting(second))
        old.writer.write(frames.send_packet(new.key, b"still here"))
        assert await new.frame() == (FrameType.RECV_PACKET, old.key + b"still here")


async def test_a_reload_changes_the_limits_of_those_who_come_then() -> None:
    found: list[DerpSettings | ConfigError] = [
        DerpSettings.model_validate({"relay_client_rate": 1_000_000, "relay_client_burst": 70_000}),
        ConfigError("now it is nonsense"),
    ]

    def limits() -> DerpSettings:
        match found.pop(0):
            case ConfigError() as error:
                raise error
            case settings:
                return settings

    async with running() as program:
        program.limits = limits
        core = program.relay.core
        await Client.enter(program)
        program.reload()
        await Client.enter(program)
        program.reload()  # what cannot be read changes nothing
        assert core.rate_limit() == (1_000_000, 70_000)
        await Client.enter(program)
        buckets = [session._bucket for session in core.sessions]
        assert sorted(bucket.rate if bucket else 0 for bucket in buckets) == [0, 10**6, 10**6]


async def test_it_says_goodbye_and_relays_until_its_clients_left() -> None:
    async with running(drain_seconds=600.0) as program:
        a, b = await Client.enter(program), await Client.enter(program)
        with anyio.fail_after(60):  # long before its 600 s are over
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(program.drain)
                await talk(program, a, b)


async def talk(program: RelayProgram, a: Client, b: Client) -> None:
    kind, payload = await a.frame()
    assert kind == FrameType.RESTARTING
    reconnect_in, try_for = frames.parse_restarting(payload)
    assert 500 <= reconnect_in <= 1000
    assert try_for == 600_000
    await b.frame()
    a.writer.write(frames.send_packet(b.key, b"last words"))
    assert await b.frame() == (FrameType.RECV_PACKET, a.key + b"last words")
    with pytest.raises(ConnectionRefusedError):
        await dial(program.address)
    a.writer.close()
    b.writer.close()
