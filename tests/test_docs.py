"""What the documents say is true: every hook with its signature, every key, every example."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from coder_agent.hooks.contract import HOOKS, check_contract
from coder_agent.hooks.core_settings import CORE_SECTIONS

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "coder-agent-hello"
HOOKS_PAGE = (ROOT / "docs" / "plugins.md").read_text("utf-8")
CONFIGURATION_PAGE = (ROOT / "docs" / "configuration.md").read_text("utf-8")
GENERATED = ("reference/commands.md", "reference/settings.md")
"""Pages of the site that scripts/docs_pages.py makes; tests/test_docs_site.py builds them."""
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("plugins/*/README.md")])


def section(title: str) -> str:
    """The text under ``### title``."""
    found = re.search(rf"^### {title}\n(.*?)(?=^##|\Z)", HOOKS_PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, f"docs/plugins.md has no section {title}"
    return found[1]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("hook", HOOKS.values(), ids=lambda hook: hook.name)
def test_every_hook_is_documented_with_its_exact_signature(hook: object) -> None:
    name, signature = hook.name, hook.signature  # type: ignore[attr-defined]
    assert section(name).strip().startswith(f"`{signature}`\n")


@pytest.mark.parametrize("name", HOOKS)
def test_the_example_of_every_hook_keeps_the_contract(name: str) -> None:
    (example,) = blocks(section(name), "python")
    module = ModuleType("example")
    exec(compile(example, f"docs/plugins.md, {name}", "exec"), module.__dict__)
    assert check_contract("example", module) == (name,)


def test_no_hook_is_documented_that_does_not_exist() -> None:
    assert re.findall(r"^### (coder_\w+)", HOOKS_PAGE, re.MULTILINE) == list(HOOKS)


def test_the_tutorial_is_the_example() -> None:
    assert (EXAMPLE / "coder_agent_hello.py").read_text("utf-8") in blocks(HOOKS_PAGE, "python")
    assert (EXAMPLE / "pyproject.toml").read_text("utf-8") in blocks(HOOKS_PAGE, "toml")


@pytest.mark.parametrize(
    ("name", "model", "key"),
    [(name, model, key) for name, model in CORE_SECTIONS.items() for key in model.model_fields],
)
def test_every_core_key_is_documented_with_its_variable(name: str, model: type, key: str) -> None:
    (row,) = [line for line in CONFIGURATION_PAGE.splitlines() if line.startswith(f"| `{name}.{key}` |")]
    extra = model.model_fields[key].json_schema_extra  # type: ignore[attr-defined]
    variable = extra["env"] if extra else None
    assert row.split("|")[2].strip() == (f"`{variable}`" if variable else "")


def test_no_core_key_is_documented_that_does_not_exist() -> None:
    documented = re.findall(r"^\| `(\w+)\.(\w+)` \|", CONFIGURATION_PAGE, re.MULTILINE)
    assert documented == [(name, key) for name, model in CORE_SECTIONS.items() for key in model.model_fields]


def test_the_configuration_example_is_valid_toml() -> None:
    text = blocks(CONFIGURATION_PAGE, "toml")[0]
    assert set(tomllib.loads(text)) == {*CORE_SECTIONS, "plugins"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_in_documents_is_python(page: Path) -> None:
    for block in blocks(page.read_text("utf-8"), "python"):
        compile(block, str(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_documents_name_exist(page: Path) -> None:
    """Paths in backticks that start in a folder of ours; a dead pointer is worse than none."""
    text = page.read_text("utf-8")
    named = re.findall(r"`((?:coder_agent|plugins|docs|tests|scripts|examples|bench)/[\w./-]*\w)`", text)
    missing = [name for name in named if not (ROOT / name).exists() and not (page.parent / name).exists()]
    assert missing == []


def test_make_targets_in_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"`?make (\w+)", (ROOT / "README.md").read_text("utf-8")):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_version_is_the_same_everywhere() -> None:
    import coder_agent

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["version"] == coder_agent.__version__
    assert f"## {coder_agent.__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text("utf-8"))
    assert [link for link in links if link not in GENERATED and not (page.parent / link).exists()] == []
