"""A deployment's own node: which transports, rules and relay it gets."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from coder_agent.base.path_rules import DirectRule, PathRules
from coder_agent.hooks.manager import PluginHost

from .local_relay import EmbeddedRelay
from .shared import SharedTailnet
from .standing import standing_of

if TYPE_CHECKING:
    from coder_agent.node import NodeConfig

    from ..deployment import Deployment


def shared_tailnet(server: Deployment, host: PluginHost) -> SharedTailnet:
    """The deployment's tailnet; whoever calls it runs it."""
    return SharedTailnet(
        configure=lambda: node_config(server, host),
        coordinator=server.coordinator,
        derp_map=server.derp_map,
        attendance=server.presence,
        lookup=standing_of(server.database, server.options),
        clock=server.clock,
    )


def node_config(server: Deployment, host: PluginHost) -> NodeConfig:
    """As ``[network]`` of the server's configuration says, below the deployment's path rules. The embedded relay is
    home unless another region is preferred: nothing is nearer. Raises ConfigError."""
    from coder_agent import compose

    own = compose.node_config(host, server.settings, server.settings.network.dial_options())
    rules = own.rules.under(server.options.rules)
    relay = server.options.relay
    local = EmbeddedRelay(server.relay, relay.region_id) if server.relay is not None else None
    if local is not None and not rules.prefer_region:
        rules = replace(rules, prefer_region=local.region)
    return replace(own, rules=rules, direct=_may_be_direct(rules) and own.direct, local_relay=local)


def _may_be_direct(rules: PathRules) -> bool:
    return rules.direct is not DirectRule.NEVER
