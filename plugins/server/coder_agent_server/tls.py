"""TLS contexts: one certificate for everybody, or by the host name that the client asks for (SNI, RFC 6066 §3)."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from coder_agent.errors import ConfigError

from .options import TlsOptions


def new_context(options: TlsOptions) -> ssl.SSLContext:
    """A context without a certificate yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = options.min_version
    context.set_alpn_protocols(["http/1.1"])  # the relay's upgrade does not exist in HTTP/2
    return context


def tls_context(options: TlsOptions) -> ssl.SSLContext:
    """The first certificate and its key, loaded. Raises ConfigError."""
    return _loaded(options, options.cert_file, options.key_file)


def _loaded(options: TlsOptions, cert: Path, key: Path) -> ssl.SSLContext:
    context = new_context(options)
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as exc:
        reason = getattr(exc, "reason", None) or exc.strerror or str(exc)
        raise ConfigError(
            f"cannot use the certificate {cert} with the key {key}: {reason}",
            hint="both must be PEM files, and the key must belong to the certificate",
        ) from exc
    return context


@dataclass(slots=True)
class ByName:
    """Further certificates. Put `choose` into the main context's `sni_callback`; `load` again when files changed."""

    options: TlsOptions
    _table: list[tuple[frozenset[str], ssl.SSLContext]] = field(default_factory=list)

    def load(self) -> None:
        """Read them all, or leave everything as it was. Raises ConfigError."""
        self._table = [(names_of(cert), _loaded(self.options, cert, key)) for cert, key in self.options.more]

    def choose(self, connection: ssl.SSLObject, name: str | None, main: ssl.SSLContext) -> None:
        """ssl's callback: another context if one has the name, an exact match before a wildcard."""
        wanted = (name or "").lower().rstrip(".")
        for candidate in (wanted, f"*.{wanted.partition('.')[2]}"):
            for names, context in self._table:
                if candidate in names:
                    connection.context = context
                    return


def names_of(cert: Path) -> frozenset[str]:
    """The host names of a certificate (subject alternative names), in lower case. Raises ConfigError."""
    from cryptography import x509  # at first use

    try:
        found = x509.load_pem_x509_certificate(cert.read_bytes())
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()
    except (OSError, ValueError) as exc:
        raise ConfigError(f"cannot read the certificate {cert}: {exc}", hint="it must be a PEM file") from exc
    return frozenset(name.lower() for name in names.get_values_for_type(x509.DNSName))


def stamps(files: Sequence[Path]) -> tuple[tuple[int, int], ...]:
    """What tells that a file was changed or replaced; blocks for a moment. A missing file has its own stamp."""
    found = []
    for path in files:
        try:
            status = path.stat()
        except OSError:
            found.append((0, 0))
        else:
            found.append((status.st_mtime_ns, status.st_ino))
    return tuple(found)
