"""`make demo` is the first thing that a newcomer sees."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_the_demo_shows_a_relayed_and_a_direct_speedtest(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "demo"], cwd=tmp_path, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    shown = done.stdout + done.stderr
    assert "proxied via DERP(" in shown
    # Loopback or another address of this machine: whichever answered faster.
    assert re.search(r"p2p via ([\d.]+|\[[\da-f:]+\]):\d+ in ", shown)
    assert "[direct_lan]" in shown
    assert re.findall(r"^[\d.]+m?s via (\w+)$", shown, re.MULTILINE) == ["coder", "direct"]
    totals = re.findall(r"^0\.00-([\d.]+) sec +[\d.]+ MBits +[\d.]+ Mbits/sec$", done.stdout, re.MULTILINE)
    # The receiver's clock starts when it has read the reply, the sender's 5 s when it was sent; and a row per second.
    assert len([end for end in totals if float(end) > 4]) == 2
