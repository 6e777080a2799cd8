"""The whole product on an internet of namespaces: a server, and for each cell an agent and a user behind their routers.

    with OutsideDeployment(folder, host, tls) as outside:
        outside.start()
        with internet.visitors() as guests, outside.cell(guests.home("agent", EASY), guests.home("user", EASY)) as cell:
            print(cell.wait_direct(10))

The server has HTTP on port 80 and HTTPS on 443, its own STUN responder at its first address, and a second one at its
second and at its IPv6 address: so two IPv4 servers tell whether a mapping varies.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .deployment import Deployment, Machine, Registered, until
from .netns import Host
from .netns_places import Home
from .processes import PATIENCE, Program

STUN_PORT = 3478


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files: who is trusted, and what the server shows."""

    authority: Path
    certificate: Path
    key: Path

    @classmethod
    def issue(cls, folder: Path, address: str) -> Tls:
        """A new authority and a certificate for an address."""
        import trustme  # of the development tools, not of the product

        authority = trustme.CA()
        issued = authority.issue_cert(address)
        tls = cls(folder / "authority.pem", folder / "certificate.pem", folder / "key.pem")
        authority.cert_pem.write_to_path(tls.authority)
        issued.cert_chain_pems[0].write_to_path(tls.certificate)
        issued.private_key_pem.write_to_path(tls.key)
        return tls


@dataclass(frozen=True, slots=True)
class Found:
    """Which way a user's packets go. `addr` is ``ip:port``, "" when relayed; `after`: seconds since the user began."""

    kind: str
    addr: str
    after: float

    @property
    def host(self) -> str:
        """The address without its port."""
        return self.addr.rpartition(":")[0].strip("[]")


class OutsideDeployment:
    """A server on the internet, with its first user signed in. `host` has two IPv4 addresses."""

    def __init__(self, folder: Path, host: Host, tls: Tls) -> None:
        self.host = host
        self.tls = tls
        self.place = Deployment(folder, host.address4, (host, host, host))
        self.place.port, self.place.stun_port = 80, STUN_PORT
        prefix, _, last = host.address4.rpartition(".")
        self.second = f"{prefix}.{int(last) + 1}"
        self.url = f"https://{host.address4}"
        self._others = [f"{self.second}:{STUN_PORT}", f"[{host.address6}]:{STUN_PORT}"]
        self._flags = [
            *("--tls-enable", "--tls-address", f"{host.address4}:443"),
            *("--tls-cert-file", str(tls.certificate), "--tls-key-file", str(tls.key)),
            *("--access-url", self.url, "--derp-server-stun-addresses", ",".join(self._others)),
        ]
        self._names = itertools.count(1)

    def __enter__(self) -> Self:
        self.place.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.place.__exit__(kind, error, trace)

    def start(self, *flags: str) -> None:
        """Start everything that all cells share."""
        stun = self.place.start(
            self.place.server, sys.executable, "-m", "coder_agent.testing.netns_stun", *self._others
        )
        self.place.start_server(*self._flags, *flags)
        self.place.sign_in()
        stun.wait_for("^answering$")

    @contextmanager
    def cell(
        self,
        agent: Home,
        user: Home,
        *,
        agent_flags: Sequence[str] = (),
        run_flags: Sequence[str] = (),
        user_flags: Sequence[str] = (),
    ) -> Iterator[Cell]:
        """An agent and a user; they end with the block. `run_flags` are those of ``coder-agent run``, `user_flags` of
        netns_seeker.py."""
        workspace = self.place.create(f"cell{next(self._names)}")
        cell = Cell(self, workspace, agent, user)
        try:
            cell.start_agent(*agent_flags, run_flags=run_flags)
            cell.start_user(*user_flags)
            yield cell
        finally:
            cell.stop()

    def machine(self, folder: str, home: Home) -> Machine:
        """A machine at `home`; the one called ``user`` is signed in."""
        return Machine(self.place.folder / folder, home.host)

    def environ(self) -> dict[str, str]:
        """What programs behind routers need to trust and find the server."""
        return {"SSL_CERT_FILE": str(self.tls.authority), "CODER_URL": self.url}


