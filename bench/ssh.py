"""SSH: what scp through the tunnel costs beside scp without it, and how long a command takes from nothing."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from coder_agent.testing.processes import run_program

from .place import BIN, Place, environment_of, need
from .rows import Row

if TYPE_CHECKING:
    from .runner import Plan

PORT = 2222
PEER = "OpenSSH alone"
UNIT = "MB/s"


def scp(place: Place, plan: Plan) -> Iterator[Row]:
    """A gigabyte each way with OpenSSH's scp, through the tunnel and to OpenSSH's sshd; the worse direction counts."""
    size = int(float(os.environ.get("BENCH_GB", "1")) * 1e9)
    need("scp", "openssh-client")
    place.start()
    source = place.directory / "source"
    with source.open("wb") as file:
        for _ in range(size // 1_000_000):
            file.write(os.urandom(1_000_000))
    with _sshd(place) as theirs:
        ours = _config(place, "Host workspace", f"ProxyCommand {BIN}/coder ssh --stdio dev")
        rates: dict[tuple[str, bool], list[float]] = {}
        for _ in range(plan.runs):
            for config in (ours, theirs):
                for up in (True, False):
                    rates.setdefault((config, up), []).append(_copy(place, config, source, up=up))
    ups, downs = (
        Row.of("scp", UNIT, rates[ours, up], rates[theirs, up], PEER) for up in (True, False)
    )  # fmt: skip
    yield min(ups, downs, key=lambda row: row.ratio or 0)


def cold(place: Place, plan: Plan) -> Iterator[Row]:
    """`coder ssh dev true` on an agent that has just started and has not served SSH before."""
    place.start_server()
    seconds = []
    for _ in range(plan.runs):
        with place.agent():
            began = time.monotonic()
            place.coder("ssh", "dev", "true")
            seconds.append(time.monotonic() - began)
    yield Row.of("ssh_cold", "s", seconds)


@contextmanager
def _sshd(place: Place) -> Iterator[str]:
    """OpenSSH's own server on the workspace's machine; yields the configuration for it."""
    program, keygen = need("/usr/sbin/sshd", "openssh-server"), need("ssh-keygen", "openssh-client")
    Path("/run/sshd").mkdir(exist_ok=True)  # where it locks itself in; its package's service makes it elsewhere
    for name in ("host", "user"):
        key = place.directory / f"{name}_key"
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    address = place.workspace.address4
    options = {
        "HostKey": place.directory / "host_key",
        "AuthorizedKeysFile": place.directory / "user_key.pub",
        "StrictModes": "no",
        "PermitRootLogin": "yes",
        "UsePAM": "no",
        "PidFile": "none",
        "Subsystem": "sftp internal-sftp",
    }
    flags = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    command = [program, "-D", "-e", "-f", "/dev/null", "-o", f"ListenAddress={address}:{PORT}", *flags]
    with run_program(*command, host=place.workspace, env=environment_of(place, "sshd", {})) as server:
        server.wait_for("Server listening")
        key = place.directory / "user_key"
        yield _config(place, "Host workspace", f"HostName {address}", f"Port {PORT}", f"IdentityFile {key}")


def _config(place: Place, *lines: str) -> str:
    name = f"ssh_config_{abs(hash(lines))}"
    common = ("StrictHostKeyChecking no", "UserKnownHostsFile /dev/null", "LogLevel ERROR", "User root")
    (place.directory / name).write_text("\n".join([*lines, *common]) + "\n", encoding="utf-8")
    return str(place.directory / name)


def _copy(place: Place, config: str, source: Path, *, up: bool) -> float:
    """MB/s of one scp. Raises RuntimeError if it fails or the copy has another size."""
    remote, back = place.directory / "there", place.directory / "back"
    words = (str(source), f"workspace:{remote}") if up else (f"workspace:{remote}", str(back))
    began = time.monotonic()
    done = subprocess.run(
        ["ip", "netns", "exec", place.user.name, "scp", "-q", "-F", config, *words],
        capture_output=True, text=True, timeout=300, env=place.environment("user"), stdin=subprocess.DEVNULL,
    )  # fmt: skip
    seconds = time.monotonic() - began
    copy = remote if up else back
    if done.returncode or copy.stat().st_size != source.stat().st_size:
        raise RuntimeError(f"scp {' '.join(words)}: exit {done.returncode}\n{done.stderr}")
    return source.stat().st_size / seconds / 1e6
