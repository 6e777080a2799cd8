"""The section ``[plugins.terminal]``; read by the agent."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class TerminalSettings(BaseModel):
    """How an agent keeps terminals."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    idle_timeout: float = Field(300.0, gt=0, le=7 * 86400, allow_inf_nan=False)
    """Seconds after which a terminal that nobody looks at ends (coder agent/agent.go: 5 minutes)."""
    max_sessions: int = Field(64, ge=1, le=4096)
    """Terminals at once: each holds a process, a file and up to a megabyte."""
    max_viewers: int = Field(32, ge=1, le=1024)
    """Connections to one terminal."""
    shell: str = ""
    """The shell to start; empty: the user's login shell."""
