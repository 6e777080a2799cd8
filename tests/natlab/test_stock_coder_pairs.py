"""A stock Coder CLI and a stock agent behind routers of every kind, with our server on the internet: to ours, and to
each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import pytest

from coder_agent.testing.deployment import Machine, until
from coder_agent.testing.netns_deployment import OutsideDeployment
from coder_agent.testing.netns_nat import EASY, FULL_CONE, SYMMETRIC, UDP_BLOCKED, NatKind
from coder_agent.testing.netns_places import WAN4, Home, Visitors
from coder_agent.testing.processes import Program
from coder_agent.testing.stock_program import StockMachine, find_stock_coder, start_stock_agent

STOCK = find_stock_coder() or ""
pytestmark = [
    pytest.mark.netns,
    pytest.mark.foreign,
    pytest.mark.skipif(not STOCK, reason="needs a stock Coder: run scripts/stock_coder"),
    pytest.mark.timeout(600),
]
WAYS = [("stock", "ours"), ("ours", "stock"), ("stock", "stock")]
"""Whose CLI and whose agent."""
PINGS = 12
"""Twice a second: more than one round of tries (5 s)."""
numbers = count(1)
RELAYED = "proxied via DERP(Coder Embedded Relay)"


@dataclass
class Street:
    """Two places: in the first are both agents, in the other both CLIs, signed in."""

    deployment: OutsideDeployment
    agent: Home
    user: Home
    names: dict[str, str] = field(default_factory=dict)
    """Workspaces, by whose agent they have."""
    programs: list[Program] = field(default_factory=list)

    def machine(self, whose: str, home: Home, what: str) -> Machine:
        folder = self.deployment.place.folder / f"{whose}-{what}-{home.host.name}"
        if whose == "stock":
            trusted, inside = self.deployment.tls.authority, f"{WAN4}.0/24"
            return StockMachine(folder, home.host, program=STOCK, trusted=trusted, inside=inside)
        return Machine(folder, home.host)

    def open(self) -> None:
        """Start the agents, sign in."""
        place, url, env = self.deployment.place, self.deployment.url, self.deployment.environ()
        made = place.user.coder("tokens", "create")
        assert made.code == 0, str(made)
        for whose in ("stock", "ours"):
            coder = STOCK if whose == "stock" else "coder"
            signed_in = self.machine(whose, self.user, "cli").run(
                coder, "login", url, "--token", made.out.strip(), env=env
            )
            assert signed_in.code == 0, str(signed_in)
            workspace = place.create(f"{whose}{next(numbers)}")
            self.names[whose] = workspace.name
            machine = self.machine(whose, self.agent, "agent")
            if isinstance(machine, StockMachine):
                program = start_stock_agent(place, machine, workspace.token, url)
            else:
                agent_env = {**env, "CODER_AGENT_URL": url, "CODER_AGENT_TOKEN": workspace.token}
                program = place.start(machine, "coder-agent", "-v", "run", env=agent_env)
            self.programs.append(program)
            place.wait_status(workspace, "connected")

    @contextmanager
    def pinging(self, cli: str, agent: str, times: int) -> Iterator[Program]:
        """`coder ping`, twice a second."""
        coder = STOCK if cli == "stock" else "coder"
        command = (coder, "ping", self.names[agent], "-n", str(times), "--wait", "500ms")
        env = self.deployment.environ()
        program = self.deployment.place.start(self.machine(cli, self.user, "cli"), *command, env=env)
        try:
            yield program
        finally:
            program.stop()

    def explains(self, agent: str, why: Sequence[str]) -> bool:
        """Does the stock CLI say so? Agents that have just come do not know their networks yet."""
        with self.pinging("stock", agent, 1) as ping:
            ping.wait()
        return all(reason in ping.output for reason in why)


@contextmanager
def street(deployment: OutsideDeployment, agent: Home, user: Home) -> Iterator[Street]:
    with ExitStack() as exits:
        made = Street(deployment, agent, user)
        exits.callback(lambda: [program.stop() for program in made.programs])
        made.open()
        yield made


@pytest.mark.parametrize(("there", "here"), [(EASY, EASY), (FULL_CONE, SYMMETRIC)], ids=lambda kind: kind.name)
def test_they_go_direct(deployment: OutsideDeployment, guests: Visitors, there: NatKind, here: NatKind) -> None:
    agent, user = guests.home("agent", there), guests.home("user", here)
    with street(deployment, agent, user) as both:
        for cli, whose in WAYS:
            with both.pinging(cli, whose, 1000) as ping:
                said = ping.wait_for(r"p2p via (\S+):\d+ in ")
                assert said[1] == agent.outside, f"{cli} CLI, {whose} agent"


@pytest.mark.parametrize(
    ("there", "here", "why"),
    [
        (SYMMETRIC, SYMMETRIC, ("Client is potentially behind a hard NAT", "Agent is potentially behind a hard NAT")),
        (EASY, UDP_BLOCKED, ("Client could not connect to STUN over UDP",)),
        (UDP_BLOCKED, EASY, ("Agent could not connect to STUN over UDP",)),
    ],
    ids=["hard NATs", "UDP blocked here", "UDP blocked there"],
)
def test_they_stay_relayed_and_say_why(
    deployment: OutsideDeployment, guests: Visitors, there: NatKind, here: NatKind, why: tuple[str, ...]
) -> None:
    agent, user = guests.home("agent", there), guests.home("user", here)
    with street(deployment, agent, user) as both, ExitStack() as pings:
        running = [pings.enter_context(both.pinging(cli, whose, PINGS)) for cli, whose in WAYS]
        for ping in running:
            assert ping.wait() == 0, ping.output
            assert ping.output.count(RELAYED) == PINGS, ping.output
        for whose in ("ours", "stock"):
            until(f"{whose} is explained", partial(both.explains, whose, why))
