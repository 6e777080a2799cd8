"""The rooms of ARCHITECTURE.md and who may import whom, as data with reasons; checked on the syntax tree.

Imports under ``if TYPE_CHECKING:`` count too: a type that a room must not know is a type it must not name.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = "coder_agent"

IO_AND_CHANCE = frozenset(
    ["anyio", "asyncio", "socket", "ssl", "time", "random", "secrets", "os", "threading", "logging", "subprocess"]
)


@dataclass(frozen=True)
class Room:
    """`may` names other rooms (and modules of the core); `banned` names outside modules."""

    may: frozenset[str]
    why: str
    banned: frozenset[str] = frozenset()


def room(may: str, why: str, banned: frozenset[str] = frozenset()) -> Room:
    return Room(frozenset(may.split()), why, banned)


PURE = "a core takes bytes, `now` and `rng` and returns what to do: so it is tested without a network or a clock"
CORES = "errors base protocols magicsock coordination verdict"
ROOTS = (
    "node explain verdict_watch peers compose agent agent_api path_reports client api blocking rpc workspace_name"
    " directory"
)

ROOMS: dict[str, Room] = {
    "errors": room("", "the error tree is below everything"),
    "base": room("errors", "values: parse and format, nothing else", IO_AND_CHANCE),
    "protocols": room("errors base", PURE, IO_AND_CHANCE),
    "magicsock": room("errors base protocols", PURE, IO_AND_CHANCE),
    "coordination": room("errors base protocols", PURE, IO_AND_CHANCE),
    "verdict": room("errors base", PURE, IO_AND_CHANCE),
    "hooks": room("errors base", "plugins build on it: it must not drag the product behind it"),
    "runtime": room(f"{CORES} hooks __version__", "tasks and sockets: it drives cores and knows no program"),
    "rpc": room(f"{CORES} hooks runtime", "the public face of the control wire"),
    "http": room("hooks runtime", "the public face of HTTP"),
    "workspace_name": room("errors", "a value that the command line and the client share"),
    "directory": room(
        "errors runtime.http workspace_name", "what the server says of workspaces, for client and commands"
    ),
    "sessions": room("", "processes of the system, for plugins that start shells"),
    "tls_server": room("", "TLS on connections that come in, for servers and relays"),
    "stun_responder": room("errors base protocols", "a UDP port of its own, for servers and relays"),
    "node_config": room(f"{CORES} hooks runtime", "settings in, cores and transports out"),
    "node": room(f"{CORES} hooks runtime node_config verdict_watch __version__", "the public face of the runtime"),
    "explain": room("errors base magicsock verdict hooks node", "what the cores know of a path, as a verdict wants it"),
    "verdict_watch": room("base hooks node explain", "news of verdicts; it loads what makes them when there is a peer"),
    "peers": room("errors base coordination node", "what a coordinator says, told to a node"),
    "compose": room("base errors hooks node", "plugins and settings in, a node's configuration out"),
    "agent": room(f"{CORES} hooks runtime {ROOTS} activity vigil __version__", "a composition root"),
    "activity": room("base node runtime", "who uses a node how much, in a control link's words"),
    "agent_api": room("errors base hooks runtime.http", "our own requests beside Coder's protocol"),
    "path_reports": room(f"errors base verdict hooks {ROOTS}", "a node's paths, told to its server"),
    "mounting": room("errors runtime", "a program beside the agent: it needs a folder and a socket, and no node"),
    "asgi": room("errors hooks runtime", "the web's own interface over any stream"),
    "vigil": room("errors base node", "is a user's program still there? It asks the tunnel"),
    "watching": room("errors directory", "is a workspace still there? It asks whoever it is given"),
    "forwarding_udp": room("errors node", "the same for datagrams"),
    "forwarding": room("errors node forwarding_udp", "a local port and a node's pump between them"),
    "observing": room("hooks", "who hears events; it knows no node"),
    "remote_commands": room("errors hooks runtime.background", "commands over streams; plugins do the talking"),
    "client": room(
        f"{CORES} hooks runtime {ROOTS} forwarding forwarding_udp observing remote_commands watching __version__",
        "a composition root",
    ),
    "api": room(f"errors base hooks {ROOTS} cli.context", "one call: the user's configuration is the command line's"),
    "workspace_http": room(
        "errors protocols runtime.streams blocking_streams",
        "an HTTP client over streams: of a connection it knows nothing",
    ),
    "blocking": room(
        f"{CORES} hooks {ROOTS} blocking_streams forwarding forwarding_udp observing remote_commands",
        "the client again, for code without an event loop",
    ),
    "blocking_streams": room("errors hooks observing", "what it hands out"),
    "cli": room(
        f"errors base verdict hooks {ROOTS} runtime.http runtime.agent_link runtime.memory __version__",
        "it parses, calls a root or the server's API, and prints",
    ),
    "testing": room(
        f"{CORES} hooks runtime {ROOTS} __version__",
        "tools for plugin authors: they may use all but the command line",
    ),
}
"""What a room may import from the core: rooms, or single modules of a room."""

FOR_PLUGINS = (
    "errors base protocols verdict hooks node explain rpc http stun_responder tls_server client api workspace_name cli"
    " watching sessions __version__ hookimpl connect listen mounting asgi"
)
PLUGINS_WHY = "what plugins may import is what we keep stable; runtime is not, and plugins must be removable one by one"
PLUGINS_EXTRA = {
    "server": "coordination compose peers",  # the coordinator's only host, with a node of its own
    "diagnostics": "testing",  # `coder lab` runs the simulated network that ships with the core
}


@dataclass(frozen=True)
class Import:
    """One import: `names` are the absolute dotted names it may bind."""

    file: str
    line: int
    names: tuple[str, ...]


def imports_of(path: Path, module: str, is_package: bool) -> Iterator[Import]:
    """Every import in a file, relative ones resolved against `module`."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"), str(path))):
        where = path.name if not path.is_relative_to(ROOT) else str(path.relative_to(ROOT))
        if isinstance(node, ast.Import):
            yield Import(where, node.lineno, tuple(alias.name for alias in node.names))
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                keep = len(parts) - node.level + (1 if is_package else 0)
                base = ".".join([*parts[:keep], *([base] if base else [])])
            yield Import(where, node.lineno, tuple(f"{base}.{alias.name}" for alias in node.names))


