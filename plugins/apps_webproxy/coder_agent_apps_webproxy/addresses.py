"""Which app does a URL mean? Path apps, ports on paths, and labels of subdomain hosts.

Layout: ``/@OWNER/WORKSPACE[.AGENT]/apps/SLUG/…`` and ``/@OWNER/WORKSPACE[.AGENT]/ports/PORT[s]/…``;
``[PREFIX---]SLUG_OR_PORT[s][--AGENT]--WORKSPACE--OWNER`` as the first label below the wildcard host.
What follows is the app's own and is kept as it was sent. Source: coder coderd/workspaceapps/appurl/appurl.go.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

MIN_PORT = 9
"""Ports below are services of the agent itself. Source: coder codersdk/workspacesdk, AgentMinimumListeningPort."""
MAX_LABEL = 63
"""Bytes of one label of a host name. Source: RFC 1035 §2.3.4."""

_NAME = r"[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*"
_PATH = re.compile(rf"/(?:@|%40)({_NAME})/({_NAME})(?:\.({_NAME}))?/(apps|ports)/([A-Za-z0-9_-]+)(?=[/?]|$)".encode())
_LIKE_PATH = re.compile(rb"/(?:@|%40)[^/?]+/[^/?]+/(?:apps|ports)/")
_PORT = re.compile(r"(\d{1,5})(s?)")
_LABEL_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_HOST = re.compile(r"(?P<name>[a-z0-9._-]+?)\.?(?::(?P<port>\d{1,5}))?")


class Method(StrEnum):
    """How an app is addressed. Source: coder coderd/workspaceapps, AccessMethod; `PORTS` is ours."""

    PATH = "path"
    PORTS = "ports"
    SUBDOMAIN = "subdomain"


class BadAddress(ValueError):
    """This names no app. The text is for the visitor."""


@dataclass(frozen=True, slots=True)
class AppAddress:
    """One app or port of one workspace. `slug` is empty for ports, `port` 0 for apps; `agent` empty = the only one.

    `base` is the path below which the app lives: ``/`` on a host of its own. `tls`: the port wants HTTPS.
    """

    method: Method
    owner: str
    workspace: str
    agent: str
    slug: str
    port: int
    tls: bool
    base: str
    host: str = ""

    @property
    def app(self) -> str:
        """Slug or port, as in the URL."""
        return self.slug or f"{self.port}{'s' if self.tls else ''}"

    @property
    def place(self) -> str:
        """``workspace.agent`` as in the URL."""
        return f"{self.workspace}.{self.agent}" if self.agent else self.workspace

    def label(self) -> str:
        """The subdomain of this app. Raises BadAddress if it would be longer than a label may be."""
        label = "--".join(part for part in (self.app, self.agent, self.workspace, self.owner) if part).lower()
        if len(label) > MAX_LABEL:
            raise BadAddress(f"{label} has {len(label)} characters; a host name's label has {MAX_LABEL} at most")
        return label

    def other_scheme(self) -> AppAddress:
        """The same port over HTTPS instead of HTTP, or the other way round."""
        app = f"{self.port}{'' if self.tls else 's'}"
        base = f"{self.base[: -len(self.app) - 1]}{app}/" if self.method is Method.PORTS else self.base
        return AppAddress(
            self.method, self.owner, self.workspace, self.agent, "", self.port, not self.tls, base, self.host
        )


def looks_like_path(target: bytes) -> bool:
    """Is this request target below ``/@…/…/apps/`` or ``…/ports/``, well formed or not?"""
    return _LIKE_PATH.match(target) is not None


def parse_path(target: bytes) -> tuple[AppAddress, bytes]:
    """Address and rest of a request target. The rest begins with ``/`` or is empty if the slash behind the app is
    missing; a query stays with it. Raises BadAddress."""
    found = _PATH.match(target)
    if found is None:
        raise BadAddress(
            "This is not the address of an app: it is /@owner/workspace.agent/apps/name/ or …/ports/8080/."
        )
    return _address_at(found[0]), target[found.end() :]


@lru_cache(1024)
def _address_at(path: bytes) -> AppAddress:
    found = _PATH.fullmatch(path)
    assert found is not None
    owner, workspace, agent, kind, app = ((part or b"").decode() for part in found.groups())
    if owner == "me":  # Source: appurl.go: the same URL would mean another app for each visitor
        raise BadAddress("An app's address names its owner: write their user name instead of “me”.")
    slug, port, tls = (app, 0, False) if kind == "apps" else ("", *parse_port(app))
    base = f"/@{owner}/{workspace}{f'.{agent}' if agent else ''}/{kind}/{app}/"
    method = Method.PATH if kind == "apps" else Method.PORTS
    return AppAddress(method, owner, workspace, agent, slug, port, tls, base)


def parse_port(text: str) -> tuple[int, bool]:
    """``8080`` or, for HTTPS, ``8443s``. Raises BadAddress."""
    found = _PORT.fullmatch(text)
    if found is None:
        raise BadAddress(f"“{text}” is not a port: write a number, with an s behind it if the app speaks HTTPS.")
    port = int(found[1])
    if not MIN_PORT <= port <= 65535:
        raise BadAddress(f"Port {port} cannot be opened: ports go from {MIN_PORT} to 65535.")
    return port, bool(found[2])


def parse_label(label: str, host: str = "") -> AppAddress:
    """Read the first label of an app's host, without what is glued to it. Raises BadAddress."""
    text = label.lower()
    if len(text) > MAX_LABEL:
        raise BadAddress(f"The first label of this host name has more than {MAX_LABEL} characters.")
    parts = text.rpartition("---")[2].split("--")
    if not 3 <= len(parts) <= 4 or not all(_LABEL_NAME.fullmatch(part) for part in parts):
        raise BadAddress("An app's host is named app--workspace--owner or port--agent--workspace--owner.")
    app, owner, workspace = parts[0], parts[-1], parts[-2]
    agent = parts[1] if len(parts) == 4 else ""
    slug, port, tls = ("", *parse_port(app)) if _PORT.fullmatch(app) else (app, 0, False)
    return AppAddress(Method.SUBDOMAIN, owner, workspace, agent, slug, port, tls, "/", host)


