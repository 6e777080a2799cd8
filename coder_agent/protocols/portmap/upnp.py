"""UPnP port mapping as conversations: generators that yield HTTP requests to the gateway and are sent the responses.

A response of None means that there was none. The shell (a plugin) opens connections and counts seconds; what is asked,
in which order, and what an answer means, is decided here. Source: tailscale net/portmapper/upnp.go.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from ...base.addresses import AddrPort
from ...errors import RemoteProtocolError
from .igd import IP_2, MAX_SERVICES, Service, Target, on_gateway, parse_description
from .soap import SoapFault, encode_call, parse_answer
from .values import Site, UpnpGrant, refusal_of

DESCRIPTION = "coder-agent"
"""What a router's page shows beside the mapping."""
PORT_TRIES = 3
"""Outside ports tried on one device before it is given up."""
FIRST_PORT = 1024
"""Lower ports are often refused, and 0 would be all ports."""
INVALID_ACTION = frozenset({401, 501, 602})
ONLY_PERMANENT = frozenset({402, 725})
"""Faults that mean: without a lifetime, please. 402 (invalid arguments) is what some routers say instead of 725."""
CONFLICT = frozenset({718, 729})
"""The outside port is somebody else's."""
SAME_PORT = 724
"""Outside and inside port must be equal."""


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request to the gateway; GET without a body."""

    target: Target
    headers: dict[str, str]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP response; redirects are not followed."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Mapped:
    """A mapping that a service made: the service is asked to renew and to delete it."""

    service: Service
    grant: UpnpGrant


class UpnpFailed(Exception):
    """No mapping; `word` says why."""

    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.word = word


Conversation = Generator[Request, Response | None, dict[str, str]]


@dataclass(slots=True)
class UpnpClient:
    """Conversations about one port. `rng` chooses outside ports when the wanted one is taken."""

    site: Site
    rng: Callable[[int], bytes]

    def services(self, locations: Sequence[str]) -> Generator[Request, Response | None, list[Service]]:
        """What the devices at these LOCATIONs can do. Raises UpnpFailed if none can map ports."""
        found: list[Service] = []
        word = "no-device"
        for location in locations:
            try:
                target = on_gateway(location)
                response = yield Request(target, {})
                if response is None or response.status != 200:
                    word = "no-description"
                    continue
                found += parse_description(response.body, target)
                word = "no-service"
            except RemoteProtocolError:
                word = "bad-description"
        if not found:
            raise UpnpFailed(word)
        return list(dict.fromkeys(found))[:MAX_SERVICES]

    def map(
        self, services: Sequence[Service], wanted: int, lifetime: int
    ) -> Generator[Request, Response | None, Mapped]:
        """Map with the first service that does. Raises UpnpFailed."""
        if len(services) > 1:
            services = yield from self._by_status(services)
        word = "no-service"
        for service in services:
            try:
                return (yield from self._map_with(service, wanted, lifetime))
            except SoapFault as fault:
                word = f"fault-{fault.code}"
            except RemoteProtocolError:
                word = "bad-answer"
            except UpnpFailed as failed:
                word = failed.word
        raise UpnpFailed(word)

    def delete(self, service: Service, external: int) -> Conversation:
        """Give a mapping back. Raises RemoteProtocolError, UpnpFailed."""
        arguments = [("NewRemoteHost", ""), ("NewExternalPort", str(external)), ("NewProtocol", "UDP")]
        return (yield from self._call(service, "DeletePortMapping", arguments))

    # ------------------------------------------------------------ inside

    def _by_status(self, services: Sequence[Service]) -> Generator[Request, Response | None, list[Service]]:
        """Those that are connected first, with a public address before a private one."""
        ranks: dict[Service, int] = {}
        for service in services:
            try:
                status = yield from self._call(service, "GetStatusInfo", [])
                answer = yield from self._call(service, "GetExternalIPAddress", [])
                is_up = status.get("NewConnectionStatus") in ("Connected", "Up")
                address = IPv4Address(answer.get("NewExternalIPAddress", ""))
                ranks[service] = (0 if address.is_global else 1) if is_up else 3
            except (RemoteProtocolError, UpnpFailed, ValueError):
                ranks.setdefault(service, 3)
        return sorted(services, key=lambda service: ranks[service])

    def _map_with(self, service: Service, wanted: int, lifetime: int) -> Generator[Request, Response | None, Mapped]:
        port = yield from self._add(service, wanted, lifetime)
        address = (yield from self._call(service, "GetExternalIPAddress", [])).get("NewExternalIPAddress", "")
        external = AddrPort(address, port)
        word = refusal_of(external, lifetime, 0)
        if word:
            yield from self.delete(service, port)
            raise UpnpFailed(word)
        return Mapped(service, UpnpGrant(external, lifetime))

    def _add(self, service: Service, wanted: int, lifetime: int) -> Generator[Request, Response | None, int]:
        """Add the mapping, adapting to what the device cannot do; the outside port it has in the end."""
        port = wanted if wanted >= FIRST_PORT else self._random_port()
        lease, is_any, tries = lifetime, service.kind == IP_2, PORT_TRIES
        while True:
            try:
                return (yield from self._add_once(service, port, lease, is_any))
            except SoapFault as fault:
                if is_any and fault.code in INVALID_ACTION:
                    is_any = False
                elif lease and fault.code in ONLY_PERMANENT:
                    lease = 0
                elif fault.code == SAME_PORT and port != self.site.port:
                    port = self.site.port
                elif fault.code in CONFLICT and tries > 1:
                    port, tries = self._random_port(), tries - 1
                else:
                    raise

    def _add_once(
        self, service: Service, port: int, lease: int, is_any: bool
    ) -> Generator[Request, Response | None, int]:
        arguments = [
            ("NewRemoteHost", ""),
            ("NewExternalPort", str(port)),
            ("NewProtocol", "UDP"),
            ("NewInternalPort", str(self.site.port)),
            ("NewInternalClient", self.site.own),
            ("NewEnabled", "1"),
            ("NewPortMappingDescription", DESCRIPTION),
            ("NewLeaseDuration", str(lease)),
        ]
        answer = yield from self._call(service, "AddAnyPortMapping" if is_any else "AddPortMapping", arguments)
        if not is_any:
            return port
        reserved = answer.get("NewReservedPort", "")
        if not (reserved.isascii() and reserved.isdecimal() and len(reserved) <= 5 and 0 < int(reserved) <= 65535):
            raise UpnpFailed("granted-port-0")
        return int(reserved)

    def _call(self, service: Service, action: str, arguments: Sequence[tuple[str, str]]) -> Conversation:
        headers, body = encode_call(service, action, arguments)
        response = yield Request(service.control, headers, body)
        if response is None:
            raise UpnpFailed("no-answer")
        return parse_answer(response.status, response.body, action)

    def _random_port(self) -> int:
        return FIRST_PORT + int.from_bytes(self.rng(4), "big") % (65536 - FIRST_PORT)
