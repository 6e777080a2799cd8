"""TLS contexts for outgoing connections: whom we trust, and who we say we are."""

from __future__ import annotations

import ssl
from functools import lru_cache
from pathlib import Path

import truststore

from ..errors import ConfigError
from ..hooks.interfaces import DialOptions


def tls_context(options: DialOptions, *, verify: bool = True, names: bool = True) -> ssl.SSLContext:
    """Trust the system's certificates, by the system's own rules, and those in `options.ca_file`; show the client
    certificate of `options` to whoever asks for one. `names` False: any name is good, the caller looks himself.

    Raises ConfigError for a file that cannot be used.
    """
    verify = verify and not options.insecure
    return _context(options.ca_file, options.client_cert_file, options.client_key_file, verify, names)


@lru_cache(maxsize=16)
def _context(
    ca_file: str | None, cert_file: str | None, key_file: str | None, verify: bool, names: bool
) -> ssl.SSLContext:
    """Kept, because loading the system's certificates takes 20 ms."""
    if verify:
        context: ssl.SSLContext = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = names
        if ca_file:
            _add_authority(context, ca_file)
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if cert_file or key_file:
        _show(context, cert_file or "", key_file)
    context.set_alpn_protocols(["http/1.1"])  # upgrades do not exist in HTTP/2
    return context


def _add_authority(context: ssl.SSLContext, path: str) -> None:
    try:
        context.load_verify_locations(Path(path).expanduser())
    except OSError as exc:  # ssl.SSLError is one
        raise ConfigError(f"the CA file {path} cannot be used: {exc.strerror or exc}") from exc


def _show(context: ssl.SSLContext, cert_file: str, key_file: str | None) -> None:
    if not cert_file:
        raise ConfigError(
            "there is a key for a client certificate, but no certificate",
            hint="set client_cert_file in [network], or CODER_CLIENT_TLS_CERT_FILE",
        )

    def no_password() -> str:
        raise ConfigError(
            f"the key of the client certificate {cert_file} is encrypted", hint="decrypt it: openssl pkey"
        )

    try:
        key = Path(key_file).expanduser() if key_file else None
        context.load_cert_chain(Path(cert_file).expanduser(), key, password=no_password)
    except OSError as exc:  # ssl.SSLError is one
        reason = getattr(exc, "reason", None) or exc.strerror or exc
        what = f"{cert_file} with the key {key_file}" if key_file else cert_file
        raise ConfigError(
            f"the client certificate {what} cannot be used: {reason}",
            hint="it must be PEM, and the key the certificate's own; without client_key_file, in the same file",
        ) from exc
