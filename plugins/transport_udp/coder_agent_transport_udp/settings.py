"""What a user may say about the UDP transport: ``[plugins.transport_udp]``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

BUFFER_BYTES = 7 << 20
"""Socket buffers asked for, both ways. Source: tailscale wgengine/magicsock/magicsock.go (socketBufferSize)."""


class UdpSettings(BaseModel):
    """Ports, address families, buffers and offload of the data sockets."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    port: int = Field(
        default=0, ge=0, le=65535, description="local UDP port; 0 = any. Taken: any other is used instead"
    )
    ipv4: bool = Field(default=True, description="use IPv4")
    ipv6: bool = Field(default=True, description="use IPv6; a host without it is no error")
    offload: Literal["auto", "off"] = Field(
        default="auto", description="off = one system call per packet, as without a kernel's help"
    )
    gso: bool = Field(
        default=True, description="with offload = auto: let the kernel cut a burst into packets (Linux 4.18)"
    )
    gro: bool = Field(
        default=True, description="with offload = auto: let the kernel hand over packets in bursts (Linux 5.0)"
    )
    receive_buffer: int = Field(
        default=BUFFER_BYTES, ge=4096, description="receive buffer to ask the kernel for, bytes"
    )
    send_buffer: int = Field(default=BUFFER_BYTES, ge=4096, description="send buffer to ask the kernel for, bytes")

    @property
    def use_gso(self) -> bool:
        """Whether to try UDP_SEGMENT."""
        return self.gso and self.offload == "auto"

    @property
    def use_gro(self) -> bool:
        """Whether to try UDP_GRO."""
        return self.gro and self.offload == "auto"
