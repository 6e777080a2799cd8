"""The connection route of web apps: takes a browser's connection over, request by request, and decides each one.

What happens to a request, in this order: read strictly; found out whose app it is (visits.py); signed in, if need be
(sign_in.py); foreign pages refused, CORS answered (origins.py); allowed (gate.py); sandboxed pages given their sealed
path; passed on (exchange.py). Whatever fails on the way ends in a page that says so (notices.py).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
import anyio.abc

from coder_agent.hooks import Identity, ServerContext
from coder_agent.hooks.web import CorsBehavior
from coder_agent.hooks.web_apps import AppProxy, TakenConnection

from . import notices, origins, pages, sign_in
from .addresses import BadAddress, Method, Wildcard
from .answers import preflight_answer
from .browser import BrowserStream, Disconnected, TooSlow
from .exchange import Broken, Exchange, Failed
from .gate import OFFLINE, Gate, Verdict
from .http1 import BadHead, Body, Headers, RequestHead, parse_request
from .hygiene import SIGNED_TOKEN
from .jars import Jars
from .pages import Notice
from .sealing import Sealer, Spent
from .settings import WebproxySettings
from .signed_tokens import LIFETIME, SignedTokens
from .tickets import Ticket
from .upstream import Apps
from .uses import Uses
from .visit import Visit
from .visits import AUTH_PATH, LOGOUT_LABEL, Places

log = logging.getLogger("coder_agent.apps_webproxy")

IDLE_SECONDS = 60.0
"""How long a browser's connection is kept without a request. Source: nginx keeps 75 s, uvicorn 5 s."""
SWEEP_SECONDS = 1.0
DRAIN_SECONDS = 2.0
"""How long answers in progress may take when the server stops, as its own (plugins/server listening.py). WebSockets and
idle connections end at once."""
DRAIN_STEP = 0.02