def modules_under(package: Path) -> Iterator[tuple[Path, str, bool]]:
    """(file, dotted name, is it a package) of every module of a package."""
    for path in sorted(package.rglob("*.py")):
        if path.name.endswith("_pb2.py"):
            continue
        parts = path.relative_to(package.parent).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        yield path, ".".join(parts[:-1] if is_package else parts), is_package


def violations_of_core(module: str, found: Import) -> Iterator[str]:
    parts = module.split(".")
    if len(parts) < 2:
        return
    own = ROOMS.get(parts[1])
    if own is None:
        yield f"{found.file}:{found.line}: {parts[1]} is no room of ARCHITECTURE.md"
        return
    for name in found.names:
        target = name.split(".")
        if target[0] != CORE:
            if target[0] in own.banned:
                yield f"{found.file}:{found.line}: {parts[1]} may not import {target[0]}: {own.why}"
        elif len(target) > 1 and target[1] != parts[1] and not own.may & {target[1], ".".join(target[1:3])}:
            yield f"{found.file}:{found.line}: {parts[1]} may not import {CORE}.{'.'.join(target[1:])}: {own.why}"


def violations_of_plugin(plugin: str, package: str, found: Import) -> Iterator[str]:
    allowed = f"{FOR_PLUGINS} {PLUGINS_EXTRA.get(plugin, '')}".split()
    for name in found.names:
        target = name.split(".")
        if target[0] == CORE and (len(target) < 2 or target[1] not in allowed):
            yield f"{found.file}:{found.line}: a plugin may not import {name}: {PLUGINS_WHY}"
        elif target[0].startswith(f"{CORE}_") and target[0] != package:
            yield f"{found.file}:{found.line}: plugins may not import each other: {PLUGINS_WHY}"


def plugin_packages() -> list[Path]:
    return sorted(path for path in ROOT.glob(f"plugins/*/{CORE}_*") if path.is_dir())


def test_core_rooms_import_only_what_they_may() -> None:
    found = [
        problem
        for path, module, is_package in modules_under(ROOT / CORE)
        for statement in imports_of(path, module, is_package)
        for problem in violations_of_core(module, statement)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("package", plugin_packages(), ids=lambda path: path.parent.name)
def test_plugins_import_only_what_is_kept_stable(package: Path) -> None:
    found = [
        problem
        for path, module, is_package in modules_under(package)
        for statement in imports_of(path, module, is_package)
        for problem in violations_of_plugin(package.parent.name, package.name, statement)
    ]
    assert not found, "\n".join(found)


def test_every_room_is_in_the_table() -> None:
    """A new module at the top of the core is a decision, not an accident."""
    rooms = {path.stem for path in (ROOT / CORE).iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert rooms - {"__init__"} <= set(ROOMS)


@pytest.mark.parametrize(
    ("module", "code", "problem"),
    [
        ("coder_agent.protocols.derp.frames", "import asyncio", "may not import asyncio"),
        ("coder_agent.protocols.derp.frames", "from time import monotonic", "may not import time"),
        ("coder_agent.protocols.derp.frames", "from ...runtime import pump", "may not import coder_agent.runtime"),
        ("coder_agent.hooks.manager", "from ..protocols.effects import Effect", "may not import coder_agent.protocols"),
        ("coder_agent.base.keys", "from coder_agent.hooks import hookimpl", "may not import coder_agent.hooks"),
        ("coder_agent.cli.ping", "def f():\n    from ..runtime import dial", "may not import coder_agent.runtime"),
        ("coder_agent.gadgets.x", "import re", "no room"),
    ],
)
def test_the_walk_sees_a_forbidden_import(tmp_path: Path, module: str, code: str, problem: str) -> None:
    path = tmp_path / "module.py"
    path.write_text(code, "utf-8")
    found = [p for statement in imports_of(path, module, False) for p in violations_of_core(module, statement)]
    assert [problem in line for line in found] == [True]


@pytest.mark.parametrize(
    "code",
    ["from coder_agent.runtime.dial import dial", "import coder_agent", "from coder_agent_server import app"],
)
def test_the_walk_sees_a_plugin_reaching_too_far(tmp_path: Path, code: str) -> None:
    path = tmp_path / "module.py"
    path.write_text(code, "utf-8")
    found = [
        problem
        for statement in imports_of(path, "coder_agent_example.plugin", False)
        for problem in violations_of_plugin("example", "coder_agent_example", statement)
    ]
    assert len(found) == 1
