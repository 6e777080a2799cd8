"""Where programs that serve listen, and with which TLS files: settings read, with sentences about what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ..errors import ConfigError


class HostPort(NamedTuple):
    """Where to listen or whom to ask."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(
    setting: str, text: str, default_port: int | None = None, *, example: str, needs_colon: bool = False
) -> HostPort:
    """Read ``host:port``, ``[v6]:port`` or ``:port`` (all addresses).

    With `default_port`, a host alone is enough; unless `needs_colon`, so is a port without it. Raises ConfigError
    naming `setting`, with `example` as the hint.
    """
    host, colon, port = text.rpartition(":")
    if default_port is not None and (not colon or (":" in host and not host.startswith("["))):
        host, port = text, str(default_port)
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    is_port = port.isascii() and port.isdigit() and int(port) <= 65535
    if not is_port or (":" in bare and not bracketed) or (needs_colon and not colon):
        raise ConfigError(f"{setting}: {text!r} is not host:port", hint=f"for example {example}")
    return HostPort(bare or "0.0.0.0", int(port))


def require_tls_pair(cert: str, key: str) -> None:
    """A certificate without its key is a mistake, and so is the reverse. Raises ConfigError."""
    if bool(cert) != bool(key):
        given, missing = ("tls_cert_file", "tls_key_file") if cert else ("tls_key_file", "tls_cert_file")
        raise ConfigError(f"{given} is set, {missing} is not", hint="TLS needs both files")


def require_tls_files(cert: str, key: str) -> None:
    """Both files must be there. Raises ConfigError."""
    for setting, path in (("tls_cert_file", cert), ("tls_key_file", key)):
        if path and not Path(path).is_file():
            raise ConfigError(f"{setting}: there is no file {path}")
