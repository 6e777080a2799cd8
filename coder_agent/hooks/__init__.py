"""The only doorway for plugins: hook markers, interfaces, events, settings, manager. Read hookspecs.py first.

Must stay cheap to import: every plugin module starts with ``from coder_agent.hooks import hookimpl``, and `coder
--help` imports every plugin module. What costs something (settings, manager) is imported when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..base.egress import EgressPolicy, Purpose, Verdict
from .egress import Egress
from .events import (
    Audited,
    ControlChanged,
    Event,
    EventSink,
    OutsideRefused,
    PathChanged,
    PathExplained,
    PeerChanged,
    RelayChanged,
    WorkspaceConnection,
)
from .interfaces import (
    API_VERSION,
    AgentFacts,
    AgentService,
    Authenticator,
    Candidate,
    CandidateContext,
    CandidateKind,
    CandidateSource,
    CommandSpec,
    DerpMapSource,
    DialOptions,
    DirectTransport,
    Identity,
    LivingService,
    PacketSink,
    RelayBackend,
    RelayTransport,
    ServerContext,
    SettingsSpec,
    Transport,
    TransportContext,
    TransportFactory,
    WebSocketLike,
)
from .markers import hookimpl, hookspec

if TYPE_CHECKING:
    from .manager import PluginHost, PluginRecord, build_plugin_manager
    from .settings import Settings, load_settings

__all__ = [
    # what a plugin needs
    "API_VERSION",
    "CommandSpec",
    "Settings",
    "SettingsSpec",
    "hookimpl",
    # what it may implement or is handed
    "AgentFacts",
    "AgentService",
    "Authenticator",
    "Candidate",
    "CandidateContext",
    "CandidateKind",
    "CandidateSource",
    "DerpMapSource",
    "DialOptions",
    "DirectTransport",
    "Egress",
    "EgressPolicy",
    "Identity",
    "LivingService",
    "PacketSink",
    "Purpose",
    "RelayBackend",
    "RelayTransport",
    "ServerContext",
    "Transport",
    "TransportContext",
    "TransportFactory",
    "Verdict",
    "WebSocketLike",
    # what it may observe
    "Audited",
    "ControlChanged",
    "Event",
    "EventSink",
    "OutsideRefused",
    "PathChanged",
    "PathExplained",
    "PeerChanged",
    "RelayChanged",
    "WorkspaceConnection",
    # what a composition root needs
    "PluginHost",
    "PluginRecord",
    "build_plugin_manager",
    "hookspec",
    "load_settings",
]

_LAZY = {
    "PluginHost": "manager",
    "PluginRecord": "manager",
    "build_plugin_manager": "manager",
    "Settings": "settings",
    "load_settings": "settings",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_LAZY[name]}", __name__), name)
