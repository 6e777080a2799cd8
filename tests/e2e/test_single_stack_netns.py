"""A user with IPv6 only and a workspace with IPv4 only: they meet by the relay of a server that has both."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from coder_agent.testing.deployment import PASSWORD, Deployment
from coder_agent.testing.netns import Host, Lab, unavailable

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(unavailable() is not None, reason=str(unavailable())),
    pytest.mark.skipif(shutil.which("nft") is None, reason="nft (nftables) is not installed"),
]
PORT = 8080


def without(host: Host, family: str) -> None:
    """Take all addresses of a family, ``-4`` or ``-6``, from every device but lo."""
    for device in host.run("ls", "/sys/class/net").split():
        if device != "lo":
            host.run("ip", family, "address", "flush", "dev", device)


def test_one_with_ipv6_only_reaches_one_with_ipv4_only(tmp_path: Path) -> None:
    with Lab() as lab:
        server, user, workspace = (lab.host(name) for name in ("server", "user", "agent"))
        lab.switch(server, user, workspace)
        without(user, "-4")
        without(workspace, "-6")
        with Deployment(tmp_path, server.address4, (server, user, workspace)) as place:
            place.port = PORT
            place.start_server("--http-address", f"[::]:{PORT}", "--access-url", f"http://{server.address4}:{PORT}")
            by_ipv6 = f"http://[{server.address6}]:{PORT}"
            done = place.user.coder(
                "login", by_ipv6, "--first-user-username", "alice", "--first-user-email", "alice@example.com",
                env={"CODER_FIRST_USER_PASSWORD": PASSWORD},
            )  # fmt: skip
            assert done.code == 0, str(done)
            dev = place.create("dev")
            place.start_agent(dev)
            ping = place.user.coder("ping", "dev", "-n", "3", "--wait", "100ms")
            assert ping.code == 0, str(ping)
            assert ping.out.count("proxied via DERP(Coder Embedded Relay)") == 3, str(ping)
            speed = place.user.coder("speedtest", "dev", "-t", "1s")
            assert "Mbits/sec" in speed.out, str(speed)
            assert "Traceback" not in place.transcript()
