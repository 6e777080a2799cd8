"""Who may ask the coordinator for what.

A tunnel is the right to exchange WireGuard packets, so this is where access to a workspace is decided; and an agent
that could announce another one's address would receive its traffic.

Source: coder/coder tailnet/tunnel.go.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from uuid import UUID

from ..base.addresses import CODER_PREFIX, TAILSCALE_PREFIX, overlay_address
from ..base.coordinate import PeerRequest
from ..base.node import Node
from ..errors import Forbidden

LEGACY_AGENT_ADDRESS = IPv6Address("fd7a:115c:a1e0:49d6:b259:b7ac:b1b2:48f4")
"""What every agent announced before addresses were made from ids."""


@dataclass(frozen=True, slots=True)
class ClientAuth:
    """A user's client that was let in for one agent: it may open a tunnel to that agent only."""

    agent: UUID

    def check(self, request: PeerRequest) -> None:
        """Raises Forbidden."""
        if request.add_tunnel is not None and request.add_tunnel != self.agent:
            raise Forbidden("this connection may open a tunnel to its own agent only")
        _check_client(request)


@dataclass(frozen=True, slots=True)
class UserAuth:
    """A user's client for several agents: `may_reach` decides for each. Its refusal says no more than any other."""

    may_reach: Callable[[UUID], bool]

    def check(self, request: PeerRequest) -> None:
        """Raises Forbidden."""
        if request.add_tunnel is not None and not self.may_reach(request.add_tunnel):
            raise Forbidden("workspace agent not found, or you may not reach it")
        _check_client(request)


@dataclass(frozen=True, slots=True)
class AgentAuth:
    """A workspace agent: it opens no tunnels and announces no addresses but its own."""

    agent: UUID

    def check(self, request: PeerRequest) -> None:
        """Raises Forbidden."""
        if request.add_tunnel is not None:
            raise Forbidden("agents cannot open tunnels")
        if request.update_self is None:
            return
        own = {overlay_address(prefix, self.agent) for prefix in (TAILSCALE_PREFIX, CODER_PREFIX)}
        own.add(LEGACY_AGENT_ADDRESS)
        for network in _hosts(request.update_self):
            if network.network_address not in own:
                raise Forbidden(f"the address {network.network_address} is not this agent's")


@dataclass(frozen=True, slots=True)
class SingleTailnetAuth:
    """A part of the server itself (its own node, a proxy): everything is allowed."""

    def check(self, request: PeerRequest) -> None:
        """Allows everything."""


def _check_client(request: PeerRequest) -> None:
    if request.ready_for_handshake:
        raise Forbidden("clients do not acknowledge handshakes")
    if request.update_self is not None:
        _hosts(request.update_self)


def _hosts(node: Node) -> tuple[IPv6Network, ...]:
    """All networks of a node; each must be a single address."""
    networks = node.addresses + node.allowed_ips
    for network in networks:
        if network.prefixlen != network.max_prefixlen:
            raise Forbidden(f"the address {network} is not a single host (/128)")
    return networks
