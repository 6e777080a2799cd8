"""TLS towards a relay: whom to trust, and whose name must be on the certificate.

Source: tailscale net/tlsdial/tlsdial.go SetConfigExpectedCert, SetConfigExpectedCertHash @de9ec7ee
"""

from __future__ import annotations

import hashlib
import hmac
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING

from coder_agent.base.derp_map import DerpNode
from coder_agent.errors import TransportBroken
from coder_agent.hooks.interfaces import DialOptions
from coder_agent.http import tls_context

from .meta_certificate import relay_key_in

if TYPE_CHECKING:
    from cryptography import x509  # 4 MB, used only for nodes with a certificate rule of their own

PIN_PREFIX = "sha256-raw:"

Check = Callable[[ssl.SSLObject], None]
"""Looks at an established TLS connection before anything is sent on it. Raises TransportBroken."""


def trust(node: DerpNode, dial: DialOptions) -> tuple[ssl.SSLContext, Check | None]:
    """The context for `node`, and what to check afterwards. Raises ConfigError."""
    if node.insecure_for_tests or dial.insecure:
        return tls_context(dial, verify=False), None
    if node.cert_name.startswith(PIN_PREFIX):
        pin = node.cert_name.removeprefix(PIN_PREFIX)
        return tls_context(dial, verify=False), lambda tls: check_pin(tls, pin, node.host_name)
    if node.cert_name and node.cert_name != node.host_name:
        return tls_context(dial, names=False), lambda tls: check_name(leaf(tls), node.cert_name)
    return tls_context(dial), None


def leaf(tls: ssl.SSLObject) -> x509.Certificate:
    """The server's certificate. Raises TransportBroken."""
    der = tls.getpeercert(binary_form=True)
    if der is None:
        raise TransportBroken("the relay showed no certificate")
    from cryptography import x509

    return x509.load_der_x509_certificate(der)


def chain_of(tls: ssl.SSLObject) -> list[bytes]:
    """The certificates that the relay showed, in DER, its own first. Python shows all of them from 3.13 on, before
    that the first alone."""
    shown: Callable[[], list[bytes]] | None = getattr(tls, "get_unverified_chain", None)
    if shown is not None:
        return shown()
    own = tls.getpeercert(binary_form=True)
    return [] if own is None else [own]


def check_pin(tls: ssl.SSLObject, pin: str, host: str) -> None:
    """The certificate must be the pinned one, in date, made for `host`, and shown alone but for the one that carries
    the relay's key: a pin replaces the chain, so nothing else has a business there."""
    certificate = leaf(tls)
    if len([der for der in chain_of(tls) if relay_key_in([der]) is None]) > 1:
        raise TransportBroken("the relay shows more certificates than the pinned one")
    digest = hashlib.sha256(tls.getpeercert(binary_form=True) or b"").hexdigest()
    if not hmac.compare_digest(digest, pin):
        raise TransportBroken(f"the relay's certificate does not match its pin: it is {PIN_PREFIX}{digest}")
    now = datetime.now(UTC)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise TransportBroken("the relay's pinned certificate is out of date")
    check_name(certificate, host)


def check_name(certificate: x509.Certificate, name: str) -> None:
    """`name` must be among the certificate's names; ``*.`` stands for one label. Raises TransportBroken."""
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise TransportBroken("the relay's certificate carries no names") from None
    try:
        address = ip_address(name)
    except ValueError:
        wanted = name.lower().rstrip(".")
        good = any(_matches(pattern.lower(), wanted) for pattern in names.get_values_for_type(x509.DNSName))
    else:
        good = address in names.get_values_for_type(x509.IPAddress)
    if not good:
        raise TransportBroken(f"the relay's certificate is not for {name}")


def _matches(pattern: str, name: str) -> bool:
    if pattern.startswith("*."):
        first, _, rest = name.partition(".")
        return bool(first) and rest == pattern[2:]
    return pattern == name
