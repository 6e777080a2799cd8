"""A laboratory of network namespaces: real kernels, real sockets, on one machine. Linux, root, `ip` (iproute2).

    with Lab() as lab:
        server, client = lab.host("server"), lab.host("client")
        lab.switch(server, client)                  # one Ethernet, 10.77.0.1/24 and 10.77.0.2/24, fd77::1, fd77::2
        process = server.spawn("coder", "server")

Names are unique per laboratory, so several can run at once; everything goes when the context ends, even after a
failure.
Traffic never leaves the namespaces.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from types import TracebackType
from typing import IO, Self

_numbers = itertools.count()
STOP_TIMEOUT = 20.0
"""Seconds for a process to end after SIGTERM before it is killed."""


def unavailable() -> str | None:
    """Why namespaces cannot be used here; None if they can."""
    if os.name != "posix" or not Path("/proc/self/ns/net").exists():
        return "network namespaces need Linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "the ip command (iproute2) is not installed"
    return None


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=90)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


@dataclass(slots=True)
class Host:
    """One namespace: a machine of its own. `address4`/`address6` are those of its first link."""

    name: str
    address4: str = ""
    address6: str = ""
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def run(self, *command: str, timeout: float = 90, env: Mapping[str, str] | None = None) -> str:
        """Run a command to its end and return its stdout. Raises RuntimeError with its stderr if it fails."""
        done = self.try_run(*command, timeout=timeout, env=env)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def try_run(
        self, *command: str, timeout: float = 90, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever its exit code."""
        return subprocess.run(
            self._inside(command),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            env=_environment(env),
            stdin=subprocess.DEVNULL,
        )

    def spawn(
        self,
        *command: str,
        env: Mapping[str, str] | None = None,
        stdout: int | IO[bytes] = subprocess.DEVNULL,
        stderr: int | IO[bytes] = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:
        """Start a process; it is stopped with the laboratory at the latest."""
        process = subprocess.Popen(
            self._inside(command), env=_environment(env), stdout=stdout, stderr=stderr, stdin=subprocess.DEVNULL
        )
        self._processes.append(process)
        return process

    def batch(self, *commands: str) -> None:
        """Run several `ip` commands by one process, which is what makes a laboratory quick to build."""
        self._feed(["ip", "-n", self.name, "-batch", "-"], "\n".join(commands))

    def filter(self, rules: str) -> None:
        """Load nftables rules, all or none."""
        self._feed(self._inside(["nft", "-f", "-"]), rules)

    def _feed(self, command: list[str], text: str) -> None:
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=90)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}\n{text}")

    def stop_all(self) -> None:
        """Stop what was spawned here."""
        for process in self._processes:
            stop(process)
        self._processes.clear()

    def _inside(self, command: Sequence[str]) -> list[str]:
        return ["ip", "netns", "exec", self.name, *command]


def _environment(extra: Mapping[str, str] | None) -> dict[str, str] | None:
    return None if extra is None else {**os.environ, **extra}


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process by its id: asked first, killed after STOP_TIMEOUT."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Lab:
    """A set of namespaces and the links between them."""

    def __init__(self) -> None:
        self._prefix = f"ca{os.getpid() % 100000}x{next(_numbers)}"
        self.hosts: list[Host] = []
        self._devices = itertools.count()
        self._subnets = itertools.count()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop all processes and remove all namespaces."""
        for host in self.hosts:
            host.stop_all()
        for host in self.hosts:
            subprocess.run(["ip", "netns", "delete", host.name], capture_output=True, check=False, timeout=90)
        self.hosts.clear()

    def host(self, name: str) -> Host:
        """A new, unconnected machine with its loopback up."""
        host = Host(f"{self._prefix}-{name}")
        _run("ip", "netns", "add", host.name)
        self.hosts.append(host)
        host.run("ip", "link", "set", "lo", "up")
        return host

    def switch(
        self, *hosts: Host, net4: str | None = None, net6: str | None = None, mtu: int = 1500, first: int = 1
    ) -> None:
        """Join hosts by one Ethernet: two directly, more through a bridge in a namespace of its own.

        Addresses count up from `first` in the order of the hosts. IPv6 addresses skip duplicate detection, which
        would make them unusable for the first second.
        """
        number = next(self._subnets)
        v4 = IPv4Network(net4 or f"10.77.{number}.0/24")
        v6 = IPv6Network(net6 or f"fd77:{number:x}::/64")
        ends = self._veth(hosts[0], hosts[1], mtu) if len(hosts) == 2 else self._bridge(hosts, mtu)
        for index, (host, device) in enumerate(zip(hosts, ends, strict=True)):
            address4, address6 = str(v4[first + index]), str(v6[first + index])
            host.run("ip", "address", "add", f"{address4}/{v4.prefixlen}", "dev", device)
            host.run("ip", "-6", "address", "add", f"{address6}/{v6.prefixlen}", "dev", device, "nodad")
            host.address4 = host.address4 or address4
            host.address6 = host.address6 or address6

    def cable(self, a: Host, device: str, b: Host, other: str, mtu: int = 1500) -> None:
        """Join two hosts by devices of these names, which are up and have no addresses yet.

        Without duplicate detection: for the first second a router could not ask for its IPv6 neighbours.
        """
        for host in (a, b):
            host.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
        a.batch(f"link add {device} mtu {mtu} type veth peer {other} mtu {mtu} netns {b.name}", f"link set {device} up")
        b.batch(f"link set {other} up")

    def _veth(self, a: Host, b: Host, mtu: int) -> list[str]:
        names = [f"v{next(self._devices)}", f"v{next(self._devices)}"]
        a.run(
            "ip", "link", "add", names[0], "mtu", str(mtu), "type", "veth", "peer", names[1],
            "mtu", str(mtu), "netns", b.name,
        )  # fmt: skip
        for host, device in zip((a, b), names, strict=True):
            host.run("ip", "link", "set", device, "up")
        return names

    def _bridge(self, hosts: Sequence[Host], mtu: int) -> list[str]:
        middle = self.host(f"switch{len(self.hosts)}")
        middle.run("ip", "link", "add", "br0", "mtu", str(mtu), "type", "bridge")
        middle.run("ip", "link", "set", "br0", "up")
        ends = []
        for host in hosts:
            device, port = self._veth(host, middle, mtu)
            middle.run("ip", "link", "set", port, "master", "br0")
            ends.append(device)
        return ends
