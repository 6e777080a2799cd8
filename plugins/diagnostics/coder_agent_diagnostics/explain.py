"""Says what carries the packets, and why not something better."""

from __future__ import annotations

from coder_agent.base.paths import PathKind
from coder_agent.cli.durations import format_latency
from coder_agent.client import Workspace
from coder_agent.node import PathStatus

STALE_HANDSHAKE = 300.0
"""Seconds: an older WireGuard handshake means that nothing has worked lately (keys live for 180 s)."""


def peer_lines(workspace: Workspace) -> list[str]:
    """What both ends know about each other, one checked fact per line."""
    node = workspace.node
    home = node.home
    lines = [
        f"✔ your home relay is {home} ({workspace.region_name(home)})" if home else "✘ you have no home relay yet",
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


def connection_lines(workspace: Workspace) -> list[str]:
    """Why the path is not direct, as far as this end can tell."""
    node = workspace.node
    if not node.config.direct:
        return ["❗ direct connections are disabled, here or by the deployment"]
    lines = []
    has_stun = any(n.stun_port >= 0 for region in node.derp_map.regions.values() for n in region.nodes)
    if not has_stun:
        lines.append("❗ the relay map has no STUN server: nodes behind NAT cannot learn their public address")
    if node.mapping_varies:
        lines.append("❗ your network gives each destination another port (symmetric NAT)")
    status = workspace.path()
    if not status.candidates:
        lines.append("❗ the workspace publishes no endpoint that could be tried (direct disabled there, or no UDP)")
    for candidate in status.candidates:
        if candidate.why_not:
            lines.append(
                f"  tried {candidate.addr}: {candidate.sent} pings sent, {candidate.answered} answered "
                f"({candidate.why_not})"
            )
    return lines


def verdict(workspace: Workspace, status: PathStatus) -> str:
    """One sentence: direct, or relayed and through what."""
    if status.kind is PathKind.DIRECT and status.addr is not None:
        private = " over a private network" if status.addr.ip.is_private else ""
        latency = f" ({format_latency(status.latency)})" if status.latency is not None else ""
        return f"✔ you are connected directly (p2p){private} to {status.addr}{latency}"
    return f"❗ you are connected through the relay {workspace.region_name(status.region)}, not directly (p2p)"
