"""Reading request bodies: bounded, JSON or an HTML form, checked by a pydantic model."""

from __future__ import annotations

import json
from typing import TypeVar
from urllib.parse import parse_qsl

import anyio
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from .problems import Problem, from_validation

MAX_BODY_BYTES = 1 << 20
"""No request of this API is longer than a few kilobytes."""

BODY_SECONDS = 30.0
"""A body of that size takes less on any line over which people work."""

Model = TypeVar("Model", bound=BaseModel)


async def read_json(request: Request, model: type[Model]) -> Model:
    """The body as `model`; an empty body counts as ``{}``. Raises Problem (400, 413)."""
    body = await read_body(request)
    try:
        document = json.loads(body) if body.strip() else {}
        json.dumps(document, ensure_ascii=False).encode()  # raises for half a surrogate pair, which is no text
        return model.model_validate(document)
    except ValidationError as exc:
        raise from_validation(exc) from None
    except (ValueError, RecursionError) as exc:
        raise Problem(400, "Request body must be valid JSON.", detail=type(exc).__name__) from None


async def read_form(request: Request, model: type[Model]) -> Model:
    """The body of a plain HTML form (``application/x-www-form-urlencoded``). Raises Problem."""
    try:
        text = (await read_body(request)).decode()
        return model.model_validate(dict(parse_qsl(text, keep_blank_values=True, max_num_fields=50)))
    except ValidationError as exc:
        raise from_validation(exc) from None
    except ValueError:
        raise Problem(400, "Request body must be a form.") from None


async def read_body(request: Request) -> bytes:
    """The raw body, at most MAX_BODY_BYTES, within BODY_SECONDS. Raises Problem 408, 413."""
    chunks = bytearray()
    try:
        with anyio.fail_after(BODY_SECONDS):
            async for chunk in request.stream():
                chunks += chunk
                if len(chunks) > MAX_BODY_BYTES:
                    raise Problem(413, "Request body is too large.", detail=f"At most {MAX_BODY_BYTES} bytes.")
    except TimeoutError:
        raise Problem(408, "The request body did not arrive in time.") from None
    except ClientDisconnect:
        raise Problem(400, "The request body ended early.") from None
    return bytes(chunks)
