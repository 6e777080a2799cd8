"""Content security policies of apps: what must change in them so that our own script may run at the top of a page.

An app that names the scripts it allows (``script-src 'self'``, as TensorBoard does) would shut ours out. Ours is allowed
by its hash, which allows nothing else. Source: CSP Level 3, §6.7.3 (does a source list allow all inline behaviour?).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from .http1 import Headers

NAME = b"content-security-policy"
_GOVERNS = (b"script-src-elem", b"script-src", b"default-src")
"""Who says which script elements may run: the first that is there."""
_EXACT = (b"'nonce-", b"'sha256-", b"'sha384-", b"'sha512-")


def hash_source(script: bytes) -> bytes:
    """The source expression that allows an inline script with this text."""
    return b"'sha256-%b'" % base64.b64encode(hashlib.sha256(script).digest())


def allow_scripts(headers: Headers, sources: Sequence[bytes]) -> Headers:
    """An answer's headers, with `sources` allowed in every policy that would refuse them."""
    return [
        (name, b",".join(_allowed(policy, sources) for policy in value.split(b",")) if name.lower() == NAME else value)
        for name, value in headers
    ]


def _allowed(policy: bytes, sources: Sequence[bytes]) -> bytes:
    directives = [part.strip() for part in policy.split(b";")]
    named = {part.split(None, 1)[0].lower(): at for at, part in reversed(list(enumerate(directives))) if part}
    governing = next((name for name in _GOVERNS if name in named), None)
    if governing is None:
        return policy
    _, *listed = directives[named[governing]].split()
    if _allows_inline([source.lower() for source in listed]):
        return policy  # a hash would end that
    wanted = [source for source in listed if source.lower() != b"'none'"] + list(sources)
    if governing == b"default-src":  # scripts alone
        directives.append(b"script-src " + b" ".join(wanted))
    else:
        directives[named[governing]] = governing + b" " + b" ".join(wanted)
    return b"; ".join(part for part in directives if part)


def _allows_inline(listed: Sequence[bytes]) -> bool:
    exact = any(source.startswith(_EXACT) or source == b"'strict-dynamic'" for source in listed)
    return b"'unsafe-inline'" in listed and not exact
