"""How users name a workspace on the command line: ``[owner/]workspace[.agent]``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*\Z")


@dataclass(frozen=True, slots=True)
class WorkspaceName:
    """A parsed workspace argument. `owner` is ``me`` unless given; `agent` is empty if the only one is meant."""

    owner: str
    workspace: str
    agent: str = ""

    @classmethod
    def parse(cls, text: str) -> WorkspaceName:
        """Raises ConfigError with the expected form."""
        owner, slash, rest = text.rpartition("/")
        workspace, dot, agent = rest.partition(".")
        parts = [workspace, *([owner] if slash else []), *([agent] if dot else [])]
        if not all(_NAME.match(part) for part in parts):
            raise ConfigError(
                f"{text!r} is not a workspace name",
                hint="write [owner/]workspace[.agent], for example dev, alice/dev or dev.main",
            )
        return cls(owner or "me", workspace, agent)

    def __str__(self) -> str:
        text = self.workspace if self.owner == "me" else f"{self.owner}/{self.workspace}"
        return f"{text}.{self.agent}" if self.agent else text
