"""Our node for a peer that speaks plain WireGuard. Configured by the JSON file that is its argument:

{"private": 64 hex, "peer": 64 hex, "psk": 64 hex, "address": "fd99::2", "peer_address": "fd99::1",
 "endpoint": "10.77.0.1:51820", "port": 51821, "dial": [5201]}
"""

import json
import sys
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

import anyio
from coder_agent_transport_udp.settings import UdpSettings
from coder_agent_transport_udp.transport import UdpTransportFactory

from coder_agent.base.addresses import AddrPort
from coder_agent.base.keys import NodePrivate, NodePublic
from coder_agent.base.node import Node
from coder_agent.node import NodeConfig, open_node
from coder_agent.testing.node_program import run_node
from coder_agent.testing.static_paths import NO_DISCO, StaticPaths


async def main(said: dict[str, Any]) -> None:
    """Run until SIGTERM."""
    peer, peer_address = NodePublic(bytes.fromhex(said["peer"])), IPv6Address(said["peer_address"])
    config = NodeConfig(
        addresses=[IPv6Address(said["address"])],
        transports=[UdpTransportFactory(UdpSettings())],
        node_key=NodePrivate(bytes.fromhex(said["private"])),
        listen_port=said["port"],
    )
    paths = StaticPaths({peer: AddrPort.parse(said["endpoint"])})
    async with open_node(config, magicsock=paths) as node:
        network = IPv6Network((peer_address, 128))
        node.upsert_peer(
            Node(id=0, key=peer, disco=NO_DISCO, preferred_derp=0, addresses=(network,)), psk=bytes.fromhex(said["psk"])
        )
        await run_node(node, peer_address, said["dial"])


anyio.run(main, json.loads(Path(sys.argv[1]).read_text()))
