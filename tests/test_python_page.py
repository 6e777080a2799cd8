"""docs/python.md is true without a server: names, errors, types. tests/interop/test_jupyter.py runs its examples."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import coder_agent
from coder_agent import blocking, errors

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "python.md").read_text("utf-8")


def sections() -> dict[str, str]:
    parts = re.split(r"^## (.+)\n", PAGE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(title: str) -> dict[str, str]:
    """The table of a section: first column without backticks → the rest."""
    return dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", sections()[title], re.MULTILINE))


def test_the_stable_names_are_those_of_the_package() -> None:
    assert list(rows("Stable names")) == coder_agent.__all__
    for name in coder_agent.__all__:
        assert getattr(coder_agent, name) is not None
    assert set(coder_agent.__all__) <= set(dir(coder_agent))


def test_what_the_names_are_said_to_have_they_have() -> None:
    for name, text in rows("Stable names").items():
        owner = getattr(coder_agent, name)
        for member in re.findall(r"`(\w+)`", text.partition(": ")[2]):
            code = getattr(owner.__init__, "__code__", None)  # what a class sets on its instances
            known = {*dir(owner), *getattr(owner, "__annotations__", {}), *(code.co_names if code else ())}
            assert member in known, f"{name}.{member}"


def test_blocking_code_has_the_same_calls() -> None:
    calls = re.findall(r"`(\w+)`", rows("Stable names")["Workspace"].partition(": ")[2])
    assert set(calls) - set(dir(blocking.BlockingWorkspace)) == {"aclose"}  # there it is `close`
    for name in blocking.__all__:
        assert hasattr(blocking, name)


def test_every_error_that_users_meet_is_in_the_table() -> None:
    plugins_and_protocols = {"PluginLoadError", "PluginContractError", "AuthError", "TransportError"}
    bugs = {"ProtocolError", "LocalProtocolError", "RemoteProtocolError"}
    known = {
        name
        for name, member in vars(errors).items()
        if isinstance(member, type) and issubclass(member, errors.CoderAgentError)
    }
    assert set(rows("Errors")) == known - plugins_and_protocols - bugs


def test_importing_the_package_costs_nothing() -> None:
    code = "import sys, coder_agent; print([name for name in sys.modules if name.startswith('coder_agent.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_examples_keep_mypy_strict(tmp_path: Path) -> None:
    assert (ROOT / "coder_agent" / "py.typed").exists()
    for number, text in enumerate(sections().values()):
        if blocks := re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            body = textwrap.indent("\n".join(blocks), "    ")
            (tmp_path / f"example_{number}.py").write_text(f"async def example() -> None:\n{body}", "utf-8")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        f"--config-file={ROOT}/pyproject.toml",
        f"--cache-dir={ROOT}/.mypy_cache",
    ]
    done = subprocess.run([*command, "."], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
