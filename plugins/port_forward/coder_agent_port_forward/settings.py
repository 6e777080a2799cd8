"""What may be forwarded beside the workspace's own ports: ``[plugins.port_forward]``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator

from .outbound import OutboundPolicy


class PortForwardSettings(BaseModel):
    """Of an agent: `outbound`, `reverse`. Of a client: `max_connections`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    outbound: str = Field(
        default="none",
        description="hosts beside the workspace's own loopback that users may reach through the agent (--socks): none, "
        "all, or a list of names, *.names, addresses and networks",
        json_schema_extra={"env": "CODER_AGENT_OUTBOUND"},
    )
    reverse: bool = Field(
        default=True,
        description="users may have ports of this workspace's loopback lead to their own machine (--reverse)",
        json_schema_extra={"env": "CODER_AGENT_REVERSE"},
    )
    max_connections: int = Field(
        default=2000,
        ge=1,
        le=4000,
        description="connections that one `coder port-forward` holds at once; more are reset",
        json_schema_extra={"env": "CODER_PORT_FORWARD_MAX_CONNECTIONS"},
    )

    @field_validator("outbound")
    @classmethod
    def _readable(cls, text: str) -> str:
        OutboundPolicy.parse(text)
        return text
