"""From plugins and settings to a node: what every composition root does first."""

from __future__ import annotations

from .base.path_rules import DirectRule, PathRules
from .errors import ConfigError
from .hooks.host import PluginHost
from .hooks.interfaces import DialOptions
from .hooks.settings import Settings
from .node import NodeConfig


def node_config(host: PluginHost, settings: Settings, dial: DialOptions) -> NodeConfig:
    """A node made of what the plugins offer; addresses and identity are for the caller to fill in.

    Raises ConfigError if two plugins offer a transport of the same kind and the configuration does not choose, or if
    wishes about paths exclude each other.
    """
    network = settings.network
    rules = path_rules(settings)
    direct = rules.direct is not DirectRule.NEVER
    transports = host.transports(settings)
    for kind in ("direct", "relay"):
        names = [factory.name for factory in transports if factory.kind == kind]
        if len(names) > 1:
            raise ConfigError(
                f"several plugins offer a {kind} transport: {', '.join(names)}",
                hint="disable all but one: [plugins] disable = [...]",
            )
    return NodeConfig(
        addresses=(),
        transports=transports,
        sources=host.candidate_sources(settings) if direct else (),
        policy=host.path_policy(settings),
        emit=host.emit,
        direct=direct,
        rules=rules,
        listen_port=network.listen_port,
        birthday=network.birthday,
        large_packets=network.large_packets,
        force_websockets=network.force_websockets,
        dial=dial,
        vector=None if network.vector else False,
    )


def path_rules(settings: Settings) -> PathRules:
    """What the user wishes about paths, for every connection. Raises ConfigError if that contradicts itself."""
    network, never = settings.network, settings.client.disable_direct_connections
    if never and network.direct_only:
        raise ConfigError(
            "direct connections are both disabled and required",
            hint="give --disable-direct-connections or --direct-only; `coder config show` says where each is set",
        )
    if never:
        direct, set_by = DirectRule.NEVER, "--disable-direct-connections"
    elif network.direct_only:
        direct, set_by = DirectRule.ONLY, "--direct-only"
    else:
        direct, set_by = DirectRule.AUTO, "" if network.ipv6 else "--no-ipv6"
    return PathRules(direct, network.prefer_region, network.ipv6, set_by)
