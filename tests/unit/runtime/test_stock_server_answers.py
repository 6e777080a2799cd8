"""What a stock server says where ours says something else."""

from __future__ import annotations

import json

import pytest

from coder_agent.directory import ago, parse_time
from coder_agent.errors import ApiError
from coder_agent.runtime.http import BUILD_VERSION_HEADER, HttpResponse, NotOffered, api_error

URL = "http://coder.example.com"
OURS = {BUILD_VERSION_HEADER: "v2.20.0"}


@pytest.mark.parametrize(
    ("status", "body"),
    [(404, json.dumps({"message": "Route not found."}).encode()), (405, b"")],
    ids=["no-route", "no-method"],
)
def test_a_route_that_a_stock_server_lacks_is_named_so(status: int, body: bytes) -> None:
    error = api_error(URL, HttpResponse(status, OURS, body))
    assert isinstance(error, NotOffered)
    assert (error.status, error.message) == (status, f"{URL} does not offer this")
    assert "stock Coder server" in str(error.hint)


def test_a_thing_that_does_not_exist_is_something_else() -> None:
    body = json.dumps({"message": "Resource not found or you do not have access to this resource"}).encode()
    error = api_error(URL, HttpResponse(404, OURS, body))
    assert isinstance(error, ApiError)
    assert not isinstance(error, NotOffered)


@pytest.mark.parametrize("text", [None, "", "0001-01-01T00:00:00Z"], ids=["none", "empty", "go"])
def test_no_time_is_never(text: str | None) -> None:
    assert parse_time(text) is None
    assert ago(text) == "never"


def test_a_time_is_told_as_its_age() -> None:
    assert ago("2020-01-01T00:00:00Z").endswith(" d ago")
