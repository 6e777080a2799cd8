"""What users and developers install: pinned completely, explained in docs/dependencies.md, under licences we accept."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import metadata, requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))
PAGE = (ROOT / "docs" / "dependencies.md").read_text("utf-8")

PERMISSIVE = {
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "PSF-2.0",
    "Zlib",
}
"""SPDX identifiers of licences that ask for no more than a notice."""

OLD_NAMES = {
    "3-Clause BSD License": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "Apache Software License": "Apache-2.0",
    "ISC License": "ISC",
    "MIT License": "MIT",
}
"""What packages without a License-Expression write, and what it means."""


def project(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]  # type: ignore[no-any-return]


def runtime_needs(folder: Path) -> list[str]:
    data = project(folder)
    extras = data.get("optional-dependencies", {})
    return [*data["dependencies"], *extras.get("fast", []), *extras.get("http", []), *extras.get("keyring", [])]


def direct(folder: Path) -> set[str]:
    names = {canonicalize_name(Requirement(need).name) for need in runtime_needs(folder)}
    return {name for name in names if not name.startswith("coder-agent")}


def closure(needs: list[str]) -> set[str]:
    """Everything that `needs` bring along on this platform, by canonical name, without our own packages."""
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement(need) for need in needs]
    while waiting:
        need = waiting.pop()
        name = canonicalize_name(need.name)
        if name.startswith("coder-agent"):
            continue
        for extra in ("", *need.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for text in requires(name) or ():
                further = Requirement(text)
                if further.marker is None or further.marker.evaluate({"extra": extra}):
                    waiting.append(further)
    return {name for name, _ in seen}


def applicable(needs: list[str]) -> list[str]:
    return [need for need in needs if (marker := Requirement(need).marker) is None or marker.evaluate()]


RUNTIME = closure([need for folder in (ROOT, *PLUGINS) for need in runtime_needs(folder)])

WEAK_COPYLEFT = {"EPL-2.0", "LGPL-2.1-or-later", "LGPL-3.0-or-later", "MPL-2.0"}
"""Acceptable in plugins that nobody has to install."""
STANDARD = {canonicalize_name(Requirement(need).name) for need in project(ROOT)["optional-dependencies"]["standard"]}
OBLIGATORY = closure(
    [
        need
        for folder in (ROOT, *PLUGINS)
        if folder == ROOT or canonicalize_name(project(folder)["name"]) in STANDARD
        for need in runtime_needs(folder)
    ]
)
"""What comes with the core and with everything that `coder-agent[standard]` installs."""


def licence(name: str) -> str:
    """A package's licence as an SPDX expression, from whichever field has it."""
    data = metadata(name)
    if "License-Expression" in data:
        return data["License-Expression"]
    classifiers = [
        line.rpartition(" :: ")[2] for line in data.get_all("Classifier") or () if line.startswith("License")
    ]
    said = "".join(data.get_all("License") or ())
    if 0 < len(said) < 40:  # some put the whole text here
        return OLD_NAMES.get(said, said)
    return " OR ".join(OLD_NAMES.get(text, text) for text in classifiers)


@pytest.mark.parametrize("name", sorted(RUNTIME))
def test_every_runtime_dependency_has_a_licence_that_we_accept(name: str) -> None:
    said = licence(name)
    parts = set(re.split(r" AND | OR |[()]", said)) - {""}
    assert parts, f"{name} does not say its licence"
    acceptable = PERMISSIVE if name in OBLIGATORY else PERMISSIVE | WEAK_COPYLEFT
    may_choose = " AND " not in said and name not in OBLIGATORY  # "A OR B": the one that we accept
    assert parts <= acceptable or (may_choose and parts & acceptable), f"{name}: {said}"


def rows(section: str) -> dict[str, tuple[str, ...]]:
    """The table under `## section`: first cell → the other cells."""
    text = PAGE.partition(f"## {section}\n")[2].partition("\n## ")[0]
    cells = [
        tuple(cell.strip() for cell in line.strip("|").split("|")) for line in text.splitlines() if line[:2] == "| "
    ]
    return {row[0]: row[1:] for row in cells[1:]}


def test_the_page_names_what_the_core_needs() -> None:
    table = rows("Core")
    assert set(table) == direct(ROOT)
    assert {name: row[0] for name, row in table.items()} == {name: licence(name) for name in table}


def test_the_page_names_what_each_plugin_adds() -> None:
    table = rows("Plugins")
    added = {(name, folder.name) for folder in PLUGINS for name in direct(folder) - direct(ROOT)}
    assert {(name, plugin) for name, row in table.items() for plugin in row[0].split(", ")} == added
    assert {name: row[1] for name, row in table.items()} == {name: licence(name) for name in table}


def pinned() -> set[str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return {canonicalize_name(line.partition("==")[0]) for line in lines if not line.startswith("#")}


def needed() -> set[str]:
    return closure(applicable(project(ROOT)["optional-dependencies"]["dev"])) | RUNTIME


def test_constraints_pin_everything_that_is_installed() -> None:
    assert needed() - pinned() == set()


@pytest.mark.skipif(
    (sys.platform, sys.version_info[:2]) != ("linux", (3, 11)), reason="another platform needs a little less"
)
def test_constraints_pin_nothing_else() -> None:
    assert pinned() - needed() == set()
