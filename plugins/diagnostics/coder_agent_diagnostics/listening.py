"""Which TCP ports programs of this machine listen on, from Linux's /proc.

Layout of /proc/net/tcp and tcp6 (Linux Documentation/networking/proc_net_tcp.rst): a heading, then one socket a line,
columns separated by blanks; column 1 is ``ADDRESS:PORT`` in hexadecimal, column 3 the state (0A = LISTEN), column 9 the
inode. A process that holds the socket has a link ``socket:[INODE]`` in /proc/PID/fd, as far as we may look.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

LISTEN = "0A"
FIRST_FREE_PORT = 9
"""Ports below are the agent's own inside the tunnel. Source: coder agent/ports_supported.go."""
MAX_PORTS = 1024
MAX_PROCESSES = 20_000
"""Processes that are looked at for names: a machine with more gets some ports without one."""
PROC = Path("/proc")


@dataclass(frozen=True, slots=True, order=True)
class ListeningPort:
    """A port; `process_name` is empty where we may not know."""

    port: int
    process_name: str = ""


def listening_inodes(table: str) -> dict[str, int]:
    """Inode → port of every listening socket of one /proc/net table. Lines that make no sense are left out."""
    found: dict[str, int] = {}
    for line in table.splitlines()[1:]:
        columns = line.split()
        if len(columns) < 10 or columns[3] != LISTEN:
            continue
        try:
            port = int(columns[1].rpartition(":")[2], 16)
        except ValueError:
            continue
        if FIRST_FREE_PORT <= port < 1 << 16:
            found[columns[9]] = port
    return found


def named(inodes: Mapping[str, int], owners: Mapping[str, str], own: frozenset[str]) -> list[ListeningPort]:
    """Ports in order, each once, with the name of the first process found; without those in `own` (inodes of this
    process: its local debug listeners are nobody's app)."""
    names: dict[int, str] = {}
    for inode, port in inodes.items():
        if inode not in own:
            names[port] = names.get(port) or owners.get(inode, "")
    return sorted(ListeningPort(port, name) for port, name in names.items())[:MAX_PORTS]


def listening_ports(proc: Path = PROC) -> list[ListeningPort]:
    """What listens on this machine now. Blocks for some milliseconds; empty where there is no /proc."""
    inodes: dict[str, int] = {}
    for table in ("net/tcp", "net/tcp6"):
        try:
            inodes |= listening_inodes((proc / table).read_text("ascii", "replace"))
        except OSError:
            continue
    if not inodes:
        return []
    own = frozenset(_sockets_of(proc / "self"))
    return named(inodes, _owners(proc, set(inodes)), own)


def _owners(proc: Path, wanted: set[str]) -> dict[str, str]:
    """Inode → process name, for those that we may look into. Stops when all are known."""
    found: dict[str, str] = {}
    for process in _processes(proc):
        hits = wanted.intersection(_sockets_of(process))
        if hits:
            name = _name_of(process)
            found |= {inode: name for inode in hits if inode not in found}
            if len(found) == len(wanted):
                break
    return found


def _processes(proc: Path) -> Iterable[Path]:
    try:
        names = [name for name in os.listdir(proc) if name.isdigit()]
    except OSError:
        return []
    return [proc / name for name in sorted(names, key=int)[:MAX_PROCESSES]]


def _sockets_of(process: Path) -> list[str]:
    folder = process / "fd"
    try:
        descriptors = os.listdir(folder)
    except OSError:
        return []
    found = []
    for descriptor in descriptors:
        try:
            target = os.readlink(folder / descriptor)
        except OSError:
            continue
        if target.startswith("socket:["):
            found.append(target[8:-1])
    return found


def _name_of(process: Path) -> str:
    try:
        return (process / "comm").read_text("utf-8", "replace").strip()[:64]
    except OSError:
        return ""
