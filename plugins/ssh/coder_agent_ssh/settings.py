"""What an operator of a workspace says about SSH: ``[plugins.ssh]``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class SshSettings(BaseModel):
    """Whether, and how, the agent lets users in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = Field(default=True, description="serve SSH inside the tunnel, on ports 1 and 22")
    shell: str = Field(default="", description="the users' shell; empty = that of the account the agent runs as")
    motd_file: str = Field(default="/etc/motd", description="shown when a shell starts on a terminal; empty = nothing")
    forwarding: bool = Field(default=True, description="let users forward ports, sockets and their SSH agent")
    block_file_transfer: bool = Field(
        default=False,
        description="refuse sftp, and the commands scp, rsync and nc (a hint, no barrier: a shell can copy files, too)",
        json_schema_extra={"env": "CODER_AGENT_BLOCK_FILE_TRANSFER"},
    )
    client_timeout: float = Field(
        default=300.0,
        ge=0,
        description="seconds without a sign of life after which a client counts as gone; 0 = when the tunnel gives up",
    )
