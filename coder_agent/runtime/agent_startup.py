"""What an agent says of itself when it starts, in the forms that every coder server takes."""

from __future__ import annotations

import os
import re

_NUMBERS = re.compile(r"v?(0|[1-9]\d*)(?:\.(0|[1-9]\d*))?(?:\.(0|[1-9]\d*))?")


def version_for_servers(version: str) -> str:
    """A version as Go programs write it: ``0.1.0`` → ``v0.1.0``, ``1.0rc2+g1a`` → ``v1.0.0-rc2+g1a``, junk ``v0.0.0``.

    A stock server refuses an agent at its start whose version is none.
    Source: coder coderd/agentapi/lifecycle.go (UpdateStartup), golang.org/x/mod/semver.
    """
    numbers = _NUMBERS.match(version)
    if numbers is None:
        return "v0.0.0"
    rest, plus, build = version[numbers.end() :].partition("+")
    words = [f"v{'.'.join(number or '0' for number in numbers.groups())}"]
    if before := _identifiers(rest):
        words.append(f"-{before}")
    if plus and (built := _identifiers(build)):
        words.append(f"+{built}")
    return "".join(words)


def _identifiers(text: str) -> str:
    """Letters, digits and hyphens between single dots; a number has no zero in front."""
    words = re.sub(r"[^0-9A-Za-z-]+", ".", text).strip(".-").split(".")
    return ".".join(word.lstrip("0") or "0" if word.isdigit() else word for word in words if word)


def expand_directory(directory: str) -> str:
    """A template's directory as a path of this machine: ``~`` and variables replaced, and what is relative lies in the
    home directory; "" stays. Source: coder agent/agent.go (expandDirectory)."""
    if not directory:
        return ""
    home = os.path.expanduser("~")
    expanded = os.path.expandvars(home + directory[1:] if directory == "~" or directory.startswith("~/") else directory)
    return os.path.join(home, expanded)
