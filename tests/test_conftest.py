"""The rules of conftest.py, tried on a small suite in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIG = "[pytest]\nmarkers =\n    foreign: x\n    netns: x\n    slow: x\n    anyio: x\n"
BACKGROUND = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]
"""Runs a command as a shell does that ends its line with `&`."""
SUITES = {
    "foreign": "@pytest.mark.foreign\ndef test(): pytest.skip('no wg')",
    "netns": "@pytest.mark.netns\n@pytest.mark.skipif(True, reason='no root')\ndef test(): pass",
    "module": "pytest.skip('no wg', allow_module_level=True)",
    "plain": "def test(): pytest.skip('not today')",
    "expected": "@pytest.mark.foreign\n@pytest.mark.xfail\ndef test(): assert False",
    "runs": "@pytest.mark.foreign\ndef test(): pass",
    "environment": "def test(): assert 'CODER_URL' not in os.environ",
    "interrupt": "def test(): assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN",
}


def outcomes(folder: Path, ci: str) -> dict[str, set[str]]:
    """Outcome → the suites that had it."""
    (folder / "pytest.ini").write_text(CONFIG, "utf-8")
    (folder / "conftest.py").write_text((ROOT / "conftest.py").read_text("utf-8"), "utf-8")
    for name, suite in SUITES.items():
        (folder / f"test_{name}.py").write_text(f"import os, signal, pytest\n{suite}\n", "utf-8")
    options = ["-q", "-rA", "-p", "no:cacheprovider", "--continue-on-collection-errors", "."]
    done = subprocess.run(
        [*BACKGROUND, sys.executable, "-m", "pytest", *options],
        env={**os.environ, "CI": ci, "CODER_URL": "https://outside"},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    found: dict[str, set[str]] = {}
    for line in done.stdout.splitlines():
        word, _, rest = line.partition(" ")
        for name in SUITES:
            if word.isupper() and f"test_{name}.py" in rest:
                found.setdefault(word, set()).add(name)
    return found


def test_at_home_what_is_missing_is_skipped(tmp_path: Path) -> None:
    assert outcomes(tmp_path, ci="") == {
        "PASSED": {"runs", "environment", "interrupt"},
        "SKIPPED": {"foreign", "netns", "module", "plain"},
        "XFAIL": {"expected"},
    }


def test_in_ci_a_foreign_judge_may_not_be_missing(tmp_path: Path) -> None:
    assert outcomes(tmp_path, ci="true") == {
        "PASSED": {"runs", "environment", "interrupt"},
        "SKIPPED": {"plain"},
        "XFAIL": {"expected"},
        "FAILED": {"foreign"},
        "ERROR": {"netns", "module"},
    }


def test_namespaces_share_one_worker_and_other_real_programs_another(tmp_path: Path) -> None:
    """Spread over the workers they would disturb each other: load, names of interfaces, ports."""
    (tmp_path / "pytest.ini").write_text(CONFIG, "utf-8")
    (tmp_path / "conftest.py").write_text((ROOT / "conftest.py").read_text("utf-8"), "utf-8")
    for number, mark in enumerate(["foreign", "netns", "slow"] * 3):
        body = f"import pytest\n@pytest.mark.{mark}\ndef test(worker_id): print('{mark} ran on', worker_id)\n"
        (tmp_path / f"test_{number}.py").write_text(body, "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadgroup", "-rP", "-p", "no:cacheprovider", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    ran = [line.split(" ran on ") for line in done.stdout.splitlines() if " ran on gw" in line]
    assert len(ran) == 9, done.stdout
    workers = {mark: {worker for own, worker in ran if own == mark} for mark in ("foreign", "netns", "slow")}
    assert workers["foreign"] == workers["slow"] != workers["netns"], done.stdout
    assert all(len(one) == 1 for one in workers.values()), done.stdout
