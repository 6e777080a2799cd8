"""How this server calls itself."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

API_MAJOR = 2
API_MINOR = 10
"""The tailnet and agent API that we speak. Higher minors are accepted too: a missing call is answered with code 12."""


def package_version() -> str:
    """The version of this package; ``0.0.0`` when it runs from a checkout that was never installed."""
    try:
        return version("coder-agent-server")
    except PackageNotFoundError:
        return "0.0.0"


def build_version(name: str) -> str:
    """``v0.0.0-<name>+<version>``: a v0.0.0 silences the version warnings of every stock client."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c == "-") else "-" for c in name).strip("-")
    return f"v0.0.0-{kept or 'coder-agent'}+{package_version()}"
