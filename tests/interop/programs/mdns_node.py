"""A node that knows its peer's keys and nothing else: no relay, no STUN, no endpoints. Only mDNS can find the peer.

Configured by the JSON file that is its argument:

{"private": 64 hex, "disco": 64 hex, "peer": 64 hex, "peer_disco": 64 hex, "address": "fd99::2",
 "peer_address": "fd99::1", "dial": [5201], "mdns": false}

Without "peer" it only announces itself; with "mdns" false it says and hears nothing by mDNS.
"""

import json
import sys
import time
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

import anyio
from coder_agent_discovery_mdns.source import MdnsSource
from coder_agent_transport_udp.settings import UdpSettings
from coder_agent_transport_udp.transport import UdpTransportFactory

from coder_agent.base.keys import DiscoPrivate, DiscoPublic, NodePrivate, NodePublic
from coder_agent.base.node import Node
from coder_agent.base.paths import PathKind
from coder_agent.node import NodeConfig, TailnetNode, open_node
from coder_agent.testing.node_program import run_node, say, say_path


async def main(said: dict[str, Any]) -> None:
    """Run until SIGTERM."""
    source = MdnsSource()
    config = NodeConfig(
        addresses=[IPv6Address(said["address"])],
        transports=[UdpTransportFactory(UdpSettings())],
        sources=[source] if said.get("mdns", True) else [],
        node_key=NodePrivate(bytes.fromhex(said["private"])),
        disco_key=DiscoPrivate(bytes.fromhex(said["disco"])),
        emit=say_path,
    )
    async with open_node(config) as node:
        assert node.engine.direct is not None
        say("bound", ports=node.engine.direct.bound_ports())
        peer_address = IPv6Address(said["peer_address"])
        if "peer" in said:
            node.start_soon(time_to_direct, node, add_peer(node, said, peer_address), peer_address)
        await run_node(node, peer_address, said["dial"])
    say("heard", **source.counters)


def add_peer(node: TailnetNode, said: dict[str, Any], address: IPv6Address) -> NodePublic:
    """The peer without any address in the real network."""
    key = NodePublic(bytes.fromhex(said["peer"]))
    network = IPv6Network((address, 128))
    disco = DiscoPublic(bytes.fromhex(said["peer_disco"]))
    node.upsert_peer(Node(id=0, key=key, disco=disco, preferred_derp=0, addresses=(network,)))
    return key


async def time_to_direct(node: TailnetNode, peer: NodePublic, address: IPv6Address) -> None:
    """How long until the peer answers: from the first packet to it, and by what."""
    started = time.monotonic()
    await node.ping_tunnel(address, timeout=30)
    status = node.path(peer)
    say("answered", seconds=time.monotonic() - started, direct=status.kind is PathKind.DIRECT, by=str(status.addr))


anyio.run(main, json.loads(Path(sys.argv[1]).read_text()))