class AppRoute:
    """The route; one for a server (`coder_agent.hooks.web_apps.ConnectionRoute`)."""

    name = "apps_webproxy"

    def __init__(self, context: ServerContext, settings: WebproxySettings, proxies: Sequence[AppProxy] = ()) -> None:
        self._context = context
        self._settings = settings
        self._places = Places(context.access_url, Wildcard.parse(context.wildcard_access_url), context.believe_proxies)
        secret = context.secret("apps_webproxy")
        self._sealer = Sealer(secret, secrets.token_bytes)
        self._spent = Spent()
        self._jars = Jars()
        self._gate = Gate(context, self._sealer, SignedTokens(secret))
        self.apps = Apps(lambda agent_id, port: context.tailnet.dial(agent_id, port), proxies)
        self._uses = Uses(context.emit)
        self._tasks: anyio.abc.TaskGroup | None = None
        self.connections = 0
        """Browser connections that are ours now."""
        self._busy: set[BrowserStream] = set()
        """Those with a request in progress."""

    # ------------------------------------------------------------ the route

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Serve until the end of the block."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            tasks.start_soon(self._sweep)
            try:
                yield
            finally:
                self._tasks = None
                await self._drain()
                tasks.cancel_scope.cancel()
        await self.apps.close()
        self._uses.close()

    def claims(self, head: bytes) -> bool:
        """Is this request for an app?"""
        return self._tasks is not None and self._places.claims(head)

    def accept(self, connection: TakenConnection) -> None:
        """A connection with such a request."""
        transport = connection.transport
        assert isinstance(transport, asyncio.Transport)
        if self._tasks is None or self.connections >= self._settings.max_connections:
            mark = connection.begin(b"", b"", {})
            head, _, rest = pages.answer(notices.busy(), None, keep_alive=False).partition(b"\r\n")
            transport.write(head + b"\r\n" + mark.lines + rest)
            transport.close()
            mark.end(503)
            return
        self._tasks.start_soon(self._serve, connection, transport)

    async def _drain(self) -> None:
        with anyio.move_on_after(DRAIN_SECONDS, shield=True):
            while any(browser.status != 101 for browser in self._busy):  # noqa: ASYNC110 - no request pays for an event
                await anyio.sleep(DRAIN_STEP)

    async def _sweep(self) -> None:
        while True:
            await anyio.sleep(SWEEP_SECONDS)
            await self.apps.sweep()
            self._uses.sweep()

    # ------------------------------------------------------------ a connection

    async def _serve(self, connection: TakenConnection, transport: asyncio.Transport) -> None:
        browser = BrowserStream(transport, connection.initial, asyncio.get_running_loop())
        self.connections += 1
        try:
            browser.start()
            while await self._next(browser, connection):
                pass
        except (Disconnected, Broken):
            browser.abort()
        except TooSlow:
            browser.close()
        except Exception:  # a bug of ours must cost one connection, and be seen
            log.exception("an app request failed")
            browser.abort()
        except BaseException:
            browser.abort()
            raise
        finally:
            browser.forget()
            self.connections -= 1

    async def _next(self, browser: BrowserStream, connection: TakenConnection) -> bool:
        """Answer one request; False when the connection is no longer ours, or at its end."""
        head = await browser.read_head(IDLE_SECONDS)
        if head is None:
            browser.close()
            return False
        if not self._places.claims(head):
            browser.pause()
            connection.give_back(browser.take_buffer())
            return False
        try:
            request = parse_request(head)
        except BadHead as exc:
            mark = browser.mark(connection.begin(b"", b"", {}))
            try:
                await browser.answer(pages.answer(notices.bad_request(str(exc), exc.status), None, keep_alive=False))
            finally:
                mark.end(browser.status)
            browser.close()
            return False
        browser.consume(request.size)
        mark = browser.mark(connection.begin(request.method, request.target, request.named))
        self._busy.add(browser)
        try:
            keep = await self._answer(browser, request, connection)
        finally:
            self._busy.discard(browser)
            mark.end(browser.status)
        if not keep:
            await self._finish(browser)
        return keep

    async def _finish(self, browser: BrowserStream) -> None:
        """Say that no more will come, and read what is still on its way: a reset would take the answer with it."""
        browser.write_eof()
        with anyio.move_on_after(2.0):
            while not browser.lost and await browser.read(65536, 2.0):
                pass
        browser.close()

    async def _answer(self, browser: BrowserStream, request: RequestHead, connection: TakenConnection) -> bool:
        keep = request.keep_alive and request.body is Body.NONE
        try:
            if request.target.partition(b"?")[0] == AUTH_PATH and self._places.label_of(request.host) is None:
                reply = await self._auth_redirect(request, connection, keep)
                await browser.answer(reply)
                return keep
            visit = self._places.visit(request, connection.client, connection.secure)
        except BadAddress as exc:
            await browser.answer(self._misaddressed(request, connection, str(exc), keep))
            return keep
        if visit.on_path and not visit.rest.startswith(b"/"):
            query = visit.rest.decode(
                "latin-1"
            )  # without the slash, the page's own relative links would lead elsewhere
            await browser.answer(pages.redirect(307, visit.base + query, keep_alive=keep))
            return keep
        ticket = self._gate.recall(visit) if not request.target.count(b"coder_application_connect") else None
        extra: Headers = []
        if ticket is None or (ticket.sandboxed and visit.is_navigation):
            outcome = await self._admit(visit, keep)
            if isinstance(outcome, bytes):
                await browser.answer(outcome)
                return keep
            ticket, extra = outcome
        if (early := self._before(visit, ticket, keep)) is not None:
            await browser.answer(early)
            return keep
        return await self._pass_on(browser, visit, ticket, extra, keep)

    async def _pass_on(self, browser: BrowserStream, visit: Visit, ticket: Ticket, extra: Headers, keep: bool) -> bool:
        if visit.address.method is Method.SUBDOMAIN and ticket.cors is CorsBehavior.SIMPLE:
            extra = extra + origins.cors_answer(visit.request, visit.address, self._places.wildcard)
        if visit.sealed and ticket.sandboxed:
            visit.jar = self._jars.of((ticket.user_id, visit.address.base))
        seconds = self._settings.answer_timeout
        exchange = Exchange(browser, visit, ticket, self.apps, self._context.access_url, seconds, extra)
        use = self._uses.begin(visit, ticket)
        taken, sent = browser.taken - visit.request.size, browser.sent
        try:
            return await exchange.run()
        except Failed as exc:
            notice = await self._explain(visit, exc.notice)
            await browser.answer(pages.answer(notice, visit.request, keep_alive=keep))
            return keep
        finally:
            self._uses.end(use, browser.taken - taken, browser.sent - sent, browser.status)

    # ------------------------------------------------------------ before anything is passed on

    def _misaddressed(self, request: RequestHead, connection: TakenConnection, reason: str, keep: bool) -> bytes:
        """No app at all: perhaps a request that escaped from one, by an absolute path."""
        on_app_host = self._places.label_of(request.host) is not None
        if self._places.label_of(request.host) == LOGOUT_LABEL:
            return pages.redirect(303, self._context.access_url, keep_alive=keep)
        if not on_app_host:
            scheme = "https" if connection.secure else "http"
            outside = self._places.outside(request.host, {"scheme": scheme})
            if belongs := self._places.escaped(outside, request):
                extra = [(b"Vary", b"Referer"), *origins.cors_for_sandbox(request)]
                return pages.redirect(307, belongs, keep_alive=keep, extra=extra)
        make = notices.bad_host if on_app_host else notices.bad_address
        return pages.answer(make(reason, self._context.access_url), request, keep_alive=keep)

    async def _admit(self, visit: Visit, keep: bool) -> bytes | tuple[Ticket, Headers]:
        """The right to go on, or the answer that takes its place."""
        if (smuggled := self._smuggled(visit, keep)) is not None:
            return smuggled
        if origins.is_preflight(visit.request) and not visit.credential:
            allowed = origins.cors_answer(visit.request, visit.address, self._places.wildcard)
            if allowed:
                return preflight_answer(visit.request, allowed)
        verdict = await self._gate.decide(visit)
        if verdict.ticket is None:
            return self._refused(visit, verdict, keep)
        if verdict.place is not None and verdict.place.status in OFFLINE:
            place = verdict.place
            notice = notices.workspace_offline(place.label, place.status, place.last_seen, self._context.access_url)
            return pages.answer(notice, visit.request, keep_alive=keep)
        if verdict.place is not None:
            await self._context.used(verdict.place)
        if (moved := await self._sandboxed(visit, verdict.ticket, verdict.visitor, keep)) is not None:
            return moved
        extra: Headers = []
        if verdict.signed:
            secure = visit.outside.startswith("https:")
            extra.append(
                sign_in.set_cookie(
                    SIGNED_TOKEN, verdict.signed, path=visit.address.base, seconds=LIFETIME, secure=secure
                )
            )
        return verdict.ticket, extra

    def _refused(self, visit: Visit, verdict: Verdict, keep: bool) -> bytes:
        """Strangers sign in; whoever is known learns nothing."""
        access = self._context.access_url
        if verdict.visitor is not None:
            return pages.answer(notices.not_found(access), visit.request, keep_alive=keep)
        if visit.sealed and visit.is_navigation:  # the page was open for too long, or it is somebody else's address
            return pages.redirect(303, f"{visit.address.base[:-1]}{visit.rest.decode('latin-1')}", keep_alive=keep)
        extra: Headers = []
        if visit.on_path:
            target = f"{visit.address.base[:-1]}{visit.rest.decode('latin-1')}"
            where = sign_in.login_url("", target)
        else:
            nonce = secrets.token_urlsafe(18)
            where = sign_in.auth_redirect_url(access, visit.url, nonce)
            secure = visit.outside.startswith("https:")
            extra = [sign_in.set_cookie(sign_in.STATE_COOKIE, nonce, seconds=sign_in.STATE_SECONDS, secure=secure)]
        if visit.is_navigation:
            return pages.redirect(303, where, keep_alive=keep, extra=extra)
        return pages.answer(notices.sign_in_needed(where), visit.request, keep_alive=keep)

    async def _sandboxed(self, visit: Visit, ticket: Ticket, visitor: Identity | None, keep: bool) -> bytes | None:
        """Pages in a sandbox send no cookies: their address must say who they act for. Such an address is good in the
        browser of its visitor only; whoever was given it is asked who he is."""
        if not visit.is_navigation or ticket.public:
            return None
        plain = f"{visit.address.base[:-1]}{visit.rest.decode('latin-1')}"
        if not ticket.sandboxed:  # it has been trusted since
            trusted = visit.sealed and visit.is_top_level and visit.request.method in (b"GET", b"HEAD")
            return pages.redirect(303, plain, keep_alive=keep) if trusted else None
        if visit.sealed:
            if not visit.is_top_level or visit.request.method not in (b"GET", b"HEAD"):
                return None
            owner = await self._gate.session(visit)
            if owner is not None and owner.user_id == ticket.user_id:
                return None
            return pages.redirect(303, plain, keep_alive=keep)
        if not visit.cookies_count:
            return None  # a program with a token in a header keeps sending it
        who = visitor if visitor is not None else await self._gate.visitor(visit)
        if who is None:
            return None
        sealed = await self._gate.seal(visit, who)
        target = f"{visit.address.base}~{sealed}{visit.rest.decode('latin-1')}"
        return pages.redirect(303, target, keep_alive=keep)

    def _before(self, visit: Visit, ticket: Ticket, keep: bool) -> bytes | None:
        """Foreign pages and CORS questions, once it is known which app is meant."""
        request = visit.request
        if ticket.cors is CorsBehavior.SIMPLE:
            foreign = origins.is_foreign(request, visit.address, visit.outside, self._places.wildcard)
            if foreign and visit.cookies_count and not ticket.public:
                return pages.answer(notices.foreign_page(), request, keep_alive=keep)
            if origins.is_preflight(request):
                if ticket.sandboxed:
                    return preflight_answer(request, origins.cors_for_sandbox(request))
                if not visit.on_path:
                    return preflight_answer(request, origins.cors_answer(request, visit.address, self._places.wildcard))
        return None

    async def _explain(self, visit: Visit, notice: Notice) -> Notice:
        """Could it not be reached? Then the server may know since when the workspace has been gone."""
        if notice.status != 502:
            return notice
        self._gate.forget(visit)
        verdict = await self._gate.decide(visit)
        place = verdict.place
        if place is None or place.status not in OFFLINE:
            return notice
        return notices.workspace_offline(place.label, place.status, place.last_seen, self._context.access_url)

    # ------------------------------------------------------------ sign-in on app hosts

    def _smuggled(self, visit: Visit, keep: bool) -> bytes | None:
        """Step 3 of sign_in.py, if this is it."""
        query = visit.request.target.partition(b"?")[2].decode("latin-1")
        sealed = sign_in.smuggled_key(query) if visit.address.method is Method.SUBDOMAIN else ""
        if not sealed:
            return None
        now = time.time()
        nonce = visit.cookies.get(sign_in.STATE_COOKIE, "")
        opened = self._sealer.open(sealed, sign_in.purpose(visit.request.host, nonce), now)
        path = visit.request.target.partition(b"?")[0].decode("latin-1")
        rest = sign_in.without_key(query)
        clean = "/" + path.lstrip("/") + (f"?{rest}" if rest else "")  # never //elsewhere
        if opened is None or not self._spent.spend(sealed, opened[1], now):
            notice = Notice(
                400,
                "This sign-in link cannot be used",
                "It is too old, was used before, or was made for another browser.",
                "Open the app again; cookies must be allowed.",
                [("Open the app", clean)],
            )
            return pages.answer(notice, visit.request, keep_alive=keep)
        secure = visit.outside.startswith("https:")
        assert self._places.wildcard is not None
        extra = [
            sign_in.set_cookie(
                self._places.app_cookie,
                opened[0],
                domain=self._places.wildcard.cookie_domain,
                seconds=sign_in.APP_SESSION_SECONDS,
                secure=secure,
            ),
            sign_in.set_cookie(sign_in.STATE_COOKIE, "", seconds=0, secure=secure),
        ]
        return pages.redirect(303, clean, keep_alive=keep, extra=extra)

    async def _auth_redirect(self, request: RequestHead, connection: TakenConnection, keep: bool) -> bytes:
        """Step 2 of sign_in.py."""
        from starlette.requests import HTTPConnection

        from .visit import asgi_scope

        query = request.target.partition(b"?")[2].decode("latin-1")
        try:
            url, host, nonce = sign_in.wanted_url(query, self._places)
        except BadAddress as exc:
            return pages.answer(notices.bad_request(str(exc)), request, keep_alive=keep)
        scope = asgi_scope(request, connection.client, "https" if connection.secure else "http")
        visitor = await self._context.authenticate(HTTPConnection(scope))
        if visitor is None:
            return pages.redirect(303, sign_in.login_url("", request.target.decode("latin-1")), keep_alive=keep)
        try:
            key = await self._context.issue_key(visitor, "application_connect", sign_in.APP_SESSION_SECONDS)
        except ValueError as exc:
            return pages.answer(
                notices.bad_request(f"This session cannot open apps: {exc}", 403), request, keep_alive=keep
            )
        sealed = self._sealer.seal(key, sign_in.purpose(host, nonce), time.time() + sign_in.SMUGGLED_SECONDS)
        return pages.redirect(303, sign_in.with_key(url, sealed), keep_alive=keep)
