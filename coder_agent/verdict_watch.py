"""Tells observers why paths are what they are. `verdict` and `explain` (1 MB) are loaded for the first peer that is
active: a node that nobody talks to stays small."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from .base.keys import NodePublic
from .hooks.events import PathExplained

if TYPE_CHECKING:
    from .node import TailnetNode

WATCH_INTERVAL = 5.0
"""Seconds between looks at paths that did not change: a search ends without an event."""
WATCH_PAUSE = 0.25
"""Seconds between two looks at least, however often paths change."""


async def watch_verdicts(node: TailnetNode) -> None:
    """Tell observers (`PathExplained`) when the verdict about an active peer changes, until cancelled.

    Direct paths are judged once: there is nothing to find out about them while they stay.
    """
    told: dict[NodePublic, tuple[str, str]] = {}
    while True:
        with anyio.move_on_after(WATCH_INTERVAL):
            await node.wait_any_path()
        peers = [peer.key for peer in node.peers]
        for gone in told.keys() - set(peers):
            del told[gone]
        for key in peers:
            _tell(node, key, told)
        await anyio.sleep(WATCH_PAUSE)


def _tell(node: TailnetNode, key: NodePublic, told: dict[NodePublic, tuple[str, str]]) -> None:
    status = node.path(key)
    last = told.get(key)
    if not status.active or (last is not None and last[1] and last[1] == str(status.addr or "")):
        return
    from .explain import explain

    verdict = explain(node, key, "the peer")
    if last is None or last[0] != verdict.code:
        fixes = tuple(remedy.text for remedy in verdict.fixes)
        node.emit(PathExplained(key, verdict.code.value, verdict.summary, fixes))
    told[key] = (verdict.code.value, str(status.addr or "") if verdict.code.is_direct else "")
