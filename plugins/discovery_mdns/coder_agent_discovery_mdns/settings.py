"""What a user may say about mDNS discovery: ``[plugins.discovery_mdns]``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class MdnsSettings(BaseModel):
    """Whether, and where, this node announces itself and looks for others."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = Field(default=True, description="announce this node on its LANs and look for its peers there")
    interfaces: tuple[str, ...] = Field(
        default=(), description="network interfaces to use, by name; empty = every one that reaches a LAN"
    )
