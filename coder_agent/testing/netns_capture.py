"""What really crossed a wire of the laboratory: tcpdump, and its own words on what it saw."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .netns import Host
from .processes import run_program


def find_tcpdump() -> str | None:
    """The program; None if it is not installed here."""
    return shutil.which("tcpdump")


@dataclass(slots=True)
class Capture:
    """What came by, once the block has ended: a line per packet."""

    lines: list[str] = field(default_factory=list)


@contextmanager
def capture(host: Host, device: str, folder: Path, expression: str) -> Iterator[Capture]:
    """Record packets of a device that match a pcap filter, each of them, from now to the end of the block."""
    file = folder / f"{host.name}-{device}.pcap"
    # -U: written at once; --immediate-mode: not lost in the kernel's buffer when tcpdump ends; -Z: stay who we are.
    options = ("-i", device, "-n", "-U", "--immediate-mode", "-Z", "root", "-w", str(file))
    found = Capture()
    with run_program("tcpdump", *options, expression, host=host) as program:
        program.wait_for("listening on")
        yield found
    read = subprocess.run(["tcpdump", "-n", "-r", str(file)], capture_output=True, text=True, check=True, timeout=90)
    found.lines = read.stdout.splitlines()
