"""Who may use the relay: everybody, who has the token, or whom somebody else vouches for.

The callback is stock derper's: POST {"NodePublic": "nodekey:…", "Source": "192.0.2.1"}, answered 200 {"Allow": true}.
A coder server answers it for the peers it knows, at /api/v2/derp/verify. Source: tailscale tailcfg/derpmap.go
(DERPAdmitClientRequest), derp/derpserver/derpserver.go verifyClient @de9ec7ee
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

import anyio
import anyio.abc

from coder_agent.base.keys import NodePublic
from coder_agent.errors import CoderAgentError
from coder_agent.hooks.interfaces import DialOptions
from coder_agent.http import request
from coder_agent.protocols.derp.login import ClientInfo
from coder_agent.protocols.derp.session import RelaySession

log = logging.getLogger(__name__)

TIMEOUT = 5.0
"""Seconds for an answer (derpserver.go)."""
MAX_ASKING = 64
"""Questions asked at once; others wait their turn, and the login time-out runs for them too."""
REMEMBER = 60.0
"""Seconds that a yes is good for, so that a region's clients can come back while who vouches for them restarts."""
REMEMBERED_KEYS = 10_000


def shows_token(headers: Mapping[bytes, bytes], token: str) -> bool:
    """Does a request carry the token, as ``Authorization: Bearer …`` or ``Derp-Token: …``?"""
    given = headers.get(b"derp-token", b"")
    scheme, _, rest = headers.get(b"authorization", b"").partition(b" ")
    if not given and scheme.lower() == b"bearer":
        given = rest.strip()
    return hmac.compare_digest(given, token.encode())


@dataclass(slots=True)
class UrlVerifier:
    """Asks `url` about each client. `fail_open`: who cannot be asked about, because the URL is down, is let in."""

    url: str
    fail_open: bool = False
    dial: DialOptions = field(default_factory=DialOptions)
    failures: int = 0
    """Questions that got no usable answer."""
    _limit: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(MAX_ASKING))
    _allowed: OrderedDict[NodePublic, float] = field(default_factory=OrderedDict)

    async def ask(self, key: NodePublic, source: str) -> bool:
        """May `key`, connected from `source`, use the relay?"""
        try:
            async with self._limit:
                answer = await request(
                    "POST",
                    self.url,
                    body={"NodePublic": str(key), "Source": source},
                    timeout=TIMEOUT,
                    options=self.dial,
                )
        except CoderAgentError as exc:
            self.failures += 1
            log.warning("admission: %s; %s", exc.message, "letting everybody in" if self.fail_open else "refusing")
            return self.fail_open or self._remembers(key)
        try:
            document = answer.json() if answer.status == 200 else {}
        except ValueError:
            document = {}
        allowed = isinstance(document, dict) and document.get("Allow") is True
        if allowed:
            self._remember(key)
        else:
            self._allowed.pop(key, None)
        return allowed

    def _remembers(self, key: NodePublic) -> bool:
        now = asyncio.get_running_loop().time()
        return self._allowed.get(key, 0.0) > now

    def _remember(self, key: NodePublic) -> None:
        self._allowed[key] = asyncio.get_running_loop().time() + REMEMBER
        self._allowed.move_to_end(key)
        if len(self._allowed) > REMEMBERED_KEYS:
            self._allowed.popitem(last=False)


class Gate:
    """Joins the relay's question (`RelayCore.on_undecided`) to a verifier's answer, a task each."""

    def __init__(self, verifier: UrlVerifier, tasks: anyio.abc.TaskGroup) -> None:
        self._verifier = verifier
        self._tasks = tasks

    def undecided(self, session: RelaySession, key: NodePublic, info: ClientInfo) -> None:
        """Ask about this client."""
        self._tasks.start_soon(self._ask, session, key)

    async def _ask(self, session: RelaySession, key: NodePublic) -> None:
        source = session.remote.host if session.remote is not None else ""
        allowed = await self._verifier.ask(key, source)
        session.decide(allowed, asyncio.get_running_loop().time())
