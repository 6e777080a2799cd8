"""Our node among tailcats: as a server that admits clients, or as a client of one. Configured by the JSON file that is
its argument:

    {"private": 64 hex, "disco": 64 hex, "psk": 64 hex, "relay": {…a DERP map…}, "direct": true, "dial": [18080],
     "server": {"key": "nodekey:…", "disco": "discokey:…"}}      "server" only for a client

Tells ``admitted`` (testing/node_program.py tells the rest).
"""

import json
import os
import sys
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import anyio
from coder_agent_nat_traversal.settings import NatSettings
from coder_agent_nat_traversal.sources import build_sources
from coder_agent_transport_derp.transport import DerpTransportFactory
from coder_agent_transport_udp.settings import UdpSettings
from coder_agent_transport_udp.transport import UdpTransportFactory

from coder_agent.base import paths
from coder_agent.base.derp_map_json import from_json
from coder_agent.base.keys import DiscoPrivate, DiscoPublic, NodePrivate, NodePublic
from coder_agent.hooks.events import Event, RelayChanged
from coder_agent.node import NodeConfig, TailnetNode, open_node
from coder_agent.protocols.effects import SendRaw
from coder_agent.testing.node_program import run_node, say, say_path
from coder_agent.testing.tailcat import (
    REGION,
    inner_address,
    is_meow_pong,
    meow_ping,
    meow_pong,
    peer_node,
    read_meow_ping,
)

MEOW_INTERVAL = 1.0
"""Seconds between requests, which get lost until the server is connected to its relay (tailcat disco.go)."""


def admit_clients(node: TailnetNode, psk: bytes) -> None:
    """Be a server: whoever asks becomes a peer. Asking again changes nothing, and is answered again."""
    known: set[NodePublic] = set()

    def receive(packet: bytes, path: paths.Path) -> None:
        disco = read_meow_ping(packet)
        if disco is None or not isinstance(path, paths.DerpPath):
            return
        if path.key not in known:
            known.add(path.key)
            node.upsert_peer(peer_node(path.key, disco, path.region), psk=psk)
            say("admitted", key=str(path.key))
        node.engine.apply([SendRaw(path, meow_pong())])

    node.on_unknown = receive


async def be_admitted(node: TailnetNode, server: NodePublic, disco: DiscoPublic, psk: bytes) -> None:
    """Be a client: ask until the server answers."""
    answered = anyio.Event()

    def receive(packet: bytes, path: paths.Path) -> None:
        if is_meow_pong(packet) and isinstance(path, paths.DerpPath) and path.key == server:
            answered.set()

    node.on_unknown = receive
    while not answered.is_set():
        node.engine.apply([SendRaw(paths.DerpPath(REGION, server), meow_ping(node.key, node.disco))])
        with anyio.move_on_after(MEOW_INTERVAL):
            await answered.wait()
    node.upsert_peer(peer_node(server, disco), psk=psk)
    say("admitted", key=str(server))


async def main(said: dict[str, Any]) -> None:
    """Run until SIGTERM."""
    key = NodePrivate(bytes.fromhex(said["private"]))
    psk = bytes.fromhex(said["psk"])
    relayed = anyio.Event()

    def emit(event: Event) -> None:
        say_path(event)
        if isinstance(event, RelayChanged) and event.connected:
            relayed.set()

    config = NodeConfig(
        addresses=[inner_address(key.public())],
        transports=[UdpTransportFactory(UdpSettings()), DerpTransportFactory()],
        sources=build_sources(NatSettings()),
        node_key=key,
        disco_key=DiscoPrivate(bytes.fromhex(said["disco"]) if "disco" in said else os.urandom(32)),
        direct=said["direct"],
        emit=emit,
    )
    async with open_node(config) as node:
        node.set_derp_map(from_json(said["relay"]))
        await relayed.wait()  # packets of admission that come earlier are lost, and repeated a second later
        peer = IPv6Address("::")
        if "server" in said:
            server = NodePublic.parse(said["server"]["key"])
            peer = inner_address(server)
            await be_admitted(node, server, DiscoPublic.parse(said["server"]["disco"]), psk)
        else:
            admit_clients(node, psk)
        await run_node(node, peer, said["dial"])


anyio.run(main, json.loads(Path(sys.argv[1]).read_text()))
