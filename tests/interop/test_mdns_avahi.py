"""mDNS between machines of a laboratory: avahi sees what we announce, we find a peer that avahi announces, and two
nodes of ours that know nothing but each other's keys exchange data."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from coder_agent_discovery_mdns.names import SERVICE_TYPE, instance_name

from coder_agent.base.keys import DiscoPrivate, NodePrivate
from coder_agent.testing.deployment import until
from coder_agent.testing.netns import Host, Lab, unavailable
from coder_agent.testing.processes import Program, run_program

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(unavailable() is not None, reason=str(unavailable())),
]
needs_avahi = [
    pytest.mark.foreign,
    pytest.mark.skipif(shutil.which("avahi-daemon") is None, reason="avahi-daemon is not installed"),
    pytest.mark.skipif(shutil.which("avahi-browse") is None, reason="avahi-browse (avahi-utils) is not installed"),
]
PROGRAM = Path(__file__).parent / "programs" / "mdns_node.py"
FLOOD = PROGRAM.with_name("mdns_flood.py")
TYPE = SERVICE_TYPE.removesuffix(".local.")


class Keys:
    """Both keys of a node, the same in every run."""

    def __init__(self, number: int) -> None:
        self.node = NodePrivate(bytes([number, *range(1, 31), 0x40]))
        self.disco = DiscoPrivate(bytes([number, *range(33, 63), 0x40]))
        self.name = instance_name(self.node.public())


ANN, BEN = Keys(8), Keys(16)


@contextmanager
def node(host: Host, folder: Path, ours: Keys, peer: Keys | None = None, **said: Any) -> Iterator[Program]:
    """A node on a machine of the laboratory; it looks for `peer`."""
    facts: dict[str, Any] = {"private": ours.node.secret.hex(), "disco": ours.disco.secret.hex(), "dial": []}
    facts |= {"address": "fd99::1" if ours is ANN else "fd99::2"}
    facts |= {"peer_address": "fd99::2" if ours is ANN else "fd99::1", **said}
    if peer is not None:
        facts |= {"peer": peer.node.public().raw.hex(), "peer_disco": peer.disco.public().raw.hex()}
    file = folder / f"{host.name}.json"
    file.write_text(json.dumps(facts))
    with run_program(sys.executable, str(PROGRAM), str(file), host=host) as program:
        program.event("ready")
        yield program


BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path={folder}/bus</listen><policy context="default">
<allow user="*"/><allow own="*"/><allow send_type="*"/><allow receive_type="*"/></policy></busconfig>
"""
DAEMON = """[server]
host-name=judge
[wide-area]
enable-wide-area=no
[publish]
publish-hinfo=no
publish-workstation=no
"""
START = """mount -t tmpfs none /run/avahi-daemon
exec avahi-daemon -f "$1/avahi.conf" --no-drop-root --no-chroot --no-rlimits --no-proc-title
"""


class Avahi:
    """An avahi of its own on one machine, with a bus of its own."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.host = host
        self.env = {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={folder}/bus", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}

    def browse(self) -> str:
        """Everything of our type that is there now, resolved."""
        return self.host.run("avahi-browse", "--parsable", "--resolve", "--terminate", TYPE, env=self.env)

    def publish(self, name: str, port: int, *text: str) -> None:
        """Announce a service until the laboratory ends."""
        self.host.spawn("avahi-publish", "-s", name, TYPE, str(port), *text, env=self.env)


@contextmanager
def avahi(host: Host, folder: Path) -> Iterator[Avahi]:
    Path("/run/avahi-daemon").mkdir(exist_ok=True)  # a machine without systemd has it only after avahi ran
    (folder / "bus.conf").write_text(BUS.format(folder=folder))
    (folder / "avahi.conf").write_text(DAEMON)
    judge = Avahi(host, folder)
    bus = ("dbus-daemon", f"--config-file={folder}/bus.conf", "--nofork", "--print-address=1")
    with run_program(*bus, host=host) as running:
        running.wait_for("^unix:")
        with run_program("sh", "-c", START, "sh", str(folder), host=host, env=judge.env) as daemon:
            daemon.wait_for("Server startup complete")
            yield judge


@pytest.fixture
def lan() -> Iterator[tuple[Host, Host]]:
    with Lab() as lab:
        ann, ben = lab.host("ann"), lab.host("ben")
        lab.switch(ann, ben)
        yield ann, ben


class TestAvahi:
    pytestmark = needs_avahi

    def test_avahi_sees_our_announcement_and_our_goodbye(self, lan: tuple[Host, Host], tmp_path: Path) -> None:
        ann, ben = lan
        with avahi(ben, tmp_path) as judge, node(ann, tmp_path, ANN) as ours:
            port4, port6 = ours.event("bound")["ports"]
            until("avahi sees us", lambda: f";{ann.address4};" in judge.browse())
            lines = [line.split(";") for line in judge.browse().splitlines() if line.startswith("=")]
            assert {fields[3] for fields in lines} == {ANN.name}
            assert {fields[6] for fields in lines} == {f"{ANN.name}.local"}
            assert (ann.address4, str(port4)) in {(fields[7], fields[8]) for fields in lines}
            assert all('"v=1"' in fields[9] for fields in lines)
            assert port4 == port6 or all(f'"p6={port6}"' in fields[9] for fields in lines)
            ours.stop()
            until("avahi hears our goodbye", lambda: ANN.name not in judge.browse())

    def test_we_find_a_peer_that_avahi_announces(self, lan: tuple[Host, Host], tmp_path: Path) -> None:
        """The peer itself is silent, so that nothing but avahi's announcement leads to it."""
        ann, ben = lan
        with avahi(ben, tmp_path) as judge, node(ben, tmp_path, BEN, ANN, mdns=False) as silent:
            judge.publish(BEN.name, silent.event("bound")["ports"][0], "v=1")
            with node(ann, tmp_path, ANN, BEN) as looking:
                assert looking.event("answered")["direct"] is True


def test_two_nodes_that_know_only_each_others_keys_exchange_data(lan: tuple[Host, Host], tmp_path: Path) -> None:
    """No server, no relay, no STUN, no endpoints, and no way out of the LAN."""
    ann, ben = lan
    with node(ann, tmp_path, ANN, BEN) as first, node(ben, tmp_path, BEN, ANN) as second:
        for program in (first, second):
            assert program.event("answered")["direct"] is True


def test_a_neighbour_that_floods_and_lies_hides_nobody(tmp_path: Path) -> None:
    """Thousands of instances, huge TXT records, junk, and our peers' names at addresses of someone else's network."""
    with Lab() as lab:
        ann, ben, liar = lab.host("ann"), lab.host("ben"), lab.host("liar")
        lab.switch(ann, ben, liar)
        flood = (sys.executable, str(FLOOD), liar.address4, ANN.name, BEN.name)
        with node(ann, tmp_path, ANN, BEN) as first, run_program(*flood, host=liar) as flooding:
            flooding.event("flooding")
            with node(ben, tmp_path, BEN, ANN) as second:
                for program in (first, second):
                    assert program.event("answered")["direct"] is True
                for program in (first, second):
                    assert "Traceback" not in program.stop()
    assert first.event("heard")["heard-others"] > 1000
    assert second.event("heard")["heard-peers"] > 0
    for program in (first, second):  # nothing like a probe per lie
        assert program.event("stats")["udp"]["tx_packets"] < 200
