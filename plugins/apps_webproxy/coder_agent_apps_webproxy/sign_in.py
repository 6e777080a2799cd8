"""How a visitor whom the dashboard knows becomes known on an app's own host, where the dashboard's cookie does not go.

1. The app's host sends him to ``/api/v2/applications/auth-redirect`` on the access URL and leaves a nonce in a cookie.
2. There he is signed in, or signs in; he gets a key that opens apps only, encrypted for that host and nonce, for a
   minute and for one use, and goes back with it in the query.
3. The host puts the key into a cookie for all app hosts and sends him to the URL he wanted, without the key.

The nonce makes sure that the browser that comes back is the one that was sent: nobody can sign somebody else in as
himself with a link. Source: coder coderd/workspaceapps.go and workspaceapps/proxy.go (without a nonce).
"""

from __future__ import annotations

import re
from urllib.parse import parse_qs, quote, urlsplit

from .addresses import BadAddress, parse_label
from .visits import AUTH_PATH, LOGOUT_LABEL, Places

KEY_PARAMETER = "coder_application_connect_api_key_35e783"
"""Source: coder coderd/workspaceapps/request.go, SubdomainProxyAPIKeyParam."""
STATE_COOKIE = "coder_subdomain_app_session_token_state"
"""Begins like our other cookies, so it never reaches an app."""
STATE_SECONDS = 600
SMUGGLED_SECONDS = 60.0
APP_SESSION_SECONDS = 7 * 86400.0
"""At most; a key ends with the session it was made in."""

_KEY = re.compile(rf"(?:^|(?<=&)){KEY_PARAMETER}=([^&]*)&?")
_NONCE = re.compile(r"[A-Za-z0-9_-]{16,64}")


def smuggled_key(query: str) -> str:
    """The sealed key in a query; empty if there is none."""
    found = _KEY.search(query)
    return found[1] if found else ""


def without_key(query: str) -> str:
    """The query without it."""
    return _KEY.sub("", query).rstrip("&")


def auth_redirect_url(access_url: str, wanted: str, nonce: str) -> str:
    """Where the app's host sends a stranger."""
    return f"{access_url}{AUTH_PATH.decode()}?redirect_uri={quote(wanted, safe='')}&state={nonce}"


def login_url(access_url: str, target: str) -> str:
    """The sign-in page, which leads back to `target`, a path of ours."""
    return f"{access_url}/login?next={quote(target, safe='')}"


def wanted_url(query: str, places: Places) -> tuple[str, str, str]:
    """(URL, its host, nonce) of a request to step 2. Raises BadAddress for anything but a URL of an app host of ours:
    this must not become a way to send people, or their keys, elsewhere."""
    fields = parse_qs(query, max_num_fields=20)
    url, nonce = fields.get("redirect_uri", [""])[0], fields.get("state", [""])[0]
    if not _NONCE.fullmatch(nonce):
        raise BadAddress("The parameter “state” is missing. Open the app again.")
    if any(character <= " " or character in "\\\x7f" for character in url):
        raise BadAddress("The parameter “redirect_uri” is not a URL.")
    try:
        parts = urlsplit(url)
        host = parts.netloc.lower()
        _ = parts.port
    except ValueError:
        raise BadAddress("The parameter “redirect_uri” is not a URL.") from None
    label = places.label_of(host) if "@" not in host else None
    if parts.scheme not in ("http", "https") or not label or places.wildcard is None:
        raise BadAddress("The parameter “redirect_uri” is not the URL of an app of this server.")
    access = urlsplit(places.access_url)
    if parts.scheme != access.scheme or parts.port not in {None, access.port, places.wildcard.port}:
        raise BadAddress("The parameter “redirect_uri” is not the URL of an app of this server.")
    if label != LOGOUT_LABEL:
        parse_label(label)
    return url, host, nonce


def purpose(host: str, nonce: str) -> str:
    """What a smuggled key is bound to."""
    return f"smuggle\0{host.lower()}\0{nonce}"


def with_key(url: str, sealed: str) -> str:
    """The URL with the key in its query, before a fragment."""
    before, mark, fragment = url.partition("#")
    return f"{before}{'&' if '?' in before else '?'}{KEY_PARAMETER}={sealed}{mark}{fragment}"


def set_cookie(
    name: str, value: str, *, path: str = "/", domain: str = "", seconds: float, secure: bool, same_site: str = "Lax"
) -> tuple[bytes, bytes]:
    """A Set-Cookie header: never for scripts, not for other sites."""
    parts = [f"{name}={value}", f"Path={path}", f"Max-Age={int(seconds)}", "HttpOnly", f"SameSite={same_site}"]
    if domain:
        parts.append(f"Domain={domain}")
    if secure:
        parts.append("Secure")
    return b"Set-Cookie", "; ".join(parts).encode("latin-1")
