"""Which way an agent's packets go to each peer, told to its server whenever that changes.

The document, as `GET /api/v2/workspaces/{id}/paths` shows it for each agent:

    {"peers": [{"peer_id": UUID, "key": "nodekey:…", "kind": "direct" | "relayed" | "none", "path": "ip:port" |
                "derp:<region>" | "", "latency_ms": number | null, "loss": share | null, "wire_mtu": bytes | null,
                "active": bool, "rx_bytes": count, "tx_bytes": count, "nat": NAT | null, "peer_nat": NAT | null,
                "verdict": verdict/document.py}]}

Loss is that of the last regular pings of the way in use. Bytes are of tunnel packets, since the agent knows the peer,
as the agent sees them; NAT is this end's or the peer's: "none", "easy" (one outside port for all destinations), "hard"
(one for each) or "blocked" (no UDP at all).

Bounded: the 64 peers that are active or came last. Changes are gathered for a second, and at least ten lie between two
reports, so that paths which flap do not keep a server busy. While a path is in use, the report is repeated
at that pace: somebody may be looking at latency and throughput.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

import anyio

from .agent_api import AgentApi
from .base.addresses import AddrPort
from .base.nat_facts import NatFacts
from .base.node import Node
from .base.paths import PathKind
from .hooks.events import Event, PathChanged, PeerChanged
from .node import TailnetNode

GATHER = 1.0
"""Seconds after a change until it is told: a search for a path has changed its mind by then."""
INTERVAL = 10.0
"""Seconds between two reports, at least."""
MAX_PEERS = 64


def paths_document(node: TailnetNode, peers: Mapping[UUID, Node]) -> dict[str, list[dict[str, object]]]:
    """The report of `node` about `peers`, by the ids that the coordinator knows them by."""
    newest = list(peers.items())[::-1]
    newest.sort(key=lambda item: not node.path(item[1].key).active)
    return {"peers": [_peer(node, peer_id, peer) for peer_id, peer in newest[:MAX_PEERS]]}


def _peer(node: TailnetNode, peer_id: UUID, peer: Node) -> dict[str, object]:
    from .explain import explain  # with `verdict` 1 MB, which an agent that nobody visits need not hold
    from .verdict.document import to_document

    status = node.path(peer.key)
    received, sent = node.traffic(peer.key)
    path = str(status.addr) if status.kind is PathKind.DIRECT else f"derp:{status.region}" if status.region else ""
    return {
        "peer_id": str(peer_id),
        "key": str(peer.key),
        "kind": status.kind.value,
        "path": path,
        "latency_ms": None if status.latency is None else round(status.latency * 1000, 3),
        "loss": None if status.loss is None else round(status.loss, 3),
        "wire_mtu": status.wire_mtu or None,
        "active": status.active,
        "rx_bytes": received,
        "tx_bytes": sent,
        "nat": nat_kind(status.local.facts, node.self_node().endpoints),
        "peer_nat": None if status.remote is None else nat_kind(status.remote.facts, peer.endpoints),
        "verdict": to_document(explain(node, peer.key, "the peer")),
    }


def nat_kind(facts: NatFacts, endpoints: Sequence[AddrPort]) -> str | None:
    """What is between an end and the Internet, in a word; None = not known. `endpoints`: what the end publishes."""
    if facts.udp is False:
        return "blocked"
    if facts.mapping_varies:
        return "hard"
    from .verdict.model import is_public

    if is_public(tuple(endpoints)):
        return "none"
    return None if facts.public_v4 is None else "easy"


class PathReporter:
    """Tells the server about path changes. `linked` when there is a (new) connection to it, `heard` for each event."""

    def __init__(self, api: AgentApi) -> None:
        self._api = api
        self._changed = anyio.Event()
        self._wanted = True

    def linked(self) -> None:
        """Perhaps it is another server, or a newer one: it is told all again."""
        self._wanted = True
        self._changed.set()

    def heard(self, event: Event) -> None:
        """Something happened in the node."""
        if isinstance(event, PathChanged | PeerChanged):
            self._changed.set()

    async def run(self, node: TailnetNode, peers: Mapping[UUID, Node]) -> None:
        """Report until cancelled."""
        busy = False
        while True:
            with anyio.move_on_after(0 if busy and self._wanted else None):
                await self._changed.wait()
            await anyio.sleep(GATHER)
            self._changed = anyio.Event()
            if self._wanted:
                document = paths_document(node, peers)
                busy = any(peer["active"] for peer in document["peers"])
                self._wanted = await self._api.report_paths(document)
                await anyio.sleep(INTERVAL - GATHER)
