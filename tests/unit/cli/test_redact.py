"""Secrets do not come out; other text does."""

from __future__ import annotations

import io
import logging

import pytest

from coder_agent.base.keys import NodePrivate
from coder_agent.cli import redact as module
from coder_agent.cli.logs import RedactingFormatter
from coder_agent.cli.redact import hide, redact

KEY = NodePrivate(bytes(range(32)))
SECRET = "Zx9" * 8


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"key {KEY.reveal()}!", "key privkey:**********!"),
        ("token abcdefghij-ABCDEFGHIJ0123456789xy ok", "token abcdefghij-********** ok"),
        (f"Coder-Session-Token: {SECRET}", "Coder-Session-Token: **********"),
        (f"Authorization: Bearer {SECRET}", "Authorization: Bearer **********"),
        (f"GET /x?coder_session_token={SECRET}&a=b", "GET /x?coder_session_token=**********&a=b"),
        (f'{{"password": "{SECRET}", "a": 1}}', '{"password": "**********", "a": 1}'),
        (f"http://me:{SECRET}@proxy", "http://me:**********@proxy"),
    ],
)
def test_secrets_are_starred_out(text: str, kept: str) -> None:
    assert redact(text) == kept


@pytest.mark.parametrize(
    "text", [str(KEY.public()), "cookie reply sent", "http://host:80/path", "2 tokens left", "derp:999"]
)
def test_harmless_text_stays(text: str) -> None:
    assert redact(text) == text


def test_a_known_value_is_hidden_but_a_short_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_known", set())
    hide("8f14e45f-ceea-467f-a9b5-3f0c7f2f2f11")
    hide("no")
    assert redact("using 8f14e45f-ceea-467f-a9b5-3f0c7f2f2f11 now") == "using ********** now"


def test_arguments_and_tracebacks_of_log_lines_are_redacted() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(RedactingFormatter("%(message)s"))
    logger = logging.Logger("test")
    logger.addHandler(handler)
    try:
        raise ValueError(f"bad key {KEY.reveal()}")
    except ValueError:
        logger.exception("failed with %s", KEY.reveal())
    assert "ValueError" in stream.getvalue()
    assert KEY.reveal() not in stream.getvalue()
