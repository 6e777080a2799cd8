"""From plugins and settings to a node: what every composition root does first."""

from __future__ import annotations

from .errors import ConfigError
from .hooks.host import PluginHost
from .hooks.interfaces import DialOptions
from .hooks.settings import Settings
from .node import NodeConfig


def node_config(host: PluginHost, settings: Settings, dial: DialOptions) -> NodeConfig:
    """A node made of what the plugins offer; addresses and identity are for the caller to fill in.

    Raises ConfigError if two plugins offer a transport of the same kind and the configuration does not choose.
    """
    network = settings.network
    direct = not settings.client.disable_direct_connections
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
        listen_port=network.listen_port,
        force_websockets=network.force_websockets,
        dial=dial,
        vector=None if network.vector else False,
    )
