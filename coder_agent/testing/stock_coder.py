"""A stock Coder server on loopback, for tests of ours against it: the program of scripts/stock_coder, and what it asks
of a template.

with StockServer(program, folder) as server:
    server.sign_in()
    dev = server.create_workspace("dev", [StockAgent("main", apps=(StockApp("web", "http://localhost:8080"),))])
    environment = {"CODER_AGENT_URL": server.url, "CODER_AGENT_TOKEN": dev.agents["main"].token}

It keeps everything in memory (unless ``--in-memory=false --postgres-url=…``) and speaks to nobody outside: no
telemetry, no search for updates, no STUN server of others, no relay map from elsewhere. Its provisioner is `echo`,
which reads from a template's files what Terraform would have made; so workspaces cost a second, and their agents have
the tokens that a test gives them.

Source of the file names: coder provisioner/echo/serve.go; of the field numbers: provisionersdk/proto/provisioner.proto.
"""

from __future__ import annotations

import io
import json
import socket
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from .deployment import PASSWORD
from .processes import PATIENCE, Program, run_program

ATTEMPTS = 3
"""How often a server is started: the port that was free may be taken by the time it listens."""
_POLL = 0.05

Wire = int | str | bytes | bool
"""A field's value as protobuf has it."""


@dataclass(frozen=True, slots=True)
class StockApp:
    """An app of a template. `check`: what the agent shall ask every second."""

    slug: str
    url: str
    check: str = ""
    subdomain: bool = False


@dataclass(frozen=True, slots=True)
class StockScript:
    """A script of a template; `blocks`: users wait for it."""

    name: str
    script: str
    blocks: bool = False
    on_start: bool = True
    on_stop: bool = False


@dataclass(frozen=True, slots=True)
class StockAgent:
    """An agent of a template. `metadata`: key and script of each thing to tell every second."""

    name: str
    apps: Sequence[StockApp] = ()
    scripts: Sequence[StockScript] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    directory: str = ""
    token: str = field(default_factory=lambda: str(uuid4()))


@dataclass(frozen=True, slots=True)
class StockWorkspace:
    """A workspace and its agents, by name, with the ids that the server gave them."""

    id: str
    name: str
    agents: Mapping[str, StockAgent]
    agent_ids: Mapping[str, str]


# ---------------------------------------------------------------- templates


def _field(number: int, value: Wire) -> bytes:
    """One protobuf field; fields with their default are left out."""
    if isinstance(value, bool | int):
        return _varint(number << 3) + _varint(int(value)) if value else b""
    raw = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(raw)) + raw if raw else b""


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def _message(*fields: tuple[int, Wire]) -> bytes:
    return b"".join(_field(number, value) for number, value in fields)


def _app(app: StockApp) -> bytes:
    check = _message((1, app.check), (2, 1), (3, 2)) if app.check else b""
    return _message((1, app.slug), (2, app.slug), (4, app.url), (6, app.subdomain), (7, check))


def _script(script: StockScript) -> bytes:
    return _message((1, script.name), (3, script.script), (5, script.blocks), (6, script.on_start), (7, script.on_stop))


def _agent(agent: StockAgent) -> bytes:
    return _message(
        (1, str(uuid4())),
        (2, agent.name),
        *((3, _message((1, name), (2, value))) for name, value in agent.environment.items()),
        (5, "linux"),
        (6, "amd64"),
        (7, agent.directory),
        *((8, _app(app)) for app in agent.apps),
        (9, agent.token),
        *((18, _message((1, key), (2, key), (3, script), (4, 1), (5, 5))) for key, script in agent.metadata.items()),
        (20, _message((3, True), (4, True), (5, True))),  # display_apps: terminal, SSH, ports
        *((21, _script(script)) for script in agent.scripts),
    )


def template_archive(agents: Sequence[StockAgent]) -> bytes:
    """A tar that the echo provisioner takes for a template whose workspaces have one resource with these agents."""
    resource = _message((1, "machine"), (2, "null_resource"), *((3, _agent(agent)) for agent in agents))
    done = {  # Response: parse 2, plan 3, apply 4; resources are field 2 of a plan and 3 of what was applied
        "0.parse.protobuf": _varint(2 << 3 | 2) + b"\x00",
        "0.plan.protobuf": _field(3, _message((2, resource))),
        "0.apply.protobuf": _field(4, _message((3, resource))),
    }
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in done.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return archive.getvalue()


# ---------------------------------------------------------------- the server


