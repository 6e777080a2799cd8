"""What users write behind ``--tcp``, ``--udp``, ``--reverse`` and ``--socks``, read into forwards. Pure.

    SPEC = [ADDRESS:]PORT[-END][:PORT[-END]]     several with commas; an IPv6 address in brackets

Source: coder cli/portforward.go (parsePortForwards) and its tests for what is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address

from coder_agent.errors import ConfigError

FIRST_PORT = 9
"""Ports below belong to the agent itself inside the tunnel; 1 and 2 are SSH and terminal (coder tailnet/conn.go)."""
MAX_PORT = 65_535
MAX_FORWARDS = 1000
"""Forwards of one command: each holds two sockets."""
EXAMPLES = "8080, 8080:80, 8000-8010:9000-9010, 127.0.0.2:8080:80 or [::1]:8080:80"
_SPEC = re.compile(
    r"(?:(?P<address>\[[^\]]*\]|[^:\[\]]*):)??(?P<local>\d+)(?:-(?P<local_end>\d+))?"
    r"(?::(?P<remote>\d+)(?:-(?P<remote_end>\d+))?)?",
    re.ASCII,
)


class Protocol(StrEnum):
    """What is forwarded."""

    TCP = "tcp"
    UDP = "udp"


@dataclass(frozen=True, slots=True)
class Forward:
    """One port. `address` None: both loopback addresses, as far as there are both.

    For ``--reverse`` `remote` is the workspace's port, and `local` the user's, which it leads to.
    """

    protocol: Protocol
    local: int
    remote: int
    address: IPv4Address | IPv6Address | None = None

    @property
    def local_host(self) -> str:
        """The local address as URLs have it; the sure one of the two where none was given."""
        if self.address is None:
            return "127.0.0.1"
        return f"[{self.address}]" if self.address.version == 6 else str(self.address)

    @property
    def local_url(self) -> str:
        """``tcp://127.0.0.1:8080``."""
        return f"{self.protocol}://{self.local_host}:{self.local}"

    @property
    def remote_url(self) -> str:
        """Where it leads, as the workspace sees it."""
        return f"{self.protocol}://127.0.0.1:{self.remote}"


def parse_forwards(tcp: Iterable[str], udp: Iterable[str]) -> list[Forward]:
    """All forwards, in the order in which they were given. Raises ConfigError for what makes no sense."""
    found = [
        forward
        for protocol, specs in ((Protocol.TCP, tcp), (Protocol.UDP, udp))
        for spec in _split(specs)
        for forward in _parse(protocol, spec, f"--{protocol} {spec}")
    ]
    seen: set[tuple[Protocol, object, int]] = set()
    for forward in found:
        place = (forward.protocol, forward.address or ip_address("127.0.0.1"), forward.local)
        if place in seen:
            raise ConfigError(
                f"{forward.local_url} is asked for twice", hint="one local port leads to one port of the workspace"
            )
        seen.add(place)
    return found


def parse_reverse(specs: Iterable[str]) -> list[Forward]:
    """``--reverse REMOTE[:LOCAL]``: ports of the workspace that lead to the user's own. Raises ConfigError."""
    found = []
    for spec in _split(specs):
        for forward in _parse(Protocol.TCP, spec, f"--reverse {spec}", least=1):
            if forward.address is not None:
                raise ConfigError(
                    f"--reverse {spec}: no address, please",
                    hint="the workspace listens on its loopback only; write WORKSPACE_PORT[:LOCAL_PORT]",
                )
            found.append(Forward(Protocol.TCP, local=forward.remote, remote=forward.local))
    ports = [forward.remote for forward in found]
    for port in ports:
        if ports.count(port) > 1:
            raise ConfigError(f"--reverse {port}: this port of the workspace is asked for twice")
    return found


def parse_socks(text: str) -> Forward:
    """``--socks [ADDRESS:]PORT``: where the proxy listens (`remote` has no meaning). Raises ConfigError."""
    option = f"--socks {text}"
    found = _parse(Protocol.TCP, text.strip(), option, least=1)
    if len(found) != 1 or found[0].local != found[0].remote:
        raise ConfigError(f"{option}: one port, please", hint="for example --socks 1080 or --socks [::1]:1080")
    return found[0]


def _split(specs: Iterable[str]) -> list[str]:
    return [part.strip() for text in specs for part in text.split(",") if part.strip()]


def _parse(protocol: Protocol, spec: str, option: str, *, least: int = FIRST_PORT) -> list[Forward]:
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise ConfigError(f"{option}: this is not a port forward", hint=f"write {EXAMPLES}")
    address = _address(match["address"], option) if match["address"] is not None else None
    local = _range(match["local"], match["local_end"], option)
    remote = _range(match["remote"], match["remote_end"], option) if match["remote"] else local
    if len(local) != len(remote):
        raise ConfigError(
            f"{option}: {len(local)} local ports cannot lead to {len(remote)} ports of the workspace",
            hint="both ranges must be equally long, for example 8000-8010:9000-9010",
        )
    if len(local) > MAX_FORWARDS:
        raise ConfigError(
            f"{option}: {len(local)} ports are too many for one command (at most {MAX_FORWARDS})",
            hint="--socks PORT reaches every port of the workspace through one",
        )
    if remote[0] < least:
        raise ConfigError(
            f"{option}: ports below {FIRST_PORT} of a workspace belong to its agent and are not forwarded",
            hint="`coder ssh`, the web terminal and `coder speedtest` are what they are for",
        )
    return [Forward(protocol, a, b, address) for a, b in zip(local, remote, strict=True)]


def _address(text: str, option: str) -> IPv4Address | IPv6Address:
    bare = text[1:-1] if text.startswith("[") else text
    try:
        address = ip_address(bare)
    except ValueError:
        hint = "IPv6 addresses go in brackets: [::1]:8080:80" if ":" in option else f"write {EXAMPLES}"
        raise ConfigError(f"{option}: {bare!r} is not an IP address", hint=hint) from None
    if (address.version == 6) != text.startswith("["):
        raise ConfigError(f"{option}: brackets are for IPv6 addresses", hint=f"write {EXAMPLES}")
    return address


def _range(first: str, last: str | None, option: str) -> range:
    ends = [int(text[:6]) if text else int(first[:6]) for text in (first, last)]
    for end in ends:
        if not 1 <= end <= MAX_PORT:
            raise ConfigError(f"{option}: there is no port {end}", hint=f"ports go from 1 to {MAX_PORT}")
    if ends[1] < ends[0]:
        raise ConfigError(
            f"{option}: the range {first}-{last} ends before it begins", hint=f"write {ends[1]}-{ends[0]}"
        )
    return range(ends[0], ends[1] + 1)
