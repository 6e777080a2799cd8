"""Which checks a deployment has: its own, and those of plugins."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from coder_agent.base.derp_map import DerpMap
from coder_agent.base.keys import NodePublic
from coder_agent.errors import ConfigError
from coder_agent.hooks.health import HealthCheck
from coder_agent.hooks.manager import PluginHost

from ..options import parse_access_url
from ..plugin_view import PluginView
from .checks import AccessUrlCheck, DatabaseCheck, MapSources, WebsocketCheck, WrongAccessUrl
from .report import SECTIONS

if TYPE_CHECKING:
    from ..deployment import Deployment

logger = logging.getLogger("coder_agent.server")

RESERVED = frozenset({*SECTIONS.values(), "time", "healthy", "severity", "coder_version"})


class HealthView(PluginView):
    """The deployment as `HealthContext`."""

    @property
    def force_websockets(self) -> bool:
        """Are relays to be used by WebSocket only?"""
        return self._server.options.relay.force_websockets

    @property
    def direct_allowed(self) -> bool:
        """May anybody have direct connections?"""
        return not self._server.options.block_direct

    def derp_map(self) -> DerpMap:
        """The map in force."""
        return self._server.derp_map.current

    def vouch(self, key: NodePublic) -> AbstractContextManager[None]:
        """Relays are told that we know `key`."""
        return self._server.health.vouch(key)


def furnish(server: Deployment, host: PluginHost, failures: Mapping[str, str]) -> None:
    """Give the deployment's monitor all of them. A plugin's check that is called like one of ours is left out, with a
    line in the log."""
    dial = server.settings.network.dial_options()
    found = {check.name: check for check in host.health_checks(HealthView(server))}
    own: list[HealthCheck] = [
        MapSources(found.pop("derp", None), failures),
        _access_url(server),
        WebsocketCheck(server.access_url, server.health.probe, dial),
    ]
    for name in sorted(RESERVED & found.keys()):
        logger.warning("coder_health_checks: the section %s is the server's own; a plugin's was left out", name)
    server.health.alone = [DatabaseCheck(server.database, server.options.health_database)]
    server.health.checks = [*own, *(check for name, check in sorted(found.items()) if name not in RESERVED)]


def _access_url(server: Deployment) -> HealthCheck:
    try:
        parse_access_url(server.access_url)
    except ConfigError as error:
        return WrongAccessUrl(server.access_url, error.message)
    configured = server.options.access_url is not None
    return AccessUrlCheck(server.access_url, configured, server.settings.network.dial_options())
