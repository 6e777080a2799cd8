"""What a user's processes find in their environment. Pure: everything comes in, a mapping goes out.

Source: coder agent/agentssh/agentssh.go (CreateCommand), OpenSSH session.c (do_setup_env).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

MAX_NAME = 256
MAX_VALUE = 64 << 10
"""Bytes of one value. Linux starts no program with a string above 128 KiB (MAX_ARG_STRLEN)."""
MAX_SENT = 256 << 10
"""Bytes that a client may send in all: an eighth of what Linux allows programs by default, arguments included."""
MAX_COUNT = 1024
PRIVATE = ("CODER_AGENT_TOKEN", "CODER_AGENT_TOKEN_FILE", "CODER_SESSION_TOKEN")
"""The agent's own; a user's process has no use for them."""
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z")
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Account:
    """Whom the processes run as."""

    name: str
    home: str
    shell: str


@dataclass(frozen=True, slots=True)
class Place:
    """Which workspace this is, as the agent's server says."""

    workspace: str = ""
    agent: str = ""
    owner: str = ""
    url: str = ""
    directory: str = ""
    environment: Mapping[str, str] | None = None


def base_environment(inherited: Mapping[str, str], account: Account, place: Place) -> dict[str, str]:
    """The agent's environment without its secrets, the account, and where this is."""
    environment = {
        name: value for name, value in inherited.items() if name not in PRIVATE and not name.startswith("CODER_PLUGIN")
    }
    environment.setdefault("PATH", DEFAULT_PATH)
    environment |= {
        "USER": account.name,
        "LOGNAME": account.name,
        "HOME": account.home,
        "SHELL": account.shell,
        "CODER": "true",
        "CODER_WORKSPACE_NAME": place.workspace,
        "CODER_WORKSPACE_AGENT_NAME": place.agent,
        "CODER_WORKSPACE_OWNER_NAME": place.owner,
        "CODER_URL": place.url,
    }
    for name, value in (place.environment or {}).items():
        environment[name] = os.path.expandvars(value) if "$" in value else value
    return environment


def accepted(sent: Mapping[bytes, bytes]) -> tuple[dict[str, str], list[str]]:
    """What a client sent, within bounds, and the names (shortened) of what was left out."""
    taken: dict[str, str] = {}
    refused: list[str] = []
    size = 0
    for raw_name, raw_value in sent.items():
        name = raw_name.decode("utf-8", "replace")
        size += len(raw_name) + len(raw_value) + 2
        fits = len(raw_value) <= MAX_VALUE and size <= MAX_SENT and len(taken) < MAX_COUNT
        if fits and len(name) <= MAX_NAME and NAME.match(name) and b"\0" not in raw_value:
            taken[name] = os.fsdecode(raw_value)
        else:
            size -= len(raw_name) + len(raw_value) + 2
            refused.append(ascii(name[:40])[1:-1])
    return taken, refused


def directory(place: Place, account: Account, exists: object = os.path.isdir) -> str:
    """Where a session begins: the workspace's directory if it has one, else home, else the root."""
    assert callable(exists)
    wanted = place.directory
    if wanted == "~" or wanted.startswith("~/"):
        wanted = account.home + wanted[1:]
    wanted = os.path.expandvars(wanted)
    for candidate in (wanted, account.home):
        if candidate and os.path.isabs(candidate) and exists(candidate):
            return candidate
    return "/"
