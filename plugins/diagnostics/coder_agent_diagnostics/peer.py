"""What both ends know about each other, one checked fact per line (Coder's peer diagnostics)."""

from __future__ import annotations

from coder_agent.client import Workspace

STALE_HANDSHAKE = 300.0
"""Seconds: an older WireGuard handshake means that nothing has worked lately (keys live for 180 s)."""


def peer_lines(workspace: Workspace) -> list[str]:
    """Home relay, our node, the workspace's node, its endpoints, the tunnel: ✔ where it is well, ✘ where it is not."""
    node = workspace.node
    home = node.home
    lines = [
        f"✔ your home relay is {home} ({workspace.region_name(home)})" if home else "✘ you have no home relay yet",
        "✔ your node was sent to the server"
        if home
        else "✘ your node was not sent to the server: it needs a home relay",
    ]
    peer = next((peer for peer in node.peers if peer.key == workspace.key), None)
    if peer is None:
        return [*lines, "✘ the workspace's node has not arrived from the server"]
    region = workspace.region_name(peer.preferred_derp)
    lines.append(f"✔ the workspace's node arrived; its home relay is {peer.preferred_derp} ({region})")
    lines += [f"    endpoint {endpoint}" for endpoint in peer.endpoints] or ["    it publishes no endpoints"]
    age = node.last_handshake(workspace.key)
    if age is None:
        lines.append("✘ no WireGuard handshake yet")
    elif age > STALE_HANDSHAKE:
        lines.append(f"⚠ the last WireGuard handshake was {age:.0f} s ago")
    else:
        lines.append(f"✔ WireGuard handshake {age:.0f} s ago")
    return lines
