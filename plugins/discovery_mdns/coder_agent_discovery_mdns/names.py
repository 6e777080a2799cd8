"""What a node is called on the LAN: something only those recognise who know the node's key already."""

from __future__ import annotations

from hashlib import sha256

from coder_agent.base.keys import NodePublic

SERVICE_TYPE = "_coder-tailnet._udp.local."
"""DNS-SD service type (RFC 6763 §7: at most 15 characters before the protocol)."""
NAME_SIZE = 16
"""Bytes of the hash that make the name: as hard to meet by chance as a UUID, and short enough for a DNS label (63)."""


def instance_name(key: NodePublic) -> str:
    """The instance (and host) name of the node with this key: 32 hex digits.

    A hash of the public key. It names no person and no machine, a stranger cannot dial with it, and it changes whenever
    the node starts with a fresh key.
    """
    return sha256(b"coder-tailnet mdns 1\0" + key.raw).digest()[:NAME_SIZE].hex()


def name_of(service: str) -> str:
    """The instance name within a full service name; "" if it is none of ours."""
    name, dot, rest = service.partition(".")
    return name.lower() if dot and rest.lower() == SERVICE_TYPE else ""
