"""What a coder server's health report is made of, and how a plugin adds to it.

Source: coder codersdk/healthsdk/healthsdk.go (BaseReport), coderd/healthcheck/health/model.go (severities, codes).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ..base.derp_map import DerpMap
    from ..base.keys import NodePublic
    from .settings import Settings

UNKNOWN = "EUNKNOWN"
"""The code for what has none of its own."""

REMEDIES: Mapping[str, str] = {
    "EACS01": "set --access-url to the address that users and agents can reach",
    "EACS02": "write --access-url like https://coder.example.com",
    "EACS03": "check DNS, firewall, certificate and proxy between this server and its access URL",
    "EACS04": "see what answers there: a reverse proxy, a login page, another server",
    "EWS01": "let the reverse proxy pass the headers Upgrade and Connection, over HTTP/1.1",
    "EWS02": "let the reverse proxy keep idle WebSockets open, and buffer nothing",
    "EWS03": "something in between rewrites WebSocket messages: take it out of the way",
    "EDB01": "see the server's log; check that the disk is not full and the database's machine is up",
    "EDB02": "look at the disk and the load of the database's machine",
    "EDERP01": "let the reverse proxy pass `Upgrade: DERP`, or accept slower relayed connections",
    "EDERP02": "see why that relay does not answer; others carry its users meanwhile, if its region has any",
    "ESTUN01": "open UDP to a STUN server of the relay map (the server's own is UDP 3478), or name one",
    "ESTUN02": "the server is behind a hard NAT: forward a UDP port to it if it must have direct connections",
    "EIF01": "raise that interface's MTU",
}
"""What to do about a code, as CLI and dashboard say it. Their source: coder coderd/healthcheck/health/model.go."""


class Severity(IntEnum):
    """How bad it is; the greater, the worse."""

    OK = 0
    WARNING = 1
    ERROR = 2

    @property
    def word(self) -> str:
        """As documents have it."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class HealthWarning:
    """One remark: a stable code, and a sentence that says what happened and what to do."""

    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


@dataclass(frozen=True, slots=True)
class HealthFinding:
    """What a check found: a section of the report. `error` is what makes the section useless, `details` its own fields.

    `severity` is at least WARNING with warnings and at least ERROR with an error; no need to state that. `healthy` None
    = unless the severity is ERROR.
    """

    severity: Severity = Severity.OK
    error: HealthWarning | None = None
    warnings: tuple[HealthWarning, ...] = ()
    details: Mapping[str, object] = field(default_factory=dict)
    healthy: bool | None = None

    @property
    def worst(self) -> Severity:
        """The severity, all considered."""
        if self.error is not None:
            return Severity.ERROR
        return max(self.severity, Severity.WARNING) if self.warnings else self.severity

    @property
    def is_healthy(self) -> bool:
        """Does what was checked do its work?"""
        return self.worst is not Severity.ERROR if self.healthy is None else self.healthy


class HealthContext(Protocol):
    """What a server hands to `coder_health_checks`."""

    @property
    def settings(self) -> Settings:
        """The effective configuration."""
        ...

    @property
    def access_url(self) -> str:
        """The one address at which users and agents reach the server, without a trailing slash."""
        ...

    @property
    def force_websockets(self) -> bool:
        """Are relays to be used by WebSocket only?"""
        ...

    @property
    def direct_allowed(self) -> bool:
        """May anybody have direct connections?"""
        ...

    def derp_map(self) -> DerpMap:
        """The relay map in force."""
        ...

    def vouch(self, key: NodePublic) -> AbstractContextManager[None]:
        """Within the block, relays that ask this server whom it knows are told that it knows `key`."""
        ...


class HealthCheck(Protocol):
    """Checks one thing. `name` is the section of the report: ``derp``, or a name of your own."""

    name: str

    async def run(self) -> HealthFinding:
        """Look, now. Given up after 60 s, cancelled when the server stops. What it raises is the section's error."""
        ...
