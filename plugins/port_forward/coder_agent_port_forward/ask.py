"""Asking the agent's forward service, with sentences for agents that have none."""

from __future__ import annotations

from typing import Any

import anyio

from coder_agent.client import Workspace
from coder_agent.errors import CoderAgentError, RemoteProtocolError, TransportBroken
from coder_agent.node import TunnelStream

from . import PORT
from .lines import read_line
from .protocol import Request, decode_reply, encode_request

REPLY_TIMEOUT = 15.0
"""Seconds for an answer: the agent itself gives a host ten."""


class NoService(CoderAgentError):
    """The agent has no forward service: it is a stock one, or its plugin is not enabled."""


async def ask(workspace: Workspace, request: Request) -> tuple[TunnelStream, dict[str, Any]]:
    """Ask; the stream is positioned behind the answer. Raises Refusal, NoService, CoderAgentError."""
    try:
        stream = await workspace.open_tcp(PORT)
    except TransportBroken as error:
        raise NoService(
            f"the agent of {workspace.agent.label} does not offer this",
            hint="--socks to other hosts and --reverse need coder-agent with its port_forward plugin in the workspace",
        ) from error
    try:
        with anyio.fail_after(REPLY_TIMEOUT):
            await stream.send(encode_request(request))
            return stream, decode_reply(await read_line(stream))
    except BaseException as error:
        stream.abort()
        if isinstance(error, (TimeoutError, anyio.EndOfStream, anyio.BrokenResourceError)):
            raise RemoteProtocolError("the agent's forward service did not answer") from error
        raise
