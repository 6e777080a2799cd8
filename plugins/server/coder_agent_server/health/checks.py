"""The server's own checks: it visits itself where users do, and asks its database how fast it is.

Source: coder coderd/healthcheck/{accessurl,websocket,database}.go.
"""

from __future__ import annotations

import secrets
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import anyio
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from coder_agent.errors import ApiError, CoderAgentError
from coder_agent.hooks import DialOptions
from coder_agent.hooks.health import HealthCheck, HealthFinding, HealthWarning, Severity
from coder_agent.http import open_websocket, request

from ..store.database import Database
from .report import milliseconds

FETCH_TIMEOUT = 10.0
"""Seconds for one visit to ourselves."""
ECHO_TIMEOUT = 5.0
"""Seconds for one message to come back."""
ECHOES = 3
PINGS = 5
PING_TIMEOUT = 10.0
"""Seconds for all pings of the database."""
SHOWN = 200
"""Characters of somebody else's answer that a report repeats."""
PROBE_HEADER = "Coder-Health-Probe"
"""Lets our own visit in at the echo without an account; worth nothing elsewhere."""


def _said(error: CoderAgentError) -> str:
    return f"{error.message} ({error.hint})" if error.hint else error.message


def _failed(code: str, message: str, details: Mapping[str, object]) -> HealthFinding:
    return HealthFinding(Severity.ERROR, HealthWarning(code, message), details=details)


@dataclass(slots=True)
class AccessUrlCheck:
    """Is there an access URL, and does it lead here? `configured` False: `url` is only where we listen."""

    url: str
    configured: bool
    dial: DialOptions
    name: str = "access_url"

    async def run(self) -> HealthFinding:
        """Fetch our own /healthz."""
        details: dict[str, object] = {
            "access_url": self.url,
            "reachable": False,
            "status_code": 0,
            "healthz_response": "",
        }
        try:
            answer = await request("GET", f"{self.url}/healthz", timeout=FETCH_TIMEOUT, options=self.dial)
        except CoderAgentError as error:
            message = f"This server does not reach itself at its access URL {self.url}: {_said(error)}"
            return _failed("EACS03", message, details)
        body = answer.body[: SHOWN * 4].decode("utf-8", "replace")[:SHOWN]
        details |= {"reachable": True, "status_code": answer.status, "healthz_response": body}
        warnings = []
        if not self.configured:
            message = f"No access URL is set: {self.url} is for this machine only. Set --access-url for others."
            warnings.append(HealthWarning("EACS01", message))
        if answer.status != 200:
            warnings.append(HealthWarning("EACS04", self._not_ok(answer.status, answer.headers.get("location", ""))))
        return HealthFinding(warnings=tuple(warnings), details=details, healthy=answer.status == 200)

    def _not_ok(self, status: int, location: str) -> str:
        where = f"{self.url}/healthz"
        if location:
            return f"{where} redirects to {location[:SHOWN]}: set --access-url to the address that users end up at."
        return f"{where} answers HTTP {status}, not 200: whatever answers there is not this server, or is in its way."


@dataclass(slots=True)
class WrongAccessUrl:
    """The access URL cannot be one."""

    url: str
    reason: str
    name: str = "access_url"

    async def run(self) -> HealthFinding:
        """Say so."""
        details = {"access_url": self.url, "reachable": False, "status_code": 0, "healthz_response": ""}
        return _failed("EACS02", f"The access URL {self.url!r} is not one: {self.reason}", details)


