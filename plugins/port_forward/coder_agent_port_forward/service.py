"""The agent's side: connect users to hosts that the policy allows, and listen for them on the workspace's loopback."""

from __future__ import annotations

import logging
import socket
from collections import Counter
from ipaddress import ip_address
from typing import TYPE_CHECKING

import anyio
import anyio.abc

from coder_agent.errors import EgressRefused, RemoteProtocolError
from coder_agent.http import connect_first, resolve
from coder_agent.node import TunnelStream

from . import PORT
from .lines import read_line
from .outbound import OutboundPolicy
from .protocol import Code, Op, Refusal, decode_request, encode, encode_refusal
from .reverse_listener import ReverseListeners
from .settings import PortForwardSettings

if TYPE_CHECKING:
    from coder_agent.hooks.egress import Egress

log = logging.getLogger(__name__)

REQUEST_TIMEOUT = 10.0
"""Seconds for a user's request to come."""
CONNECT_TIMEOUT = 10.0
"""Seconds for a host to answer: below the 15 s that the user's side waits."""
MAX_OUTBOUND = 512
"""Connections to other hosts at once, for all users together."""


class ForwardService:
    """TCP port 8 inside the tunnel (`coder_agent_services`)."""

    name = "port_forward"
    port = PORT

    def __init__(self, settings: PortForwardSettings, egress: Egress) -> None:
        self.counters: Counter[str] = Counter()
        self._policy = OutboundPolicy.parse(settings.outbound)
        self._egress = egress
        self._reverse = ReverseListeners(allowed=settings.reverse)
        self._outbound = 0

    async def serve(self, stream: anyio.abc.ByteStream) -> None:
        """One request."""
        assert isinstance(stream, TunnelStream)
        try:
            with anyio.fail_after(REQUEST_TIMEOUT):
                request = decode_request(await read_line(stream))
            if request.op is Op.CONNECT:
                await self._connect(stream, request.host, request.port)
            elif request.op is Op.LISTEN:
                await self._reverse.listen(stream, request.port)
            else:
                await self._reverse.answer(stream, request)
        except Refusal as refusal:
            self.counters[refusal.code] += 1
            log.info("refused: %s", refusal)
            await stream.send(encode_refusal(refusal))
        except (TimeoutError, RemoteProtocolError) as error:
            log.debug("no request: %r", error)

    async def _connect(self, stream: TunnelStream, host: str, port: int) -> None:
        if self._outbound >= MAX_OUTBOUND:
            raise Refusal(Code.TOO_MANY, f"the agent holds {MAX_OUTBOUND} connections to other hosts already")
        self._outbound += 1
        try:
            sock = await self._dial(host, port)
            try:
                await stream.send(encode({"ok": True}))
            except BaseException:
                sock.close()
                raise
            await stream.join(sock)
        finally:
            self._outbound -= 1

    async def _dial(self, host: str, port: int) -> socket.socket:
        """Connect to the first address of `host` that policies allow and that answers. Raises Refusal."""
        if self._policy.nothing:
            raise Refusal(Code.POLICY, "this agent connects to no host but its own ([plugins.port_forward] outbound)")
        if not self._policy.may_resolve(host):
            raise Refusal(Code.POLICY, f"this agent does not connect to {host} ([plugins.port_forward] outbound)")
        try:
            with anyio.fail_after(CONNECT_TIMEOUT):
                targets = await resolve(host, port, self._egress)
                allowed = [where for where in targets if self._allows(host, str(where[1][0]))]
                if not allowed:
                    raise Refusal(
                        Code.POLICY, f"this agent does not connect to {host} ([plugins.port_forward] outbound)"
                    )
                return await connect_first(allowed)
        except socket.gaierror:
            raise Refusal(Code.NAME, f"the workspace knows no host called {host}") from None
        except EgressRefused as error:
            raise Refusal(Code.POLICY, str(error)) from None
        except TimeoutError:
            raise Refusal(Code.UNREACHABLE, f"{host}:{port} did not answer within {CONNECT_TIMEOUT:g} s") from None
        except ConnectionRefusedError:
            raise Refusal(Code.REFUSED, f"{host}:{port} refused the connection") from None
        except OSError as error:
            raise Refusal(Code.UNREACHABLE, f"{host}:{port}: {(error.strerror or str(error)).lower()}") from None

    def _allows(self, host: str, address: str) -> bool:
        return self._policy.allows(host, ip_address(address.partition("%")[0]))