class StockServer:
    """A running `coder server` of the stock program; ends with its block. `flags` are added to its command line."""

    def __init__(self, program: str, folder: Path, *flags: str) -> None:
        self._command = (program, "server", *flags)
        self._folder = folder
        self._exits = ExitStack()
        self._organization = ""
        self.program: Program
        self.url = ""
        self.token = ""
        """The session of its first user, `alice`."""

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        for attempt in range(ATTEMPTS):
            self.url = f"http://127.0.0.1:{free_port()}"
            self.program = self._exits.enter_context(self._start())
            try:
                self.program.wait_for(r"Logs will stream in below|address already in use")
                self.call("GET", "/buildinfo")
                return self
            except (AssertionError, OSError):
                self._exits.close()
                if attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exits.close()
        print(self.program.output[-20_000:])

    def start_again(self) -> None:
        """The same server, at the same address, when its program has ended; with PostgreSQL it knows what it knew."""
        self._exits.close()
        self.program = self._exits.enter_context(self._start())

    def _start(self) -> Any:
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(self._folder),
            "CODER_IN_MEMORY": "true",
            "CODER_HTTP_ADDRESS": self.url.removeprefix("http://"),
            "CODER_ACCESS_URL": self.url,
            "CODER_TELEMETRY_ENABLE": "false",
            "CODER_UPDATE_CHECK": "false",
            "CODER_DERP_SERVER_STUN_ADDRESSES": "disable",
            "CODER_OAUTH2_GITHUB_DEFAULT_PROVIDER_ENABLE": "false",
            "CODER_PROVISIONER_TYPES": "echo",
            "CODER_PROVISIONER_DAEMONS": "1",
            "CODER_CACHE_DIRECTORY": str(self._folder / "cache"),
            "CODER_CONFIG_DIR": str(self._folder / "config"),
            "CODER_DANGEROUS_DISABLE_RATE_LIMITS": "true",
            "CODER_AGENT_STATS_REFRESH_INTERVAL": "1s",  # half a minute and hours otherwise
            "CODER_METRICS_CACHE_REFRESH_INTERVAL": "1s",
        }
        return run_program(*self._command, env=environment, cwd=self._folder)

    # ------------------------------------------------------------ its API

    def call(self, method: str, path: str, body: object = None, content_type: str = "application/json") -> Any:
        """A request to the REST API; the answer's JSON. Raises AssertionError for a refusal."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": content_type, "Coder-Session-Token": self.token}
        request = urllib.request.Request(f"{self.url}/api/v2{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                said = answer.read()
        except urllib.error.HTTPError as refusal:
            raise AssertionError(f"{method} {path}: {refusal.status} {refusal.read()!r}") from None
        return json.loads(said) if said else None

    def sign_in(self) -> None:
        """Make the first user, `alice`, and keep her session in `token`."""
        words = {"email": "alice@example.com", "password": PASSWORD}
        user = {**words, "username": "alice", "name": "Alice", "trial": False}
        self._organization = self.call("POST", "/users/first", user)["organization_id"]
        session = self.call("POST", "/users/login", words)
        self.token = session["session_token"]

    def create_workspace(self, name: str, agents: Sequence[StockAgent]) -> StockWorkspace:
        """A template with these agents, and a workspace of it."""
        archive = self.call("POST", "/files", template_archive(agents), "application/x-tar")["hash"]
        organization = f"/organizations/{self._organization}"
        version = self.call(
            "POST",
            f"{organization}/templateversions",
            {"storage_method": "file", "file_id": archive, "provisioner": "echo", "tags": {}},
        )
        self._wait_job(f"/templateversions/{version['id']}", "job")
        template = self.call("POST", f"{organization}/templates", {"name": name, "template_version_id": version["id"]})
        made = self.call("POST", "/users/me/workspaces", {"name": name, "template_id": template["id"]})
        self._wait_job(f"/workspaces/{made['id']}", "latest_build", "job")
        return StockWorkspace(made["id"], name, {agent.name: agent for agent in agents}, self._agent_ids(made["id"]))

    def _agent_ids(self, workspace_id: str) -> dict[str, str]:
        resources = self.call("GET", f"/workspaces/{workspace_id}")["latest_build"]["resources"]
        return {agent["name"]: agent["id"] for resource in resources for agent in resource["agents"]}

    def _wait_job(self, path: str, *keys: str) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            job = self.call("GET", path)
            for key in keys:
                job = job[key]
            if job["status"] == "succeeded":
                return
            assert job["status"] in ("pending", "running"), job
            assert time.monotonic() < end, job
            time.sleep(_POLL)

    def agent(self, workspace: StockWorkspace, name: str) -> Any:
        """What the server says of an agent."""
        return self.call("GET", f"/workspaceagents/{workspace.agent_ids[name]}")


def free_port() -> int:
    """A TCP port of loopback that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
