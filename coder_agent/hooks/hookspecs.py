"""The extension points, all of them. docs/plugins.md shows each with an example.

A hook is called during composition, on no particular thread, and returns objects or descriptions (interfaces.py): it
does no I/O and starts nothing. Whatever lives longer is an async context manager or a coroutine method of what it
returned. Answers are gathered from every plugin and sorted by `.name`: order never carries meaning. Where only one
answer can be used (`firstresult`), plugins are asked in the order of their names and the first that does not answer
None wins; the core's own answer comes last.

`settings` is the effective configuration: ``settings.section("udp", UdpSettings)`` is a plugin's own part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .markers import hookspec

if TYPE_CHECKING:  # a plugin that only adds a command shall not pay for any of these
    from ..base.egress import EgressPolicy
    from ..base.paths import PathPolicy
    from .commands import CommandRunner
    from .diagnostics import Diagnostic, DiagnosticsContext
    from .events import Event
    from .health import HealthCheck, HealthContext
    from .interfaces import (
        AgentService,
        Authenticator,
        CandidateSource,
        CommandSpec,
        DerpMapSource,
        RelayBackend,
        ServerContext,
        SettingsSpec,
        TransportFactory,
    )
    from .settings import Settings
    from .web_apps import AppProxy


@hookspec
def coder_settings() -> Sequence[SettingsSpec]:
    """Declare the plugin's own section `[plugins.NAME]` of the configuration."""
    raise NotImplementedError


@hookspec
def coder_commands() -> Sequence[CommandSpec]:
    """Add commands to `coder` or `coder-agent`; what they run is imported when they run."""
    raise NotImplementedError


@hookspec
def coder_transports(settings: Settings) -> Sequence[TransportFactory]:
    """Offer ways to carry ciphertext: of kind `direct` (UDP) or `relay` (DERP)."""
    raise NotImplementedError


@hookspec
def coder_candidate_sources(settings: Settings) -> Sequence[CandidateSource]:
    """Find endpoints at which peers may reach this node (NAT traversal)."""
    raise NotImplementedError


@hookspec(firstresult=True)
def coder_path_policy(settings: Settings) -> PathPolicy | None:
    """Decide which of two direct paths is the better one."""
    raise NotImplementedError


@hookspec(firstresult=True)
def coder_egress_policy(settings: Settings) -> EgressPolicy | None:
    """Decide which names may be looked up and which addresses talked to. A failure here stops the program."""
    raise NotImplementedError


@hookspec
def coder_derp_map_sources(settings: Settings) -> Sequence[DerpMapSource]:
    """Tell a coder server about relays beside its own."""
    raise NotImplementedError


@hookspec
def coder_relay_backends(settings: Settings) -> Sequence[RelayBackend]:
    """Offer a relay that runs inside a coder server."""
    raise NotImplementedError


@hookspec
def coder_agent_services(settings: Settings) -> Sequence[AgentService]:
    """Serve TCP ports inside the tunnel, on the agent."""
    raise NotImplementedError


@hookspec(firstresult=True)
def coder_command_runner(settings: Settings) -> CommandRunner | None:
    """Run commands in workspaces, for programs (`Workspace.run`)."""
    raise NotImplementedError


@hookspec
def coder_server_routes(context: ServerContext) -> Sequence[object]:
    """Add HTTP routes to a coder server, whose own cannot be replaced: Starlette `BaseRoute`, or `ConnectionRoute`."""
    raise NotImplementedError


@hookspec
def coder_app_proxies(settings: Settings) -> Sequence[AppProxy]:
    """Reach web apps whose URL has a scheme that the server does not know."""
    raise NotImplementedError


@hookspec
def coder_health_checks(context: HealthContext) -> Sequence[HealthCheck]:
    """Add sections to a coder server's health report."""
    raise NotImplementedError


@hookspec
def coder_diagnostics(context: DiagnosticsContext) -> Sequence[Diagnostic]:
    """Add files to `coder support bundle`."""
    raise NotImplementedError


@hookspec
def coder_authenticators(settings: Settings) -> Sequence[Authenticator]:
    """Add ways to sign in beside the server's own accounts."""
    raise NotImplementedError


@hookspec(firstresult=True)
def coder_coordinator_store(settings: Settings) -> object | None:
    """Replace the in-memory coordinator: return a `coder_agent.coordination.interface.Coordinator`."""
    raise NotImplementedError


@hookspec
def coder_event(event: Event) -> None:
    """Observe paths, peers, relays and the control connection. Never per packet; must not block."""
    raise NotImplementedError
