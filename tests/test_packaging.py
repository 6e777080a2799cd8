"""Packages as users get them: entry points, what they declare, and a stranger's plugin from a wheel."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from importlib.metadata import entry_points, packages_distributions
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))
by_name = pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)

HEAVY = {
    "anyio",
    "asyncio",
    "cryptography",
    "google",
    "h11",
    "nacl",
    "numpy",
    "pydantic",
    "rich",
    "sqlalchemy",
    "ssl",
    "starlette",
    "uvicorn",
    "websockets",
}
"""What a plugin module may not import: `coder --help` imports every plugin module."""

MAX_PLUGIN_LINES = 40
"""Lines of code in plugin.py: it holds hooks and nothing else."""


def project(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]  # type: ignore[no-any-return]


def entry_point(plugin: Path) -> tuple[str, str]:
    ((name, value),) = project(plugin)["entry-points"]["coder_agent"].items()
    return name, value


def code_lines(path: Path) -> int:
    """Lines that carry a statement, without docstrings."""
    tree = ast.parse(path.read_text("utf-8"))
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            continue
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            end = body[0].lineno - 1 if isinstance(body, list) and body else node.end_lineno or node.lineno
            lines.update(range(node.lineno, max(end, node.lineno) + 1))
    text = path.read_text("utf-8").splitlines()
    return sum(1 for line in lines if text[line - 1].strip() and not text[line - 1].strip().startswith(("#", '"""')))


