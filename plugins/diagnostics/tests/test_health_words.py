"""A health report in words: what people read of good, bad, dismissed, foreign and broken reports."""

from __future__ import annotations

from typing import Any

import pytest
from coder_agent_diagnostics import health_text
from hypothesis import example, given
from hypothesis import strategies as st


def section(severity: str = "ok", **more: Any) -> dict[str, Any]:
    return {"severity": severity, "healthy": severity != "error", "warnings": [], "dismissed": False, **more}


def node(name: str, **more: Any) -> dict[str, Any]:
    report = {"node": {"Name": name}, "can_exchange_messages": True, "round_trip_ping_ms": 3, "severity": "ok"}
    return {**report, "stun": {"Enabled": True, "CanSTUN": True}, **more}


def report(**changed: Any) -> dict[str, Any]:
    regions = {"999": {"healthy": True, "region": {"RegionName": "Embedded"}, "node_reports": [node("999b")]}}
    return {
        "time": "2026-01-01T00:00:00Z",
        "healthy": True,
        "severity": "ok",
        "derp": section(regions=regions),
        "access_url": section(access_url="https://coder.example.com", status_code=200),
        "websocket": section(),
        "database": section(latency="0.500ms", threshold_ms=15, reachable=True),
        **changed,
    }


def test_a_good_report() -> None:
    good = report()
    assert health_text.rows(good) == [
        ("relays", "ok", "1 of 1 regions work"),
        ("access URL", "ok", "https://coder.example.com answers 200"),
        ("WebSocket", "ok", "messages come back"),
        ("database", "ok", "0.500ms (limit 15ms)"),
    ]
    assert health_text.region_rows(good) == [("Embedded (999)", "999b", "yes", "3ms", "yes", "ok")]
    assert list(health_text.remarks(good)) == []
    assert (health_text.is_failing(good), health_text.verdict(good)) == (False, "This deployment is healthy.")


@pytest.mark.parametrize(
    ("changes", "row"),
    [
        ({"can_exchange_messages": False, "severity": "error"}, ("no", "", "yes", "error")),
        ({"uses_websocket": True, "severity": "warning"}, ("WebSocket", "3ms", "yes", "warning")),
        ({"node": {"Name": "x", "STUNOnly": True}, "can_exchange_messages": False}, ("STUN only", "", "yes", "ok")),
        ({"stun": {"Enabled": True, "CanSTUN": False}}, ("yes", "3ms", "no", "ok")),
        ({"stun": {"Enabled": False}}, ("yes", "3ms", "-", "ok")),
    ],
    ids=["dead", "websocket", "stun-only", "no-stun", "not-asked"],
)
def test_rows_of_nodes(changes: dict[str, Any], row: tuple[str, ...]) -> None:
    regions = {"7": {"healthy": True, "region": {}, "node_reports": [node("x", **changes)]}}
    (found,) = health_text.region_rows(report(derp=section(regions=regions)))
    assert found == ("unnamed (7)", "x", *row)


def test_remarks_say_what_to_do_and_leave_out_what_was_dismissed() -> None:
    low = {"code": "EPLANT01", "message": "low"}
    slow = {"code": "EDB02", "message": "takes 17 ms"}
    bad = report(
        websocket=section("error", error="EWS01: No WebSocket"),
        database=section("warning", warnings=[slow, slow]),
        tank=section("warning", warnings=[low]),
        access_url=section("error", error="EACS03: not reached", dismissed=True),
    )
    assert list(health_text.remarks(bad)) == [
        "WebSocket: error EWS01: No WebSocket"
        "\n      what to do: let the reverse proxy pass the headers Upgrade and Connection, over HTTP/1.1",
        "database: warning EDB02: takes 17 ms"
        "\n      what to do: look at the disk and the load of the database's machine",
        "tank: warning EPLANT01: low",
    ]
    assert health_text.verdict(bad) == "This deployment is not healthy."
    quiet = report(access_url=section("error", dismissed=True), database=section("warning"))
    assert (health_text.is_failing(quiet), health_text.verdict(quiet)) == (
        False,
        "This deployment works, with warnings.",
    )
    assert ("access URL", "error (dismissed)", " is not reached") in health_text.rows(quiet)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["severity", "regions", "node_reports", "node", "stun", "warnings", "derp", "1"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


SECTION = st.fixed_dictionaries({"severity": JUNK}, optional={"regions": JUNK, "warnings": JUNK, "error": JUNK})


@given(st.dictionaries(st.sampled_from(["derp", "access_url", "database", "x"]), SECTION | JUNK, max_size=4))
@example({"derp": {"severity": "ok", "regions": {"1": {"node_reports": 5}}, "warnings": 7}})
def test_reports_that_make_no_sense_are_shown_as_far_as_they_do(document: dict[str, Any]) -> None:
    rows = [*health_text.rows(document), *health_text.region_rows(document)]
    assert all(isinstance(cell, str) for row in rows for cell in row)
    assert all(isinstance(remark, str) for remark in health_text.remarks(document))
    assert health_text.verdict(document).startswith("This deployment")
