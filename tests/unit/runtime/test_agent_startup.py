from __future__ import annotations

import pytest

from coder_agent import __version__
from coder_agent.runtime.agent_startup import expand_directory, version_for_servers


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("0.1.0", "v0.1.0"),
        ("v2.20.0", "v2.20.0"),
        ("1.2", "v1.2.0"),
        ("1", "v1.0.0"),
        ("1.0rc2", "v1.0.0-rc2"),
        ("1.0.0.dev07+local.1_2", "v1.0.0-dev07+local.1.2"),
        ("1.2.3.4", "v1.2.3-4"),
        ("1.2.3+007", "v1.2.3+7"),
        ("1.2.3+", "v1.2.3"),
        ("", "v0.0.0"),
        ("main", "v0.0.0"),
    ],
    ids=["plain", "go", "two", "one", "candidate", "local", "four", "zeros", "empty-build", "nothing", "junk"],
)
def test_a_stock_server_takes_our_version(ours: str, theirs: str) -> None:
    assert version_for_servers(ours) == theirs


def test_our_own_version_keeps_its_numbers() -> None:
    assert version_for_servers(__version__).startswith(f"v{__version__.split('.')[0]}.")


@pytest.mark.parametrize(
    ("named", "path"),
    [
        ("", ""),
        ("~", "/home/alice"),
        ("~/code", "/home/alice/code"),
        ("code", "/home/alice/code"),
        ("$PLACE/code", "/srv/code"),
        ("/srv", "/srv"),
        ("~bob", "/home/alice/~bob"),
    ],
    ids=["none", "home", "in-home", "relative", "variable", "absolute", "not-a-user"],
)
def test_a_directory_is_a_path_of_this_machine(named: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/alice")
    monkeypatch.setenv("PLACE", "/srv")
    assert expand_directory(named) == path
