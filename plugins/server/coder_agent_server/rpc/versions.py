"""The API version that a control connection asks for."""

from __future__ import annotations

from starlette.requests import HTTPConnection

from ..problems import Problem
from ..version import API_MAJOR


def requested_version(connection: HTTPConnection, default: str) -> str:
    """The ``version`` parameter. Raises Problem 400 for another major.

    Any minor will do: stock agents ask for the one they were built with and never step down, and a call that we lack
    is answered with "unimplemented", which they handle.
    """
    text = connection.query_params.get("version") or default
    major, dot, minor = text.partition(".")
    known = dot and major == str(API_MAJOR) and minor.isascii() and minor.isdigit() and len(minor) < 6
    if not known:
        raise Problem(
            400,
            "Unknown or unsupported API version",
            validations=[("version", f"server is at version {API_MAJOR}.x, behind requested version {text[:16]}")],
        )
    return text
