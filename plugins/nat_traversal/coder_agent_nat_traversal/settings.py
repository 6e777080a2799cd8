"""What a user may say about NAT traversal: ``[plugins.nat_traversal]``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator

from coder_agent.base.addresses import AddrPort
from coder_agent.protocols.portmap.values import Protocol


class NatSettings(BaseModel):
    """Which ways of finding endpoints are used."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stun: bool = Field(default=True, description="ask the relay map's STUN servers for our address")
    local: bool = Field(default=True, description="offer the addresses of this machine's network interfaces")
    endpoints: tuple[str, ...] = Field(
        default=(), description="further endpoints, ip:port, at which this node is reachable (a manual port forward)"
    )
    stun_local_port: bool | None = Field(
        default=None,
        description="behind a NAT with another port per destination, also offer its address with our local port: "
        "for a manual port forward on a changing address (unset: when a fixed port was asked for)",
    )

    port_mapping: bool = Field(
        default=True, description="ask the home router to open a port, by the protocols that the next three switch"
    )
    pmp: bool = Field(default=True, description="ask the router by NAT-PMP")
    pcp: bool = Field(default=True, description="ask the router by PCP")
    upnp: bool = Field(default=True, description="ask the router by UPnP")
    captive_portal_urls: tuple[str, ...] = Field(
        default=(),
        description="pages that answer 204, asked when looking for a captive portal beside the relays that serve "
        "port 80; by default nobody else is asked",
    )

    @field_validator("endpoints", "captive_portal_urls", mode="before")
    @classmethod
    def _are_listed(cls, value: object) -> object:
        if isinstance(value, str):
            raise ValueError(f'must be a list, as in ["{value}"]')
        return value

    @field_validator("endpoints")
    @classmethod
    def _are_endpoints(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(AddrPort.parse(text)) for text in value)

    @field_validator("captive_portal_urls")
    @classmethod
    def _are_plain(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for url in value:
            if not url.startswith("http://"):
                raise ValueError(f"{url!r} must start with http://: nobody can answer in the name of an https:// page")
        return value

    def mapping_protocols(self) -> frozenset[Protocol]:
        """Protocols by which the router may be asked; none = it is left alone."""
        switches = {Protocol.PMP: self.pmp, Protocol.PCP: self.pcp, Protocol.UPNP: self.upnp}
        return frozenset(protocol for protocol, is_on in switches.items() if is_on and self.port_mapping)

    def static_endpoints(self) -> tuple[AddrPort, ...]:
        """`endpoints` as values."""
        return tuple(AddrPort.parse(text) for text in self.endpoints)
