"""Hooks of the air gap. Nothing heavy is imported before it is used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from coder_agent.hooks import CommandSpec, SettingsSpec, hookimpl

if TYPE_CHECKING:
    from coder_agent.hooks import EgressPolicy, Settings

__coder_api__ = 1
NAME = "airgap"


@hookimpl
def coder_settings() -> Sequence[SettingsSpec]:
    """The section ``[plugins.airgap]``."""
    return [SettingsSpec(NAME, "coder_agent_airgap.settings:AirgapSettings")]


@hookimpl
def coder_commands() -> Sequence[CommandSpec]:
    """`coder airgap check`."""
    target = "coder_agent_airgap.command:check"
    return [CommandSpec("check", "Say what the air gap allows, and by which rule.", target, group="airgap")]


@hookimpl
def coder_egress_policy(settings: Settings) -> EgressPolicy | None:
    """The allow-list, if there is an air gap."""
    from urllib.parse import urlsplit

    from .policy import AirgapPolicy
    from .settings import AirgapSettings

    section = settings.section(NAME, AirgapSettings)
    if not section.enabled:
        return None
    policy = AirgapPolicy(section.entries(), private=section.private)
    for url in (section.access_url, settings.client.url, settings.agent.url):
        text = url if "://" in url or not url else f"https://{url}"
        if host := urlsplit(text).hostname:
            policy.trust(host, "the address of the coder server")
    return policy
