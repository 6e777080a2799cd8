"""One test per hook: what a plugin returns is what the program gets. The last test sees to it that none is missing."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from typing import Literal, cast

import anyio.abc
import pytest
from anyio.abc import ByteStream, TaskGroup

from coder_agent.base.addresses import AddrPort
from coder_agent.base.derp_map import DerpMap
from coder_agent.base.keys import NodePublic
from coder_agent.base.paths import PathPolicy, PathQuality
from coder_agent.errors import PluginContractError
from coder_agent.hooks import (
    AgentService,
    Authenticator,
    CandidateContext,
    CandidateSource,
    CommandSpec,
    ControlChanged,
    DerpMapSource,
    EgressPolicy,
    Event,
    Identity,
    PeerChanged,
    Purpose,
    RelayBackend,
    ServerContext,
    Settings,
    SettingsSpec,
    Transport,
    TransportContext,
    TransportFactory,
    Verdict,
    hookimpl,
)
from coder_agent.hooks.commands import CommandRequest, CommandRunner, RunningCommand
from coder_agent.hooks.contract import HOOKS
from coder_agent.hooks.diagnostics import Diagnostic, DiagnosticsContext
from coder_agent.hooks.health import HealthCheck, HealthContext, HealthFinding
from coder_agent.hooks.host import PluginHost
from coder_agent.hooks.manager import build_plugin_manager
from coder_agent.hooks.settings import load_settings
from coder_agent.hooks.web_apps import AppProxy, AppTarget, Dial

SETTINGS = Settings()


def host_of(plugin: object) -> PluginHost:
    host = build_plugin_manager(discover=False, extra=[("under_test", plugin)])
    assert host.broken == []
    return host


def test_hook_coder_settings() -> None:
    class Plugin:
        @hookimpl
        def coder_settings(self) -> Sequence[SettingsSpec]:
            return [SettingsSpec("under_test", "coder_agent.hooks.core_settings:NetworkSettings")]

    host = host_of(Plugin())
    assert [spec.plugin for spec in host.settings_specs()] == ["under_test"]
    settings = load_settings(host, environ={"CODER_PLUGIN_UNDER_TEST__LISTEN_PORT": "7"})
    from coder_agent.hooks.core_settings import NetworkSettings

    assert settings.section("under_test", NetworkSettings).listen_port == 7


def test_hook_coder_commands() -> None:
    class Plugin:
        @hookimpl
        def coder_commands(self) -> Sequence[CommandSpec]:
            return [CommandSpec("b", "", "m:b"), CommandSpec("a", "", "m:a"), CommandSpec("a", "", "m:x", group="g")]

    assert [(spec.group, spec.name) for spec in host_of(Plugin()).commands()] == [("", "a"), ("", "b"), ("g", "a")]


def test_hook_coder_transports() -> None:
    class Factory:
        name = "pigeons"
        kind: Literal["direct", "relay"] = "direct"

        def open(self, context: TransportContext) -> AbstractAsyncContextManager[Transport]:
            raise NotImplementedError

    class Plugin:
        @hookimpl
        def coder_transports(self, settings: Settings) -> Sequence[TransportFactory]:
            assert settings is SETTINGS
            return [Factory()]

    assert [(found.name, found.kind) for found in host_of(Plugin()).transports(SETTINGS)] == [("pigeons", "direct")]


def test_hook_coder_candidate_sources() -> None:
    class Source:
        name = "static"

        async def run(self, context: CandidateContext) -> None:
            await context.wait_refresh()

    class Plugin:
        @hookimpl
        def coder_candidate_sources(self, settings: Settings) -> Sequence[CandidateSource]:
            return [Source()]

    assert [source.name for source in host_of(Plugin()).candidate_sources(SETTINGS)] == ["static"]


def test_hook_coder_path_policy() -> None:
    class Newest:
        def better(self, a: PathQuality, b: PathQuality | None) -> bool:
            return True

    class Plugin:
        @hookimpl
        def coder_path_policy(self, settings: Settings) -> PathPolicy:
            return Newest()

    policy = host_of(Plugin()).path_policy(SETTINGS)
    assert policy is not None
    assert policy.better(PathQuality(AddrPort("192.0.2.1", 1), 0.1), None)
    assert host_of(object()).path_policy(SETTINGS) is None


def test_hook_coder_egress_policy() -> None:
    class Nobody:
        name = "nobody"

        def judge(self, host: str, address: str | None, port: int, purpose: Purpose) -> Verdict:
            return Verdict(False, "nobody is to be talked to")

        def trust(self, host: str, reason: str) -> None:
            raise NotImplementedError

    class Plugin:
        @hookimpl
        def coder_egress_policy(self, settings: Settings) -> EgressPolicy:
            return Nobody()

    class Broken:
        @hookimpl
        def coder_egress_policy(self, settings: Settings) -> EgressPolicy:
            raise ValueError("no rules found")

    assert host_of(object()).egress_policy(SETTINGS) is None
    settings = load_settings(host_of(Plugin()))
    assert not settings.network.dial_options().egress.allows("example.com", 443, Purpose.CONNECT)
    assert settings.network.dial_options().egress is settings.egress
    with pytest.raises(PluginContractError, match="no rules found"):  # a wall that broke is no door
        load_settings(host_of(Broken())).network.dial_options()


def test_hook_coder_derp_map_sources() -> None:
    class Source:
        name = "rack"
        refresh = 0.0

        async def fetch(self) -> DerpMap:
            return DerpMap()

    class Plugin:
        @hookimpl
        def coder_derp_map_sources(self, settings: Settings) -> Sequence[DerpMapSource]:
            return [Source()]

    assert [source.name for source in host_of(Plugin()).derp_map_sources(SETTINGS)] == ["rack"]


def test_hook_coder_relay_backends() -> None:
    class Relay:
        name = "relay"

    class Plugin:
        @hookimpl
        def coder_relay_backends(self, settings: Settings) -> Sequence[RelayBackend]:
            return [Relay()]  # type: ignore[list-item]

    assert [relay.name for relay in host_of(Plugin()).relay_backends(SETTINGS)] == ["relay"]


def test_hook_coder_agent_services() -> None:
    class Echo:
        name = "echo"
        port = 7

        async def serve(self, stream: anyio.abc.ByteStream) -> None:
            await stream.aclose()

    class Plugin:
        @hookimpl
        def coder_agent_services(self, settings: Settings) -> Sequence[AgentService]:
            return [Echo()]

    assert [(service.name, service.port) for service in host_of(Plugin()).agent_services(SETTINGS)] == [("echo", 7)]


def test_hook_coder_server_routes() -> None:
    class Context:
        settings = SETTINGS
        access_url = "https://coder.example.com"

    class Plugin:
        @hookimpl
        def coder_server_routes(self, context: ServerContext) -> Sequence[object]:
            return [f"{context.access_url}/b", f"{context.access_url}/a"]

    found = host_of(Plugin()).server_routes(cast(ServerContext, Context()))
    assert found == ["https://coder.example.com/b", "https://coder.example.com/a"], "routes keep their order"


def test_hook_coder_app_proxies() -> None:
    class Sockets:
        name = "sockets"
        schemes: Collection[str] = ("unix",)

        async def connect(self, target: AppTarget, dial: Dial) -> anyio.abc.ByteStream:
            return await dial(target.agent_id, target.port)

    class Plugin:
        @hookimpl
        def coder_app_proxies(self, settings: Settings) -> Sequence[AppProxy]:
            return [Sockets()]

    assert [(found.name, found.schemes) for found in host_of(Plugin()).app_proxies(SETTINGS)] == [
        ("sockets", ("unix",))
    ]


def test_hook_coder_health_checks() -> None:
    class Tank:
        name = "tank"

        async def run(self) -> HealthFinding:
            return HealthFinding()

    class Context:
        settings = SETTINGS
        access_url = "http://127.0.0.1:3000"
        force_websockets = False
        direct_allowed = True

        def derp_map(self) -> DerpMap:
            return DerpMap()

        def vouch(self, key: NodePublic) -> AbstractContextManager[None]:
            return nullcontext()

    asked: list[HealthContext] = []

    class Plugin:
        @hookimpl
        def coder_health_checks(self, context: HealthContext) -> Sequence[HealthCheck]:
            asked.append(context)
            return [Tank()]

    context = Context()
    assert [check.name for check in host_of(Plugin()).health_checks(context)] == ["tank"]
    assert asked == [context]


def test_hook_coder_authenticators() -> None:
    class Directory:
        name = "directory"

        async def authenticate(self, login: str, secret: str) -> Identity | None:
            return Identity(login, login) if secret == "open sesame" else None

    class Plugin:
        @hookimpl
        def coder_authenticators(self, settings: Settings) -> Sequence[Authenticator]:
            return [Directory()]

    (found,) = host_of(Plugin()).authenticators(SETTINGS)
    assert anyio.run(found.authenticate, "ali", "open sesame") == Identity("ali", "ali")
    assert anyio.run(found.authenticate, "ali", "please") is None


def test_hook_coder_coordinator_store() -> None:
    store = object()

    class Plugin:
        @hookimpl
        def coder_coordinator_store(self, settings: Settings) -> object:
            return store

    assert host_of(Plugin()).coordinator_store(SETTINGS) is store
    assert host_of(object()).coordinator_store(SETTINGS) is None


def test_hook_coder_event() -> None:
    heard: list[Event] = []

    class Plugin:
        @hookimpl
        def coder_event(self, event: Event) -> None:
            heard.append(event)

    events: list[Event] = [ControlChanged(True), PeerChanged(NodePublic(bytes(32)), "added")]
    host = host_of(Plugin())
    for event in events:
        host.emit(event)
    assert heard == events


def test_hook_coder_diagnostics() -> None:
    async def collect() -> object:
        return "text"

    class Context:
        settings = SETTINGS
        access_url = "http://127.0.0.1:3000"

        async def get(self, path: str) -> object:
            raise NotImplementedError

    class Plugin:
        @hookimpl
        def coder_diagnostics(self, context: DiagnosticsContext) -> Sequence[Diagnostic]:
            return [Diagnostic(f"plants/{context.access_url[-4:]}.txt", "what grows there", collect)]

    found = host_of(Plugin()).diagnostics(Context())
    assert [(one.name, one.collect) for one in found] == [("plants/3000.txt", collect)]


def test_hook_coder_command_runner() -> None:
    class Runner:
        name = "telegraph"
        port = 1

        async def start(self, stream: ByteStream, request: CommandRequest, tasks: TaskGroup) -> RunningCommand:
            raise NotImplementedError

    runner = Runner()

    class Plugin:
        @hookimpl
        def coder_command_runner(self, settings: Settings) -> CommandRunner:
            return runner

    assert host_of(Plugin()).command_runner(SETTINGS) is runner
    assert host_of(object()).command_runner(SETTINGS) is None


def test_every_hook_has_a_test_and_a_typed_way_to_ask() -> None:
    tested = {name.removeprefix("test_hook_") for name in globals() if name.startswith("test_hook_")}
    assert tested == set(HOOKS)
    asked = inspect.getsource(PluginHost)
    assert [name for name in HOOKS if f'"{name}"' not in asked] == []
