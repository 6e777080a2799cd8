"""Ping statistics."""

from __future__ import annotations

import statistics

import pytest
from coder_agent_diagnostics.summary import Summary
from hypothesis import given
from hypothesis import strategies as st


@given(st.lists(st.floats(1e-5, 10.0), min_size=2, max_size=50))
def test_statistics_agree_with_the_textbook(latencies: list[float]) -> None:
    summary = Summary()
    for latency in latencies:
        summary.add(latency)
    summary.add(None)
    assert (summary.total, summary.successful) == (len(latencies) + 1, len(latencies))
    assert summary.minimum == min(latencies)
    assert summary.maximum == max(latencies)
    assert summary.mean == pytest.approx(statistics.fmean(latencies))
    assert summary.variance == pytest.approx(statistics.variance(latencies), rel=1e-6, abs=1e-12)


def test_no_answer_at_all_is_not_a_latency_of_zero() -> None:
    summary = Summary()
    summary.add(None)
    assert summary.document() == {
        "total": 1,
        "successful": 0,
        "min_ms": 0.0,
        "avg_ms": 0.0,
        "max_ms": 0.0,
        "variance_ms": 0.0,
    }
