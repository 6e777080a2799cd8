"""The heads that go on: a request as the app shall see it, an answer as the browser shall see it."""

from __future__ import annotations

from urllib.parse import urlsplit

from . import hygiene, origins, paths, policies
from .addresses import Method
from .html import Preamble
from .http1 import Body, Headers, RequestHead, ResponseHead, write_head
from .tickets import Ticket
from .visit import Visit

from coder_agent.hooks.web import CorsBehavior  # isort: skip


NOT_FOR_PAGES = frozenset([b"accept-encoding", b"if-none-match", b"if-modified-since", b"range", b"if-range"])
"""Pages are rewritten, each for its own address: they come whole and unpacked, and a browser's copy is not refreshed
by an answer without a body, whose policy would not know our script."""


def app_host(visit: Visit, ticket: Ticket) -> str:
    """The Host header for the app. A bare port on a path believes to be on localhost, as it is: programs that refuse
    other names (Jupyter, Vite, Django) need no setting. Declared apps get the browser's, as Coder gives it."""
    if visit.address.method is Method.PORTS:
        return f"localhost:{visit.address.port}"
    return visit.outside.partition("://")[2]


def inner_hosts(visit: Visit, ticket: Ticket) -> tuple[str, ...]:
    """Hosts by which the app may call itself in a URL."""
    inside = urlsplit(ticket.url)
    names = {app_host(visit, ticket).lower(), inside.netloc.lower()}
    if inside.port:
        names |= {f"{host}:{inside.port}" for host in ("localhost", "127.0.0.1", "0.0.0.0")}
    return tuple(sorted(names))


def outgoing_request(visit: Visit, ticket: Ticket, now: float) -> bytes:
    """The head for the app. `now` is the time of day, by which cookies end."""
    request = visit.request
    what = (request.method, visit.address, visit.sealed, ticket, visit.jar is None)
    last = visit.asker.head
    if last is not None and last[0] == what:
        lines = last[1]
    else:
        lines = _header_lines(visit, ticket)
        visit.asker.head = (what, lines)
    kept = visit.jar.header(visit.rest, now) if visit.jar is not None else b""
    cookie = b"\r\nCookie: " + kept if kept else b""
    return b"%b %b HTTP/1.1%b%b" % (request.method, hygiene.without_our_query(visit.rest), cookie, lines)


def _header_lines(visit: Visit, ticket: Ticket) -> bytes:
    """What follows the request line. The same for all requests of an asker with one method to one app."""
    request = visit.request
    upgrade = request.upgrade
    switching = bool(upgrade) and upgrade != b"h2c"  # an app that speaks HTTP/2 could be asked for anything behind it
    headers: Headers = [(b"Host", app_host(visit, ticket).encode("latin-1"))]
    passed = hygiene.to_app(request.headers, keep_upgrade=switching)
    headers += _inside(passed, visit, ticket) if visit.on_path else passed
    if request.body is Body.CHUNKED:
        headers.append((b"Transfer-Encoding", b"chunked"))
    scheme, _, host = visit.outside.partition("://")
    headers += [
        (b"X-Forwarded-For", visit.client.encode("latin-1")),
        (b"X-Forwarded-Host", host.encode("latin-1")),
        (b"X-Forwarded-Proto", scheme.encode("latin-1")),
    ]
    if visit.on_path:
        headers.append((b"X-Forwarded-Prefix", visit.base[:-1].encode("latin-1")))
    return write_head(b"", headers)


def _inside(headers: Headers, visit: Visit, ticket: Ticket) -> Headers:
    """Origin and Referer as the app knows itself; pages in HTML are asked for unpacked, for they are rewritten."""
    inside = f"{ticket.scheme}://{app_host(visit, ticket)}" if visit.address.method is Method.PORTS else visit.outside
    found: Headers = []
    for name, value in headers:
        low = name.lower()
        if low in (b"referer", b"origin"):
            value = paths.app_referer(value.decode("latin-1"), visit.base, visit.outside, inside).encode("latin-1")
        elif (low in NOT_FOR_PAGES and visit.is_navigation) or (low == b"cookie" and visit.jar is not None):
            continue
        found.append((name, value))
    return found


def outgoing_answer(
    visit: Visit,
    ticket: Ticket,
    response: ResponseHead,
    extra: Headers,
    *,
    keep: bool,
    preamble: Preamble | None = None,
) -> bytes:
    """The head for the browser. `preamble` stands in a page that is rewritten on its way."""
    if extra or preamble is not None:
        return _answer_head(visit, ticket, response, extra, keep, preamble)
    what = (visit.asker, visit.address, visit.sealed, ticket, keep)
    if response.passed and response.passed[0][0] == what:
        return response.passed[0][1]
    head = _answer_head(visit, ticket, response, extra, keep, None)
    response.passed[:] = [(what, head)]
    return head


def _answer_head(
    visit: Visit, ticket: Ticket, response: ResponseHead, extra: Headers, keep: bool, preamble: Preamble | None
) -> bytes:
    request = visit.request
    headers = hygiene.from_app(response.headers, keep_upgrade=response.status == 101)
    rewritten = preamble is not None
    if preamble is not None:
        headers = [field for field in headers if field[0].lower() not in (b"content-length", b"accept-ranges")]
        if any(name.lower() == policies.NAME for name, _ in headers):
            headers = policies.allow_scripts(headers, preamble.sources(), workers=ticket.sandboxed)
    if visit.on_path:
        headers = paths.rewrite_answer(headers, visit.base, inner_hosts(visit, ticket))
    if ticket.sandboxed:
        headers = origins.without_cors(headers)
        headers.append((b"Content-Security-Policy", paths.SANDBOX))
        headers += origins.cors_for_sandbox(request)
    elif ticket.cors is CorsBehavior.SIMPLE:
        headers = origins.without_cors(headers)
    headers += extra
    if request.minor == 1 and (rewritten or response.body is Body.CHUNKED):
        headers.append((b"Transfer-Encoding", b"chunked"))
    if not keep:
        headers.append((b"Connection", b"close"))
    elif request.minor == 0:
        headers.append((b"Connection", b"keep-alive"))
    return write_head(b"HTTP/1.1 %d %b" % (response.status, response.reason), headers)


def preflight_answer(visit: RequestHead, allowed: Headers) -> bytes:
    """Our own answer to a browser's CORS question; without `allowed` headers it means no."""
    headers: Headers = [*allowed, (b"Content-Length", b"0")]
    return write_head(b"HTTP/1.1 204 No Content", [field for field in headers if field[0] != b"Content-Length"])
