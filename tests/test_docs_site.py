"""The documents as a site: builds without a warning, has every command and setting, loads nothing from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

from coder_agent.hooks.core_settings import CORE_SECTIONS
from coder_agent.hooks.manager import build_plugin_manager

ROOT = Path(__file__).resolve().parent.parent
LOADED = re.compile(r"<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=\"([^\"]*)\"")
"""Addresses that a browser follows by itself."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def text_of(page: Path) -> str:
    return unescape(re.sub(r"<[^>]+>", "", page.read_text("utf-8")))


def test_every_command_is_in_the_reference(site: Path) -> None:
    text = text_of(site / "reference" / "commands.html")
    specs = build_plugin_manager(builtin=[("core", "coder_agent.cli.builtin")]).commands()
    shown = [spec for spec in specs if not spec.hidden]
    assert len(shown) > 15
    for spec in shown:
        assert " ".join(filter(None, [spec.program, spec.group, spec.name])) in text


def test_every_core_setting_is_in_the_reference(site: Path) -> None:
    text = text_of(site / "reference" / "settings.html")
    for section, model in CORE_SECTIONS.items():
        assert f"[{section}]" in text
        assert [key for key in model.model_fields if key not in text] == []


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    loaded = {address for page in site.rglob("*.html") for address in LOADED.findall(page.read_text("utf-8"))}
    assert len(loaded) > 10
    assert [address for address in loaded if re.match(r"(?:https?:)?//", address)] == []
