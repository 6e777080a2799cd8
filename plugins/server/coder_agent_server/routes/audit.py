"""Who did what, told to observers (`coder_event`, `Audited`)."""

from __future__ import annotations

from starlette.requests import HTTPConnection

from coder_agent.hooks.events import Audited

from ..auth import Principal, caller_ip
from ..deployment import deployment
from ..request_ids import request_id


def audit(
    connection: HTTPConnection,
    action: str,
    resource: str,
    target: str,
    status: int,
    who: Principal | str,
) -> None:
    """Tell it. `target` is a name for people, never a secret."""
    user = who if isinstance(who, str) else who.user.username
    event = Audited(action, resource, target[:256], user, caller_ip(connection), status, request_id(connection))
    deployment(connection).emit(event)
