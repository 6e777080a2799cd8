"""What goes wrong, as the error document that stock clients print: ``{message, detail?, validations?}``."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

logger = logging.getLogger("coder_agent.server")

NOT_FOUND = "Resource not found or you do not have access to this resource"
"""One sentence for unknown and for forbidden: the difference would tell a stranger what exists."""


class Problem(Exception):
    """Ends a request with an error document. `validations` are (field, sentence) pairs."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        detail: str = "",
        validations: Sequence[tuple[str, str]] = (),
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.detail = detail
        self.validations = tuple(validations)
        self.headers = headers

    def response(self) -> Response:
        """The reply."""
        body: dict[str, object] = {"message": self.message}
        if self.detail:
            body["detail"] = self.detail
        if self.validations:
            body["validations"] = [{"field": field, "detail": detail} for field, detail in self.validations]
        return JSONResponse(body, self.status, self.headers)


def not_found() -> Problem:
    """Unknown or forbidden, nobody can tell which."""
    return Problem(404, NOT_FOUND)


def invalid(field: str, detail: str) -> Problem:
    """One field of the request is wrong."""
    return Problem(400, "Validation failed.", validations=[(field, detail)])


def from_validation(error: ValidationError) -> Problem:
    """A request body that does not fit its model. The values themselves are not repeated: they may be passwords."""
    found = [(".".join(map(str, e["loc"])) or "body", e["msg"].removeprefix("Value error, ")) for e in error.errors()]
    return Problem(400, "Validation failed.", validations=found)


async def on_problem(request: Request, exc: Exception) -> Response:
    """Exception handler for Problem."""
    assert isinstance(exc, Problem)
    return exc.response()


async def on_http_exception(request: Request, exc: Exception) -> Response:
    """Exception handler for what the framework raises itself: unknown route, wrong method."""
    assert isinstance(exc, HTTPException)
    message = "Route not found." if exc.status_code == 404 else exc.detail or "Request refused."
    return JSONResponse({"message": message}, exc.status_code, dict(exc.headers or {}))


async def on_bug(request: Request, exc: Exception) -> Response:
    """Exception handler for everything else. The traceback goes to the log, never to the client."""
    logger.error("request %s %s failed", request.method, request.url.path, exc_info=exc)
    return JSONResponse({"message": "An internal server error occurred.", "detail": "See the server's log."}, 500)
