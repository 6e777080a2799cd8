"""The texts of pages.py: one for each way in which an app cannot be shown."""

from __future__ import annotations

from datetime import datetime

from .addresses import AppAddress
from .pages import Notice


def not_found(dashboard: str) -> Notice:
    """Unknown or forbidden, nobody can tell which."""
    return Notice(
        404,
        "There is no such app, or it is not shared with you",
        "Nothing at this address is open to you.",
        "Check the address, sign in as somebody else, or ask the workspace's owner to share it.",
        [("Go to the dashboard", dashboard)],
    )


def bad_address(reason: str, dashboard: str) -> Notice:
    """The URL names nothing."""
    return Notice(404, "This is not the address of an app", reason, "", [("Go to the dashboard", dashboard)])


def bad_host(reason: str, dashboard: str) -> Notice:
    """The host name names nothing. Source: coder coderd/workspaceapps/proxy.go, "Invalid Application URL"."""
    return Notice(400, "Invalid application URL", reason, "", [("Go to the dashboard", dashboard)])


def bad_request(reason: str, status: int = 400) -> Notice:
    """Not a request that may be passed on."""
    return Notice(status, "This request cannot be passed on", reason)


def foreign_page() -> Notice:
    """Another site's page uses this visitor's cookies."""
    return Notice(
        403,
        "This request comes from another site",
        "Its Origin header names a page that does not belong to this app or its owner.",
        "Open the app itself. An app that is meant to be used by other sites can answer CORS itself (passthru).",
    )


def sign_in_needed(sign_in: str) -> Notice:
    """For programs; browsers are led to the sign-in."""
    return Notice(
        401,
        "Sign in to open this app",
        "It is not public, and this request brings no valid session.",
        "Programs send a token in the header Coder-Session-Token.",
        [("Sign in", sign_in)],
    )


def workspace_offline(place: str, status: str, since: datetime | None, dashboard: str) -> Notice:
    """The agent is not connected."""
    when = f" since {since:%Y-%m-%d %H:%M} UTC" if since is not None else ""
    if status == "connecting":
        what = f"The agent of {place} has not connected yet."
    else:
        what = f"The agent of {place} has been offline{when}."
    return Notice(
        503,
        "The workspace is offline",
        what,
        "Start the workspace's machine, or `coder-agent run` on it; then try again.",
        [("Try again", ""), ("Go to the dashboard", dashboard)],
    )


def unreachable(place: str, reason: str, dashboard: str) -> Notice:
    """It is connected, but no packet gets through."""
    return Notice(
        502,
        "The workspace does not answer",
        f"{place} is connected to this server, but the server cannot reach it: {reason}",
        "`coder ping` and `coder netcheck` say why packets do not get through.",
        [("Try again", ""), ("Go to the dashboard", dashboard)],
    )


def not_listening(what: str, place: str, dashboard: str) -> Notice:
    """Nobody accepts connections there."""
    return Notice(
        502,
        "The app is not running",
        f"Nothing accepts connections on {what} in {place}.",
        "Start the app there, let it listen on localhost, and try again.",
        [("Try again", ""), ("Go to the dashboard", dashboard)],
    )


def wrong_scheme(address: AppAddress, tls: bool, switch: str) -> Notice:
    """TLS where there is none, or the other way round."""
    speaks, wanted = ("plain HTTP", "HTTPS") if tls else ("HTTPS", "plain HTTP")
    name = f"{address.port}{'' if tls else 's'}" if address.port else ("http://…" if tls else "https://…")
    return Notice(
        502,
        f"The app speaks {speaks}",
        f"It was asked in {wanted}, and does not understand that.",
        f"Use {name} in its address instead.",
        [(f"Open it with {speaks}", switch)] if switch else [],
    )


def app_failed(reason: str) -> Notice:
    """It accepted the request, then broke off or talked nonsense."""
    return Notice(
        502,
        "The app broke off",
        f"It accepted the request, but gave no usable answer: {reason}",
        "The app's own log in the workspace says more.",
        [("Try again", "")],
    )


def no_answer(seconds: float) -> Notice:
    """It accepted the request and never answered."""
    return Notice(
        504,
        "The app did not answer in time",
        f"It accepted the request, but sent nothing for {seconds:.0f} seconds.",
        "Look whether it is busy or stuck in the workspace, then try again.",
        [("Try again", "")],
    )


def unknown_scheme(scheme: str) -> Notice:
    """No plugin knows how to reach it."""
    return Notice(
        502,
        "This server cannot reach such an app",
        f"Its URL begins with {scheme}://, and no plugin of the server knows that.",
        "Change the app's URL to http:// or https://, or install the plugin that offers the scheme.",
    )


def busy() -> Notice:
    """A bound of ours."""
    return Notice(503, "Too many connections", "This server serves as many app connections as it may.", "Try again.")
