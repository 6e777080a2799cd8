"""How `coder` and `coder-agent` begin: with so little that Ctrl-C during the imports ends them quietly."""

from __future__ import annotations

INTERRUPTED = 130
"""128 + SIGINT, as shells report it (cli/app.py has the same)."""


def coder() -> int:
    """`coder`. Returns the exit code."""
    try:
        from .app import main
    except KeyboardInterrupt:
        return INTERRUPTED
    return main()


def coder_agent() -> int:
    """`coder-agent`. Returns the exit code."""
    try:
        from .app import agent_main
    except KeyboardInterrupt:
        return INTERRUPTED
    return agent_main()
