"""What a workspace's shell starts with: which shell, where, and its variables."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from pathlib import Path

from coder_agent.hooks import AgentFacts

_SECRETS = ("CODER_AGENT_TOKEN", "CODER_AGENT_TOKEN_FILE", "CODER_SESSION_TOKEN")
"""The agent's own credentials are nothing for the programs of its user."""


def login_shell(chosen: str = "") -> str:
    """`chosen`, else the user's shell from the password file, else $SHELL, else /bin/sh."""
    candidates = [chosen]
    try:
        candidates.append(pwd.getpwuid(os.getuid()).pw_shell)
    except KeyError:  # containers run under numbers that no file knows
        pass
    candidates += [os.environ.get("SHELL", ""), "/bin/sh"]
    return next(shell for shell in candidates if shell and (shell == chosen or os.access(shell, os.X_OK)))


def shell_command(shell: str, command: str) -> list[str]:
    """A login shell, or that shell with one line (coder agent/agentssh/agentssh.go: ``-l`` and ``-c``)."""
    return [shell, "-c", command] if command else [shell, "-l"]


def home_directory() -> str:
    """$HOME if it exists, else what the password file says, else the root."""
    homes = [os.environ.get("HOME", "")]
    try:
        homes.append(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        pass
    return next((home for home in homes if home and Path(home).is_dir()), "/")


def start_directory(facts: AgentFacts) -> str:
    """The workspace's directory if it has one that exists, else the home."""
    home = home_directory()
    wanted = os.path.expandvars(facts.directory)
    if wanted == "~" or wanted.startswith("~/"):
        wanted = home + wanted[1:]
    return wanted if wanted and Path(wanted).is_absolute() and Path(wanted).is_dir() else home


def shell_environment(facts: AgentFacts, shell: str, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """The agent's own environment without its credentials, the workspace's, and what every Coder shell has.

    Source: coder agent/agentssh/agentssh.go (CODER, CODER_WORKSPACE_*), agent/reconnectingpty (TERM).
    """
    inherited = os.environ if base is None else base
    environ = {name: value for name, value in inherited.items() if name not in _SECRETS}
    environ.setdefault("HOME", home_directory())
    environ.setdefault("LANG", "C.UTF-8")
    environ |= facts.environment
    return environ | {
        "SHELL": shell,
        "TERM": "xterm-256color",
        "CODER": "true",
        "CODER_AGENT_URL": facts.url,
        "CODER_WORKSPACE_NAME": facts.workspace_name,
        "CODER_WORKSPACE_OWNER_NAME": facts.owner_username,
        "CODER_WORKSPACE_AGENT_NAME": facts.agent_name,
        "CODER_WORKSPACE_ID": str(facts.workspace_id),
    }