def split_host(value: str) -> tuple[str, int | None]:
    """Name in lower case without a final dot, and port, of a Host header. Raises BadAddress."""
    found = _HOST.fullmatch(value.lower())
    if found is None:
        if value.startswith("["):  # an IPv6 literal is nobody's app
            return value, None
        raise BadAddress("The Host header of this request is not a host name.")
    return found["name"], int(found["port"]) if found["port"] else None


@dataclass(frozen=True, slots=True)
class Wildcard:
    """The pattern of app hosts, ``*.apps.example.com`` or glued, ``*-apps.example.com``. `suffix` is all but the
    star."""

    suffix: str
    port: int | None = None

    @classmethod
    def parse(cls, pattern: str) -> Wildcard | None:
        """Read a wildcard access URL; None if there is none. Raises BadAddress."""
        text = pattern.strip().lower().removeprefix("http://").removeprefix("https://").rstrip("/")
        if not text:
            return None
        name, port = split_host(text.replace("*", "x", 1))
        if not text.startswith("*") or "*" in text[1:] or name.count(".") < 1 or "/" in text:
            raise BadAddress(f"{pattern!r} is no wildcard host such as *.apps.example.com")
        return cls(name[1:], port)

    @property
    def cookie_domain(self) -> str:
        """The domain of all app hosts."""
        return self.suffix.partition(".")[2]

    def label_of(self, name: str) -> str | None:
        """The app's label in a host name, None when it is no app host. A second label makes no app either, but the host
        is still ours to refuse: then this is ``""``."""
        if not name.endswith(self.suffix) or len(name) == len(self.suffix):
            return None
        label = name[: -len(self.suffix)]
        return "" if "." in label or len(name.partition(".")[0]) > MAX_LABEL else label

    def host_of(self, address: AppAddress, port: int | None) -> str:
        """The host, with a port if it needs one, at which an app is reached. Raises BadAddress (label too long)."""
        label = address.label()
        name = f"{label}{self.suffix}"
        if len(name.partition(".")[0]) > MAX_LABEL:
            raise BadAddress(f"{label} is too long for a host name below *{self.suffix}")
        port = self.port or port
        return f"{name}:{port}" if port else name
