"""Rules for every test of the repository, the plugins' included.

* anyio tests run on asyncio, the backend that the data path is tuned for.
* In CI (``CI=true``) a test that needs a foreign program or a network namespace may not be skipped: a skip fails.
* With ``pytest -n``, tests in network namespaces share one worker and other tests on real programs another, so that
  they disturb each other as little as two cores allow.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator

import hypothesis
import pytest

# A unit test is never timed: on a busy machine any example may take long.
hypothesis.settings.register_profile("house", deadline=None)
hypothesis.settings.load_profile("house")

PROGRAM_MARKERS = ("foreign", "slow")
NEVER_SKIPPED_IN_CI = ("foreign", "netns")


def pytest_configure() -> None:
    """A shell lets what it starts in the background ignore Ctrl-C, `nohup` hang-ups: every program of the tests would
    inherit it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda number, frame: None)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may be a user of the program: their server, token and plugins are not ours."""
    for name in [name for name in os.environ if name.startswith("CODER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CODER_PLUGIN_DISCOVERY_MDNS__ENABLED", "false")  # tests say nothing on the real LAN


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("netns"):
            item.add_marker(pytest.mark.xdist_group("netns"))
        elif any(item.get_closest_marker(name) for name in PROGRAM_MARKERS):
            item.add_marker(pytest.mark.xdist_group("programs"))


def _in_ci() -> bool:
    return os.environ.get("CI", "").lower() in ("1", "true")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    marked = any(item.get_closest_marker(name) for name in NEVER_SKIPPED_IN_CI)
    if report.skipped and marked and _in_ci() and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} may not be skipped in CI: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A module that skips itself while it is imported hides its markers with it."""
    report = yield
    if report.skipped and _in_ci():
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} may not skip itself in CI: {report.longrepr}"
    return report
