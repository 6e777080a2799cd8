"""Fetch the front-end modules of package.json with npm, and put what pages load beside the server's own static files.

The key `served` of package.json names the files of each package; they keep their path, under
``plugins/server/coder_agent_server/web/static/modules/<package>/``. Nothing of it is committed. Without npm the server
works all the same: a page that misses a module says so.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODULES = ROOT / "plugins/server/coder_agent_server/web/static/modules"
INSTALLED = ROOT / "node_modules/.package-lock.json"
"""What npm writes last."""


def main() -> int:
    """Fetch and copy. Answers the exit code."""
    npm = shutil.which("npm")
    if npm is None:
        print("npm was not found: the web terminal will say that its modules are missing", file=sys.stderr)
        return 0
    if not _is_current():
        done = subprocess.run(
            [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], cwd=ROOT, check=False
        )
        if done.returncode:
            print(
                "npm could not fetch the modules of package.json (see above); run scripts/setup again", file=sys.stderr
            )
            return 0 if MODULES.is_dir() else done.returncode
    _copy()
    return 0


def _is_current() -> bool:
    lock = ROOT / "package-lock.json"
    return INSTALLED.is_file() and INSTALLED.stat().st_mtime >= lock.stat().st_mtime


def _copy() -> None:
    served: dict[str, list[str]] = json.loads((ROOT / "package.json").read_text("utf-8"))["served"]
    fresh = MODULES.with_name(f".{MODULES.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    for package, files in served.items():
        for name in files:
            target = fresh / package / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / "node_modules" / package / name, target)
    shutil.rmtree(MODULES, ignore_errors=True)
    fresh.rename(MODULES)


if __name__ == "__main__":
    raise SystemExit(main())
