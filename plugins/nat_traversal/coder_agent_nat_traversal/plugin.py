"""Hooks of NAT traversal. Nothing heavy is imported before it is used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from coder_agent.hooks import CommandSpec, SettingsSpec, hookimpl

if TYPE_CHECKING:
    from coder_agent.hooks import CandidateSource, Settings
    from coder_agent.hooks.diagnostics import Diagnostic, DiagnosticsContext
    from coder_agent.hooks.health import HealthCheck, HealthContext

__coder_api__ = 1
NAME = "nat_traversal"


@hookimpl
def coder_settings() -> Sequence[SettingsSpec]:
    """The section ``[plugins.nat_traversal]``."""
    return [SettingsSpec(NAME, "coder_agent_nat_traversal.settings:NatSettings")]


@hookimpl
def coder_commands() -> Sequence[CommandSpec]:
    """`coder netcheck`."""
    target = "coder_agent_nat_traversal.netcheck.command:netcheck"
    return [CommandSpec("netcheck", "Check this network: UDP, NAT, relays and how far away they are.", target)]


@hookimpl
def coder_candidate_sources(settings: Settings) -> Sequence[CandidateSource]:
    """Interface addresses, STUN, configured endpoints: those that are switched on."""
    from .settings import NatSettings
    from .sources import build_sources

    return build_sources(
        settings.section(NAME, NatSettings), settings.network.dial_options(), settings.network.listen_port
    )


@hookimpl
def coder_health_checks(context: HealthContext) -> Sequence[HealthCheck]:
    """The section `derp`."""
    from .health import DerpCheck

    return [DerpCheck(context)]


@hookimpl
def coder_diagnostics(context: DiagnosticsContext) -> Sequence[Diagnostic]:
    """What `coder netcheck` says, for a support bundle."""
    from .netcheck.diagnostic import netcheck_diagnostic

    return [netcheck_diagnostic(context)]
