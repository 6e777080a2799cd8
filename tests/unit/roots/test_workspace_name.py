"""Workspace arguments."""

from __future__ import annotations

import pytest

from coder_agent.errors import ConfigError
from coder_agent.workspace_name import WorkspaceName


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dev", WorkspaceName("me", "dev")),
        ("alice/dev", WorkspaceName("alice", "dev")),
        ("dev.main", WorkspaceName("me", "dev", "main")),
        ("alice/my-dev.gpu-1", WorkspaceName("alice", "my-dev", "gpu-1")),
    ],
)
def test_the_three_parts(text: str, expected: WorkspaceName) -> None:
    assert WorkspaceName.parse(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text", ["", "/dev", "alice/", "dev.", ".main", "a b", "dev--x", "../dev", "a/b/c", "dév", "dev\n"]
)
def test_what_is_not_a_name_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        WorkspaceName.parse(text)
    assert "owner/" in str(caught.value.hint)
