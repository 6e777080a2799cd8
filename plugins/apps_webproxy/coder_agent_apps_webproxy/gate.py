"""Who may? A visitor's decision comes from memory, from the signed token that the browser carries, or from the
server."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import HTTPConnection

from coder_agent.hooks import Identity, ServerContext
from coder_agent.hooks.web import SCOPE_APPS, AgentPlace

from .addresses import Method
from .hygiene import SESSION, SIGNED_TOKEN
from .sealing import Sealer
from .signed_tokens import SignedTokens
from .tickets import Ticket, ticket_for_app, ticket_for_port
from .visit import Visit

REMEMBERED_SECONDS = 10.0
"""How long a decision is used without asking anybody: so long may somebody go on who has just lost the right."""
MAX_REMEMBERED = 4096
SEALED_SECONDS = 12 * 3600.0
"""How long a sandboxed page may stay open before it must be loaded again. It ends with the visitor's session, too."""
OFFLINE = frozenset({"disconnected", "timeout", "connecting"})


@dataclass(frozen=True, slots=True)
class Verdict:
    """`ticket` None = no. `visitor` is who asks, None = nobody. `signed` is a token to leave with the browser."""

    ticket: Ticket | None
    visitor: Identity | None = None
    place: AgentPlace | None = None
    signed: str = ""


class Gate:
    """Asks the server, and remembers."""

    def __init__(
        self,
        context: ServerContext,
        sealer: Sealer,
        tokens: SignedTokens,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._context = context
        self._sealer = sealer
        self._tokens = tokens
        self._clock = clock
        self._wall = wall
        self._memory: OrderedDict[tuple[str, str, str], tuple[float, Ticket]] = OrderedDict()
        self._sealed: OrderedDict[tuple[str, str], tuple[float, str]] = OrderedDict()

    def recall(self, visit: Visit) -> Ticket | None:
        """The decision made a moment ago, if there was one."""
        found = self._memory.get(_memory_key(visit))
        return found[1] if found is not None and found[0] > self._clock() else None

    def forget(self, visit: Visit) -> None:
        """What was decided proved wrong: the workspace is gone, say."""
        self._memory.pop(_memory_key(visit), None)

    async def decide(self, visit: Visit) -> Verdict:
        """Who asks, and what may he."""
        text = visit.cookies.get(SIGNED_TOKEN, "")
        if text and not visit.sealed:
            ticket = self._tokens.check(text, visit.address, visit.credential, self._wall())
            if ticket is not None and not ticket.sandboxed:  # whoever has just trusted an app sees it at once
                self._remember(visit, ticket)
                return Verdict(ticket)
        visitor = await self.visitor(visit)
        verdict = await self._ask(visit, visitor)
        if verdict.ticket is not None and (verdict.place is None or verdict.place.status not in OFFLINE):
            self._remember(visit, verdict.ticket)
            if not visit.sealed and not verdict.ticket.sandboxed:
                signed = self._tokens.issue(visit.address, verdict.ticket, visit.credential, self._wall())
                return Verdict(verdict.ticket, visitor, verdict.place, signed)
        return verdict

    async def visitor(self, visit: Visit) -> Identity | None:
        """Who asks. A sealed segment in the path says it for sandboxed pages, which send no cookies."""
        connection = HTTPConnection(visit.scope)
        if visit.sealed:
            opened = self._sealer.open(visit.sealed, visit.address.base, self._wall())
            return await self._context.authenticate(connection, token=opened[0]) if opened else None
        if visit.address.method is Method.SUBDOMAIN and visit.credential:
            found = await self._context.authenticate(connection, token=visit.credential)
            if found is not None:
                return found
        return await self._context.authenticate(connection)

    async def session(self, visit: Visit) -> Identity | None:
        """Whose browser this is, whatever the path says."""
        token = visit.cookies.get(SESSION, "")
        return await self._context.authenticate(HTTPConnection(visit.scope), token=token) if token else None

    async def seal(self, visit: Visit, visitor: Identity) -> str:
        """The segment that lets a sandboxed page act as this visitor, at this app and nowhere else."""
        key = (visitor.key_id, visit.address.base)
        found = self._sealed.get(key)
        if found is not None and found[0] > self._clock():
            return found[1]
        token = await self._context.issue_key(visitor, SCOPE_APPS, SEALED_SECONDS)
        sealed = self._sealer.seal(token, visit.address.base, self._wall() + SEALED_SECONDS)
        self._sealed[key] = (self._clock() + SEALED_SECONDS / 12, sealed)
        while len(self._sealed) > MAX_REMEMBERED:
            self._sealed.popitem(last=False)
        return sealed

    async def _ask(self, visit: Visit, visitor: Identity | None) -> Verdict:
        at = visit.address
        if at.slug:
            app = await self._context.find_app(at.owner, at.workspace, at.agent or None, at.slug, visitor=visitor)
            if app is not None and app[1].url and not app[1].external and not app[1].command:
                return Verdict(ticket_for_app(at, *app, visitor), visitor, app[0])
        else:
            port = await self._context.find_port(at.owner, at.workspace, at.agent or None, at.port, visitor=visitor)
            if port is not None:
                return Verdict(ticket_for_port(at, *port, visitor), visitor, port[0])
        return Verdict(None, visitor)

    def _remember(self, visit: Visit, ticket: Ticket) -> None:
        self._memory[_memory_key(visit)] = (self._clock() + REMEMBERED_SECONDS, ticket)
        self._memory.move_to_end(_memory_key(visit))
        while len(self._memory) > MAX_REMEMBERED:
            self._memory.popitem(last=False)


def _memory_key(visit: Visit) -> tuple[str, str, str]:
    address = visit.address
    return (address.host, address.base if address.base != "/" else address.app, visit.sealed or visit.credential)