@dataclass(slots=True)
class WebsocketCheck:
    """Do WebSockets through the access URL arrive, and carry messages both ways?"""

    url: str
    probe: str
    dial: DialOptions
    name: str = "websocket"

    async def run(self) -> HealthFinding:
        """Dial our own echo."""
        details: dict[str, object] = {"body": "", "code": 0}
        try:
            stream = await open_websocket(
                f"{self.url}/api/v2/debug/ws",
                headers={PROBE_HEADER: self.probe},
                options=self.dial,
                timeout=FETCH_TIMEOUT,
            )
        except CoderAgentError as error:
            if isinstance(error, ApiError):
                details |= {"code": error.status, "body": error.message[:SHOWN]}
            hint = "a reverse proxy must pass the headers Upgrade and Connection on"
            return _failed("EWS01", f"No WebSocket through {self.url}: {error.message} ({hint})", details)
        details["code"] = 101
        try:
            for _ in range(ECHOES):
                sent = secrets.token_hex(16).encode()
                with anyio.fail_after(ECHO_TIMEOUT):
                    await stream.send(sent)
                    received = await stream.receive()
                if received != sent:
                    return _failed("EWS03", f"A WebSocket through {self.url} changes what is sent over it.", details)
        except TimeoutError:
            message = f"A WebSocket through {self.url} opens, but a message did not come back in {ECHO_TIMEOUT:g} s."
            return _failed("EWS02", message, details)
        except CoderAgentError as error:
            return _failed("EWS02", f"A WebSocket through {self.url} opens, but breaks: {_said(error)}", details)
        finally:
            with anyio.CancelScope(shield=True):
                await stream.aclose()
        return HealthFinding(details=details)


@dataclass(slots=True)
class DatabaseCheck:
    """Does the database answer, and soon? `threshold` in seconds."""

    database: Database
    threshold: float
    clock: Callable[[], float] = time.perf_counter
    name: str = "database"

    async def run(self) -> HealthFinding:
        """Ask for nothing, five times; the median counts."""
        taken: list[float] = []
        problem = f"the database did not answer within {PING_TIMEOUT:g} s"
        with anyio.move_on_after(PING_TIMEOUT):
            try:
                for _ in range(PINGS):
                    taken.append(await self._ping())
            except (SQLAlchemyError, OSError) as error:
                problem = f"the database cannot be asked: {getattr(error, 'orig', None) or error}"
        latency = statistics.median(taken) if taken else 0.0
        details = {
            "reachable": len(taken) == PINGS,
            "latency": milliseconds(latency),
            "latency_ms": round(latency * 1e3),
            "threshold_ms": round(self.threshold * 1e3),
        }
        if len(taken) < PINGS:
            return _failed("EDB01", f"{problem[0].upper()}{problem[1:]}.", details)
        if latency < self.threshold:
            return HealthFinding(details=details)
        message = (
            f"The database takes {latency * 1e3:.1f} ms to answer (median of {PINGS}), which is not below"
            f" {self.threshold * 1e3:g} ms: look at the disk and the load of its machine, or raise"
            " --health-check-threshold-database."
        )
        return HealthFinding(warnings=(HealthWarning("EDB02", message),), details=details)

    async def _ping(self) -> float:
        started = self.clock()
        async with self.database.read() as session:
            await session.execute(text("SELECT 1"))
        return self.clock() - started


@dataclass(slots=True)
class MapSources:
    """The plugin's check of the relay map (None: there is none), and what its sources said.

    `failures`: why a source could not be asked the last time.
    """

    check: HealthCheck | None
    failures: Mapping[str, str]
    name: str = "derp"

    async def run(self) -> HealthFinding:
        """Check, and add a warning per source that failed."""
        if self.check is None:
            missing = "No plugin checks relays: install coder-agent-nat-traversal, or enable its plugin."
            details: dict[str, object] = {"regions": {}, "netcheck": None, "netcheck_logs": []}
            found = HealthFinding(warnings=(HealthWarning("EUNKNOWN", missing),), details=details)
        else:
            found = await self.check.run()
        late = tuple(
            HealthWarning("EUNKNOWN", f"The relay map's source {name} failed; what it said last stays in force: {why}")
            for name, why in sorted(self.failures.items())
        )
        return HealthFinding(found.severity, found.error, (*found.warnings, *late), found.details, found.healthy)
