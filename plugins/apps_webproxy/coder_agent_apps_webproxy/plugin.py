"""Hooks of the web-app proxy. Nothing heavy is imported before it is used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from coder_agent.hooks import SettingsSpec, hookimpl

if TYPE_CHECKING:
    from coder_agent.hooks import ServerContext

__coder_api__ = 1
NAME = "apps_webproxy"


@hookimpl
def coder_settings() -> Sequence[SettingsSpec]:
    """The section ``[plugins.apps_webproxy]``."""
    return [SettingsSpec(NAME, "coder_agent_apps_webproxy.settings:WebproxySettings")]


@hookimpl
def coder_server_routes(context: ServerContext) -> Sequence[object]:
    """The route that answers for apps."""
    from .proxy import AppRoute
    from .settings import WebproxySettings

    settings = context.settings.section(NAME, WebproxySettings)
    return [AppRoute(context, settings, context.app_proxies())] if settings.enabled else []
