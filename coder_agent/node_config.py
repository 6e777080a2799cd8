"""What a node is made of: settings for it, and the cores and transports that come of them."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address

from .base.egress import Purpose
from .base.keys import DiscoPrivate, NodePrivate
from .base.path_rules import NO_RULES, DirectRule, PathRules
from .base.paths import PathPolicy
from .errors import ConfigError, TransportError
from .hooks.egress import Egress
from .hooks.events import EventSink
from .hooks.interfaces import (
    CandidateSource,
    DialOptions,
    DirectTransport,
    RelayTransport,
    TransportContext,
    TransportFactory,
)
from .hooks.server_tailnet import LocalRelay
from .magicsock.constants import TUNNEL_MTU_MAX
from .magicsock.core import Magicsock
from .magicsock.peer_map import Reach
from .protocols.netstack.config import StackConfig
from .protocols.netstack.stack import Stack
from .protocols.wireguard.device import Device
from .runtime.engine import Cores, Engine

ACK_DELAY = 0.025
"""Seconds that an acknowledgement may wait for data: a program on this machine that answers at once has answered by
then, even a busy one, and all senders are used to more (Linux: 40 ms)."""

Keys = tuple[NodePrivate, DiscoPrivate]


@dataclass(slots=True)
class NodeConfig:
    """What a node is made of. `direct=False`: no UDP at all, everything is relayed. `rules` hold for all peers until
    `TailnetNode.set_rules`."""

    addresses: Sequence[IPv6Address]
    transports: Sequence[TransportFactory]
    sources: Sequence[CandidateSource] = ()
    id: int = 0
    node_key: NodePrivate | None = None
    disco_key: DiscoPrivate | None = None
    policy: PathPolicy | None = None
    emit: EventSink = lambda event: None
    direct: bool = True
    rules: PathRules = NO_RULES
    listen_port: int = 0
    birthday: bool = True
    large_packets: bool = True
    force_websockets: bool = False
    dial: DialOptions = field(default_factory=DialOptions)
    stack: StackConfig = field(default_factory=lambda: StackConfig(ack_delay=ACK_DELAY))
    vector: bool | None = None
    local_relay: LocalRelay | None = None


def keys_of(config: NodeConfig) -> Keys:
    """Fresh ones unless given."""
    return config.node_key or NodePrivate.generate(os.urandom), config.disco_key or DiscoPrivate.generate(os.urandom)


def cores_of(config: NodeConfig, keys: Keys, magicsock: Magicsock | None = None) -> Cores:
    """WireGuard, the TCP/IP stack and the path core; `magicsock`: another one than the usual."""
    stack = replace(config.stack, accepted_mtu=TUNNEL_MTU_MAX) if config.large_packets else config.stack
    return Cores(
        device=Device(keys[0], rng=os.urandom, wall=time.time, vector=config.vector, mtu=config.stack.mtu),
        stack=Stack(stack, rng=os.urandom, vector=config.vector),
        magicsock=magicsock
        or Magicsock(
            keys[0].public(),
            keys[1],
            rng=os.urandom,
            policy=config.policy,
            rules=_rules_of(config),
            birthday=config.birthday,
            accepted_mtu=stack.accepted_mtu,
            reach=_reach_of(config.dial.egress),
        ),
    )


async def open_transports(
    config: NodeConfig, exits: AsyncExitStack, engine: Engine, key: NodePrivate, emit: EventSink
) -> None:
    """Give `engine` the transports of `config`, until `exits` closes. Raises ConfigError if there is none."""
    context = TransportContext(
        sink=engine,
        node_key=key,
        emit=emit,
        listen_port=config.listen_port,
        force_websockets=config.force_websockets,
        dial=config.dial,
        local_relay=config.local_relay,
    )
    for factory in config.transports:
        if factory.kind == "direct" and not config.direct:
            continue
        transport = await exits.enter_async_context(factory.open(context))
        if factory.kind == "direct":
            engine.direct = _as_direct(transport)
        else:
            engine.relay = _as_relay(transport)
    if engine.direct is None and engine.relay is None:
        raise ConfigError(
            "no transport plugin is installed or enabled",
            hint="install coder-agent-transport-udp or coder-agent-transport-derp, see `coder plugins list`",
        )


def _rules_of(config: NodeConfig) -> PathRules:
    if config.direct:
        return config.rules
    return replace(config.rules, direct=DirectRule.NEVER, set_by=config.rules.set_by or "--disable-direct-connections")


def _reach_of(egress: Egress) -> Reach:
    """Addresses that peers publish, call with or ping from are theirs to choose, and ours to refuse."""
    if egress.policy is None:
        return lambda addr, peer: True
    return lambda addr, peer: egress.allows(addr.host, addr.port, Purpose.PEER, who=f"peer {peer.short}")


def _as_direct(transport: object) -> DirectTransport:
    if not hasattr(transport, "bound_ports"):
        raise TransportError(f"{transport!r} calls itself a direct transport but has no bound_ports()")
    return transport  # type: ignore[return-value]  # structural check just above


def _as_relay(transport: object) -> RelayTransport:
    if not hasattr(transport, "set_map"):
        raise TransportError(f"{transport!r} calls itself a relay transport but has no set_map()")
    return transport  # type: ignore[return-value]  # structural check just above
