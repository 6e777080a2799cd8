"""Fixtures of the kernel's NAT laboratory: one internet for all, and machines that go with each test."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coder_agent.testing.netns import Host, Lab, unavailable
from coder_agent.testing.netns_deployment import Found, OutsideDeployment, Tls
from coder_agent.testing.netns_places import Internet, Visitors

REASON = unavailable() or (None if shutil.which("nft") else "nft (nftables) is not installed")


@pytest.fixture(scope="module")
def internet() -> Iterator[Internet]:
    """The part of the network that all tests of a module share."""
    if REASON is not None:
        pytest.skip(REASON)
    with Lab() as lab:
        yield Internet(lab)


@pytest.fixture(scope="module")
def outside_host(internet: Internet) -> Host:
    """A machine on the internet with two addresses."""
    return internet.server("server", 2)


@pytest.fixture
def guests(internet: Internet) -> Iterator[Visitors]:
    """Room for this test's machines."""
    with internet.visitors() as visitors:
        yield visitors


@pytest.fixture(scope="module")
def deployment(
    internet: Internet, outside_host: Host, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OutsideDeployment]:
    """A server that all cells of a module share."""
    folder = tmp_path_factory.mktemp("natlab")
    with OutsideDeployment(folder, outside_host, Tls.issue(folder, outside_host.address4)) as outside:
        outside.start()
        yield outside


# ---------------------------------------------------------------- the summary

RESULTS = Path(__file__).parents[2] / "build" / "natlab.json"
_results: list[dict[str, object]] = []


@pytest.fixture
def record_pair(request: pytest.FixtureRequest) -> Callable[[str, str, Found], None]:
    """Keep what became of a pair."""
    title = str(request.node.name).partition("[")[0].removeprefix("test_")

    def record(pair: str, expected: str, found: Found) -> None:
        seconds = found.after if found.kind == "direct" else None
        _results.append({"test": title, "pair": pair, "expected": expected, "kind": found.kind, "seconds": seconds})
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(_results, indent=2, ensure_ascii=False) + "\n")

    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How long each pair took."""
    if not _results:
        return
    terminalreporter.write_sep("-", f"NAT laboratory: {len(_results)} pairs, {RESULTS}")
    for row in _results:
        seconds = "" if row["seconds"] is None else f"after {row['seconds']:.2f} s"
        terminalreporter.write_line(f"{row['pair']:<42} {row['expected']:<20} {row['kind']:<8} {seconds}".rstrip())