class Cell:
    """One agent and one user."""

    def __init__(self, deployment: OutsideDeployment, workspace: Registered, agent: Home, user: Home) -> None:
        self.deployment = deployment
        self.workspace = workspace
        self.agent_home, self.user_home = agent, user
        self.programs: list[Program] = []

    def start_agent(self, *flags: str, run_flags: Sequence[str] = ()) -> Program:
        """The workspace's side."""
        self.agent = self._start(
            self.deployment.machine(f"agent-{self.workspace.name}", self.agent_home),
            *("coder-agent", "-v", *flags, "run", *run_flags),
            CODER_AGENT_URL=self.deployment.url,
            CODER_AGENT_TOKEN=self.workspace.token,
        )
        return self.agent

    def start_user(self, *flags: str) -> Program:
        """The user's side: netns_seeker.py."""
        machine = self.deployment.machine("user", self.user_home)
        module = "coder_agent.testing.netns_seeker"
        self.user = self._start(machine, sys.executable, "-m", module, self.workspace.name, *flags)
        return self.user

    def coder(self, *arguments: str, timeout: float = PATIENCE) -> Any:
        """Run a command of the user's to its end and return what it printed as JSON."""
        machine = self.deployment.machine("user", self.user_home)
        return machine.coder(*arguments, timeout=timeout, env=self.deployment.environ()).json()

    def connected(self, timeout: float = PATIENCE) -> float:
        """Seconds that the user took to hear the agent, by whatever way. Raises AssertionError."""
        return float(self.user.event("connected", timeout)["after"])

    def wait_direct(self, timeout: float, *, since: float = 0) -> Found:
        """The first direct path that the user found (after the monotonic time `since`), or what it has `timeout`
        seconds after it connected."""
        self.connected()
        end = time.monotonic() + timeout
        while True:
            direct = [e for e in self.user.events("path") if e["kind"] == "direct" and e["at"] > since]
            if direct:
                return _found(direct[0])
            if time.monotonic() > end or self.user.process.poll() is not None:
                return self.now()
            time.sleep(0.05)

    def now(self) -> Found:
        """The way that packets go now."""
        until("the user knows its way", lambda: self.user.events("path"))
        return _found(self.user.events("path")[-1])

    def wait_pong(self, kind: str, since: float, timeout: float = PATIENCE) -> float:
        """When the first answer by this kind of path came after `since` (both monotonic)."""

        def look() -> float | None:
            times = [e["at"] for e in self.user.events("pong") if e["kind"] == kind and e["at"] > since]
            return float(times[0]) if times else None

        return until(f"an answer by a {kind} path", look, timeout)

    def wait_answers(self, count: int, timeout: float = PATIENCE) -> None:
        """Until the user has heard so many answers through the tunnel."""
        until(f"{count} answers", lambda: len(self.user.events("pong")) >= count, timeout)

    def evidence(self) -> dict[str, Any]:
        """End the user, who tells what it tried."""
        self.user.stop()
        found = self.user.events("evidence")
        assert found, self.transcript()
        return found[-1]

    def stop(self) -> None:
        """End both; what they said is printed for whoever wants to know why something failed."""
        for program in self.programs:
            program.stop()
        print(self.transcript())

    def transcript(self) -> str:
        """What both said."""
        quiet = [line for line in self.user.output.splitlines() if '"pong"' not in line]
        return f"---- agent\n{self.agent.output[-12_000:]}\n---- user\n" + "\n".join(quiet)[-8000:]

    def _start(self, machine: Machine, *command: str, **env: str) -> Program:
        program = self.deployment.place.start(machine, *command, env={**self.deployment.environ(), **env})
        self.programs.append(program)
        return program


def _found(event: dict[str, Any]) -> Found:
    return Found(event["kind"], event["addr"], event["after"])