@by_name
def test_a_plugin_package_is_complete(plugin: Path) -> None:
    data = project(plugin)
    package = plugin / f"coder_agent_{plugin.name}"
    assert data["name"] == f"coder-agent-{plugin.name.replace('_', '-')}"
    assert any(str(need).startswith("coder-agent") for need in data["dependencies"])
    assert data["license"] == "Apache-2.0"
    assert entry_point(plugin) == (plugin.name, f"coder_agent_{plugin.name}.plugin")
    assert (package / "py.typed").exists()
    assert len((plugin / "README.md").read_text("utf-8")) > 200
    assert (plugin / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()  # hatchling takes it from here only
    assert list((plugin / "tests").rglob("test_*.py"))


@by_name
def test_the_entry_point_is_installed_and_resolves(plugin: Path) -> None:
    name, value = entry_point(plugin)
    found = next((point for point in entry_points(group="coder_agent") if point.name == name), None)
    assert found is not None, f"{plugin.name} is not installed: run `make setup`"
    assert found.value == value
    assert found.load().__name__ == value


@by_name
def test_the_plugin_module_is_small(plugin: Path) -> None:
    path = plugin / f"coder_agent_{plugin.name}" / "plugin.py"
    assert code_lines(path) < MAX_PLUGIN_LINES


@by_name
def test_the_plugin_module_imports_nothing_heavy(plugin: Path) -> None:
    _, value = entry_point(plugin)
    code = f"import sys, {value}; print(sorted(set({sorted(HEAVY)!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("folder", [ROOT, *PLUGINS], ids=lambda path: path.name)
def test_the_wheel_holds_the_package_its_types_and_its_licence(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = zipfile.ZipFile(wheel).namelist()
    package = "coder_agent" if folder == ROOT else f"coder_agent_{folder.name}"
    sources = {path.relative_to(folder).as_posix() for path in (folder / package).rglob("*.py")}
    assert {name for name in held if name.endswith(".py")} == sources
    assert f"{package}/py.typed" in held
    assert f"{package}-{project(folder)['version']}.dist-info/licenses/LICENSE" in held


def _normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def _requirement_name(requirement: str) -> str:
    for position, character in enumerate(requirement):
        if character not in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.":
            return _normal(requirement[:position])
    return _normal(requirement)


def _third_party_imports(package: Path) -> dict[str, str]:
    """Top-level name → where it is imported, for everything that is neither ours nor Python's."""
    found: dict[str, str] = {}
    for path in package.rglob("*.py"):
        if "testing" in (path.parent.name, path.stem):
            continue  # for those who run tests: they have the dev extra
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names = [node.module]
            for name in names:
                top = name.partition(".")[0]
                if top not in sys.stdlib_module_names and not top.startswith("coder_agent"):
                    found.setdefault(top, f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}")
    return found


NOT_A_DEPENDENCY = {"_typeshed": "exists for type checkers only", "uvloop": "used when it happens to be installed"}


@pytest.mark.parametrize("folder", [ROOT, *PLUGINS], ids=lambda path: path.name)
def test_what_is_imported_is_declared(folder: Path) -> None:
    """A dependency that is only there because another package has it goes away one day."""
    data = project(folder)
    core = project(ROOT)
    declared = [*data["dependencies"], *core["dependencies"], *core["optional-dependencies"]["fast"]]
    extras = data.get("optional-dependencies", {})
    declared += [need for name in extras if name not in ("dev", "standard") for need in extras[name]]
    known = {_requirement_name(need) for need in declared}
    package = folder / "coder_agent" if folder == ROOT else folder / f"coder_agent_{folder.name}"
    distributions = packages_distributions()
    missing = {
        name: where
        for name, where in _third_party_imports(package).items()
        if name not in NOT_A_DEPENDENCY and not known & {_normal(d) for d in distributions.get(name, [name])}
    }
    assert missing == {}


def test_constraints_pin_names_and_versions_and_no_addresses() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if not line.startswith("#")]
    assert len(lines) > 30
    for line in lines:
        name, _, version = line.partition("==")
        assert name, line
        assert version, line
        assert not {"@", "/", " "} & set(line), line


# ---------------------------------------------------------------- a stranger's plugin


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a new venv with the core and the example plugin from wheels, and none of our plugins.

    Third-party packages come from this environment, through links: no network is needed.
    """
    folder = tmp_path_factory.mktemp("fresh")
    for source in (ROOT, ROOT / "examples" / "coder-agent-hello"):
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
        subprocess.run(command, check=True, capture_output=True)
    wheels = sorted(folder.glob("*.whl"))
    assert [wheel.name.partition("-")[0] for wheel in wheels] == ["coder_agent", "coder_agent_hello"]

    borrowed = folder / "borrowed"
    borrowed.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.lower().lstrip("_").startswith(("coder", "editable")):
            (borrowed / entry.name).symlink_to(entry)
    venv.create(folder / "venv", symlinks=True)
    scheme = {"base": str(folder / "venv"), "platbase": str(folder / "venv")}
    packages = Path(sysconfig.get_path("purelib", "venv", scheme))
    (packages / "borrowed.pth").write_text(f"{borrowed}\n", "utf-8")
    scripts = Path(sysconfig.get_path("scripts", "venv", scheme))
    install = [sys.executable, "-m", "pip", "--python", str(scripts / "python"), "install", "--no-deps", "--no-index"]
    subprocess.run([*install, *map(str, wheels)], check=True, capture_output=True)
    return scripts


def run(fresh: Path, *command: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("CODER_", "PYTHON"))}
    return subprocess.run(
        [fresh / command[0], *command[1:]],
        env={**env, "HOME": str(fresh.parent), "XDG_CONFIG_HOME": str(fresh.parent)},
        cwd=fresh.parent,
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_a_strangers_plugin_is_found_in_a_fresh_environment(fresh: Path) -> None:
    done = run(fresh, "coder", "plugins", "list", "--output", "json")
    assert done.stderr == ""
    (plugin,) = json.loads(done.stdout)
    assert plugin["name"] == "hello"
    assert (plugin["distribution"], plugin["version"]) == ("coder-agent-hello", "0.1.0")
    assert plugin["status"] == "ok"
    assert plugin["hooks"] == ["coder_commands", "coder_event"]
    assert "coder-agent-hello" in run(fresh, "coder", "plugins", "list").stdout


def test_its_command_runs_like_one_of_ours(fresh: Path) -> None:
    assert "Greet somebody." in run(fresh, "coder", "--help").stdout
    done = run(fresh, "coder", "hello", "--name", "Ada")
    assert (done.returncode, done.stdout, done.stderr) == (0, "Hello, Ada!\n", "")


def test_its_observer_hears_of_path_changes(fresh: Path) -> None:
    code = """
import coder_agent_hello
from coder_agent.base.keys import NodePublic
from coder_agent.base.paths import PathKind
from coder_agent.hooks import PathChanged, build_plugin_manager
host = build_plugin_manager()
for kind, path in ((PathKind.RELAYED, "derp:999"), (PathKind.DIRECT, "192.0.2.1:7"), (PathKind.DIRECT, "192.0.2.2:7")):
    host.emit(PathChanged(NodePublic(bytes(range(32))), kind, path, "", "test"))
print(dict(coder_agent_hello.changes))
"""
    done = run(fresh, "python", "-c", code)
    assert done.stdout == "{'relayed': 1, 'direct': 2}\n"
    assert "00010203 is now reached direct: 192.0.2.1:7" in done.stderr


@pytest.mark.parametrize("off", [["--no-plugins"], ["--disable-plugin", "hello"], ["--only-plugin", "hello"]])
def test_it_can_be_switched_off_by_a_flag(fresh: Path, off: list[str]) -> None:
    there = off[0] == "--only-plugin"
    assert (run(fresh, "coder", *off, "hello").returncode == 0) is there
    assert run(fresh, "coder", *off, "--help").returncode == 0


def test_a_plugin_that_fails_to_import_costs_only_itself(fresh: Path) -> None:
    broken = next(fresh.parent.rglob("coder_agent_hello.py"))
    good = broken.read_text("utf-8")
    try:
        broken.write_text("import a_module_that_is_not_there\n", "utf-8")
        done = run(fresh, "coder", "config", "show")
        assert done.returncode == 0
        assert "warning: plugin 'hello' (coder-agent-hello 0.1.0) cannot be imported" in done.stderr
        assert "Traceback" not in done.stderr
    finally:
        broken.write_text(good, "utf-8")
