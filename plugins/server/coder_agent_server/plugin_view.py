"""What every plugin may see of a deployment, whatever it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coder_agent.hooks import Settings

if TYPE_CHECKING:
    from .deployment import Deployment


class PluginView:
    """The part that all contexts of hooks have."""

    def __init__(self, server: Deployment) -> None:
        self._server = server

    @property
    def settings(self) -> Settings:
        """The effective configuration."""
        return self._server.settings

    @property
    def access_url(self) -> str:
        """Where users reach us."""
        return self._server.access_url
