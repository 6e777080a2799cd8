"""Content security policies of apps: what must change in them so that our own script may run at the top of a page.

An app that names the scripts it allows (``script-src 'self'``, as TensorBoard does) would shut ours out. Ours is
allowed by its hash, which allows nothing else; and in a sandbox ``blob:`` for workers, because our script starts an
app's workers by way of one there. Source: CSP Level 3, §6.7.3 (does a source list allow all inline behaviour?), §6.1.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from .http1 import Headers

NAME = b"content-security-policy"
_GOVERNS = (b"script-src-elem", b"script-src", b"default-src")
"""Who says which script elements may run: the first that is there."""
_GOVERNS_WORKERS = (b"worker-src", b"child-src", b"script-src", b"default-src")
_EXACT = (b"'nonce-", b"'sha256-", b"'sha384-", b"'sha512-")

Policy = dict[bytes, list[bytes]]
"""Directives with their sources."""


def hash_source(script: bytes) -> bytes:
    """The source expression that allows an inline script with this text."""
    return b"'sha256-%b'" % base64.b64encode(hashlib.sha256(script).digest())


def allow_scripts(headers: Headers, sources: Sequence[bytes], *, workers: bool = False) -> Headers:
    """An answer's headers, with `sources` allowed in every policy that would refuse them; with `workers` also workers
    of the page's own making."""

    def allowed(policy: bytes) -> bytes:
        directives = [part.strip() for part in policy.split(b";") if part.strip()]
        found = {part.split(None, 1)[0].lower(): part.split()[1:] for part in reversed(directives)}
        changed = _with_scripts(found, sources) | (_with_workers(found) if workers else {})
        kept = [part for part in directives if part.split(None, 1)[0].lower() not in changed]
        return b"; ".join([*kept, *(name + b" " + b" ".join(listed) for name, listed in changed.items())])

    return [
        (name, b", ".join(allowed(policy) for policy in value.split(b",")) if name.lower() == NAME else value)
        for name, value in headers
    ]


def _with_scripts(policy: Policy, sources: Sequence[bytes]) -> Policy:
    """The directives that must change."""
    governing = next((name for name in _GOVERNS if name in policy), None)
    if governing is None or _allows_inline([source.lower() for source in policy[governing]]):
        return {}  # a hash would end that
    name = b"script-src" if governing == b"default-src" else governing  # scripts alone
    return {name: [*_sources(policy[governing]), *sources]}


def _with_workers(policy: Policy) -> Policy:
    governing = next((name for name in _GOVERNS_WORKERS if name in policy), None)
    return {b"worker-src": [*_sources(policy[governing]), b"blob:"]} if governing is not None else {}


def _sources(listed: Sequence[bytes]) -> list[bytes]:
    return [source for source in listed if source.lower() != b"'none'"]


def _allows_inline(listed: Sequence[bytes]) -> bool:
    exact = any(source.startswith(_EXACT) or source == b"'strict-dynamic'" for source in listed)
    return b"'unsafe-inline'" in listed and not exact
