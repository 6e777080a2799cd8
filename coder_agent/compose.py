"""From plugins and settings to what the composition roots need."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from .errors import ConfigError
from .hooks.host import PluginHost
from .hooks.interfaces import DialOptions
from .hooks.settings import Settings
from .node import NodeConfig


def dial_options(settings: Settings) -> DialOptions:
    """How outgoing connections are made, from ``[network]``."""
    network = settings.network
    return DialOptions(
        headers=network.header,
        ca_file=network.ca_file or None,
        insecure=network.insecure,
        proxy=network.proxy or None,
    )


def node_config(host: PluginHost, settings: Settings, *, direct: bool = True) -> NodeConfig:
    """A node made of what the plugins offer; addresses and identity are for the caller to fill in.

    Raises ConfigError if two plugins offer a transport of the same kind and the configuration does not choose.
    """
    network = settings.network
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
        dial=dial_options(settings),
        vector=None if network.vector else False,
    )


@dataclass(slots=True)
class Composed:
    """Plugins and settings of one program run."""

    host: PluginHost
    settings: Settings
    session: tuple[str, str] = field(default=("", ""), repr=False)
    """URL and token that `coder login` stored."""

    def credentials(self, *, url: str | None = None, token: str | None = None) -> tuple[str, str]:
        """URL and token: arguments, then configuration and environment, then the stored session. Raises ConfigError."""
        client = self.settings.client
        url = url or client.url or self.session[0]
        token = token or client.token.get_secret_value() or self.session[1]
        if not url or not token:
            raise ConfigError(
                "you are not logged in", hint="run `coder login URL`, or set CODER_URL and CODER_SESSION_TOKEN"
            )
        return url.rstrip("/"), token

    def node_config(self, *, direct: bool = True) -> NodeConfig:
        """See `node_config`; ``[client] disable_direct_connections`` applies."""
        direct = direct and not self.settings.client.disable_direct_connections
        return node_config(self.host, self.settings, direct=direct)


def compose(*, config_file: str | None = None, only: Sequence[str] | None = None) -> Composed:
    """Load plugins, configuration and stored session as the `coder` command does."""
    from .cli.context import open_cli  # the command's own rules for files and environment, not a second set

    cli = open_cli(config_file=config_file, only=only, environ=os.environ)
    return Composed(cli.host, cli.settings, cli.session())
