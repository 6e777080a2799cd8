"""Runs the checks, one run at a time, and remembers the last report. Whoever asks meanwhile shares the run."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import anyio

from coder_agent.base.keys import NodePublic
from coder_agent.errors import CoderAgentError
from coder_agent.hooks.health import UNKNOWN, HealthCheck, HealthFinding, HealthWarning, Severity

from ..problems import Problem
from .report import HealthReport

logger = logging.getLogger("coder_agent.server")

SECTION_SECONDS = 60.0
"""For one check, whatever it does."""


class HealthMonitor:
    """`run` until cancelled, `report` meanwhile. Nothing happens until somebody asks.

    `refresh`: seconds for which a report is good enough.
    """

    def __init__(
        self,
        refresh: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.refresh = refresh
        self.checks: Sequence[HealthCheck] = ()
        self.alone: Sequence[HealthCheck] = ()
        """Those that measure time: each runs before the others, which keep the loop busy."""
        self.last: HealthReport | None = None
        self.runs = 0
        self.probe = secrets.token_urlsafe(32)
        """What our own visitors show instead of an account."""
        self.vouched: set[str] = set()
        """Node keys of relay checks that are going on, for relays that ask whom we know."""
        self._clock, self._wall = clock, wall
        self._at = float("-inf")
        self._wanted, self._done = anyio.Event(), anyio.Event()
        self._ended = False

    @property
    def all(self) -> Sequence[HealthCheck]:
        """Every check, in the order of the report."""
        return [*self.checks, *self.alone]

    async def report(self, *, force: bool) -> HealthReport:
        """The last report, or a new one if that is too old or `force`. Raises Problem 503 when the server stops."""
        if not force and self.last is not None and self._clock() - self._at < self.refresh:
            return self.last
        self._wanted.set()
        if not self._ended:
            await self._done.wait()
        if self._ended or self.last is None:
            raise Problem(503, "The server is shutting down.", detail="There will be no health report.")
        return self.last

    async def run(self, stopping: anyio.Event, *, background: bool) -> None:
        """Serve reports until `stopping`; with `background` there is a new one whenever the last is too old."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._serve, background)
                await stopping.wait()
                tasks.cancel_scope.cancel()
        finally:
            self._ended = True
            self._done.set()

    @contextmanager
    def vouch(self, key: NodePublic) -> Iterator[None]:
        """See `HealthContext.vouch`."""
        self.vouched.add(str(key))
        try:
            yield
        finally:
            self.vouched.discard(str(key))

    async def _serve(self, background: bool) -> None:
        while True:
            with anyio.move_on_after(self.refresh if background else None):
                await self._wanted.wait()
            self.last = await self._look()
            self._at = self._clock()
            # Only now: who asks while we look is content with this look.
            self._wanted = anyio.Event()
            done, self._done = self._done, anyio.Event()
            done.set()

    async def _look(self) -> HealthReport:
        self.runs += 1
        started = self._clock()
        found: dict[str, HealthFinding] = {}

        async def look(check: HealthCheck) -> None:
            found[check.name] = await _guarded(check)

        for check in self.alone:
            await look(check)
        async with anyio.create_task_group() as tasks:
            for check in self.checks:
                tasks.start_soon(look, check)
        ordered = {check.name: found[check.name] for check in self.all}
        report = HealthReport(self._wall(), ordered, self._clock() - started)
        self._log(report)
        return report

    def _log(self, report: HealthReport) -> None:
        """A line when it gets worse or better, not one per look."""
        before = self.last.severity if self.last is not None else Severity.OK
        if report.severity is not before:
            bad = [name for name, finding in report.findings.items() if finding.worst]
            level = logging.INFO if report.severity is Severity.OK else logging.WARNING
            logger.log(level, "health: %s%s", report.severity.word, f" ({', '.join(bad)})" if bad else "")


async def _guarded(check: HealthCheck) -> HealthFinding:
    """A check that hangs or fails is a finding, too."""
    try:
        with anyio.fail_after(SECTION_SECONDS):
            return await check.run()
    except TimeoutError:
        message = f"The check took longer than {SECTION_SECONDS:g} s."
    except CoderAgentError as error:
        message = error.message
    except Exception as error:
        logger.exception("the health check %s failed", check.name)
        message = f"The check itself failed: {type(error).__name__}: {error}"
    return HealthFinding(Severity.ERROR, HealthWarning(UNKNOWN, message))
