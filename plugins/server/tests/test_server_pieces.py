"""Small parts on their own: tokens, limits, presence, resume tokens, agent status, the search for a cookie's owner."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from coder_agent_server.documents.agents import AgentView, agent_health, agent_status
from coder_agent_server.limits import MAX_CALLERS, RateLimit
from coder_agent_server.passwords import password_fault
from coder_agent_server.presence import Presence
from coder_agent_server.problems import Problem
from coder_agent_server.resume import InvalidResumeToken, ResumeTokens
from coder_agent_server.routes.sign_in import local_path
from coder_agent_server.store.schema import Agent
from coder_agent_server.tokens import ApiToken, parse_agent_token
from coder_agent_server.version import build_version
from hypothesis import given
from hypothesis import strategies as st

from coder_agent.base.derp_map import DerpMap

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_a_token_has_the_lengths_that_clients_expect_and_hides() -> None:
    token = ApiToken.generate()
    assert (len(token.id), len(token.secret)) == (10, 22)
    assert ApiToken.parse(token.text) == token
    assert token.secret not in repr(token)
    assert ApiToken.generate() != token


@given(st.text(max_size=40))
def test_no_text_breaks_the_parsers(text: str) -> None:
    token = ApiToken.parse(text)
    assert token is None or token.text == text
    uuid = parse_agent_token(text)
    assert uuid is None or isinstance(uuid, UUID)


def test_a_limit_counts_per_caller_and_forgets_after_a_minute() -> None:
    clock = [0.0]
    limit = RateLimit(2, lambda: clock[0])
    for _ in range(2):
        limit.check("a")
    with pytest.raises(Problem) as refused:
        limit.check("a")
    assert (refused.value.status, refused.value.headers) == (
        429,
        {"Retry-After": "60", "X-RateLimit-Limit": "2", "X-RateLimit-Remaining": "0"},
    )
    limit.check("b")
    clock[0] = 60.0
    limit.check("a")


def test_a_limit_is_bounded_and_can_be_off() -> None:
    limit = RateLimit(1, lambda: 0.0)
    for caller in range(3 * MAX_CALLERS):
        limit.check(caller)
    assert len(limit._windows) <= MAX_CALLERS
    off = RateLimit(-1, lambda: 0.0)
    for _ in range(1000):
        off.check("a")


@pytest.mark.parametrize("password", ["", "1234567", "aaaaaaaa", "x" * 300])
def test_poor_passwords(password: str) -> None:
    assert password_fault(password) is not None


def test_a_passphrase_is_fine() -> None:
    assert password_fault("correct horse") is None


class FakeSession:
    def __init__(self) -> None:
        self.reasons: list[str] = []

    def close(self, reason: str) -> None:
        self.reasons.append(reason)


def test_the_newest_session_of_an_agent_counts() -> None:
    presence, agent_id = Presence(lambda: NOW), uuid4()
    first, second = FakeSession(), FakeSession()
    presence.begin(agent_id, first)
    presence.begin(agent_id, second)
    assert first.reasons == ["another connection of this agent took over"]
    assert presence.end(agent_id, first) is None
    assert presence.last_seen(agent_id) == NOW
    assert presence.end(agent_id, second) == NOW
    assert presence.last_seen(agent_id) is None
    assert len(presence) == 0
    assert presence.take_unsaved() == {}


def test_what_was_seen_is_written_once() -> None:
    presence, agent_id = Presence(lambda: NOW), uuid4()
    presence.begin(agent_id, FakeSession())
    assert presence.take_unsaved() == {agent_id: NOW}
    assert presence.take_unsaved() == {}
    presence.seen(agent_id)
    assert presence.take_unsaved() == {agent_id: NOW}


def test_resume_tokens_name_a_peer_for_a_day() -> None:
    tokens, peer = ResumeTokens(b"k" * 64, UUID(int=1)), uuid4()
    issued = tokens.issue(peer, NOW)
    assert issued.text not in repr(issued)
    assert tokens.verify(issued.text, NOW + timedelta(hours=23)) == peer
    for faulty, when in [
        (issued.text, NOW + timedelta(hours=24)),
        (issued.text[:-2], NOW),
        ("", NOW),
        ("x" * 5000, NOW),
        (ResumeTokens(b"x" * 64, UUID(int=1)).issue(peer, NOW).text, NOW),
        (ResumeTokens(b"k" * 64, UUID(int=2)).issue(peer, NOW).text, NOW),
    ]:
        with pytest.raises(InvalidResumeToken):
            tokens.verify(faulty, when)


@given(st.text(max_size=200))
def test_no_text_breaks_the_resume_check(text: str) -> None:
    with pytest.raises(InvalidResumeToken):
        ResumeTokens(b"k" * 64, UUID(int=1)).verify(text, NOW)


def view(seen: datetime | None = None) -> AgentView:
    return AgentView(NOW, lambda _: seen, lambda _: None, DerpMap())


def make_agent(**fields: Any) -> Agent:
    created = NOW - timedelta(seconds=60)
    base = {"id": uuid4(), "created_at": created, "connection_timeout_seconds": 120, "lifecycle_state": "created"}
    return Agent(**{**base, **fields})


@pytest.mark.parametrize(
    ("fields", "seen_ago", "status"),
    [
        ({}, None, "connecting"),
        ({"connection_timeout_seconds": 59}, None, "timeout"),
        ({"connection_timeout_seconds": 0, "created_at": NOW - timedelta(days=9)}, None, "connecting"),
        ({"first_connected_at": NOW, "last_connected_at": NOW}, None, "connected"),
        ({"first_connected_at": NOW, "last_connected_at": NOW - timedelta(seconds=31)}, None, "disconnected"),
        ({"first_connected_at": NOW, "last_connected_at": NOW - timedelta(seconds=31)}, 1, "connected"),
        ({"first_connected_at": NOW, "last_connected_at": NOW, "disconnected_at": NOW}, None, "disconnected"),
        (
            {
                "first_connected_at": NOW,
                "last_connected_at": NOW,
                "disconnected_at": NOW - timedelta(seconds=1),
            },
            None,
            "connected",
        ),
    ],
)
def test_the_status_of_an_agent(fields: dict[str, Any], seen_ago: int | None, status: str) -> None:
    seen = None if seen_ago is None else NOW - timedelta(seconds=seen_ago)
    assert agent_status(make_agent(**fields), view(seen)) == status


@pytest.mark.parametrize(
    ("state", "status", "reason"),
    [
        ("ready", "connected", ""),
        ("starting", "connected", ""),
        ("off", "disconnected", "agent is not running"),
        ("ready", "disconnected", "agent has lost connection"),
        ("created", "timeout", "agent is taking too long to connect"),
        ("start_error", "connected", "agent startup script exited with an error"),
        ("shutting_down", "connected", "agent is shutting down"),
    ],
)
def test_the_health_of_an_agent(state: str, status: str, reason: str) -> None:
    assert agent_health(make_agent(lifecycle_state=state), status) == reason


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/cli-auth", "/cli-auth"),
        ("/a?b=c", "/a?b=c"),
        ("https://evil.example", "/"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("/x\r\nSet-Cookie: a", "/"),
        ("", "/"),
        ("cli-auth", "/"),
    ],
)
def test_sign_in_leads_back_to_our_own_pages_only(target: str, path: str) -> None:
    assert local_path(target) == path


def test_the_version_silences_stock_clients_whatever_the_name_is() -> None:
    assert build_version("My Köder!").startswith("v0.0.0-My-K-der+")
    assert build_version("").startswith("v0.0.0-coder-agent+")
