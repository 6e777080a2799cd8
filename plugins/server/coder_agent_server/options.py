"""Settings as checked values: every fault is found here, before anything is opened."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path
from ssl import TLSVersion
from typing import NamedTuple
from urllib.parse import urlsplit

from typer import BadParameter

from coder_agent.base.path_rules import DirectRule, PathRules
from coder_agent.base.path_rules_json import MAX_REGION
from coder_agent.cli import listening
from coder_agent.cli.durations import parse_duration
from coder_agent.cli.listening import HostPort as HostPort
from coder_agent.cli.listening import require_tls_files, require_tls_pair
from coder_agent.errors import ConfigError

from .settings import ServerSettings
from .trusted_proxies import ADDRESS_HEADERS, TrustedProxies, known_headers

STUN_PORT = 3478
"""RFC 8489 §18.6."""
DISABLE = "disable"


class AccessUrl(NamedTuple):
    """The server's one address, taken apart."""

    scheme: str
    host: str
    port: int

    @property
    def text(self) -> str:
        """``scheme://host[:port]`` without a trailing slash; the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = {"http": 80, "https": 443}[self.scheme]
        return f"{self.scheme}://{host}" + ("" if self.port == default else f":{self.port}")


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """Where HTTPS listens, with what. `more`: further pairs of certificate and key, chosen by host name; who names
    none, or an unknown one, gets the first."""

    address: HostPort
    cert_file: Path
    key_file: Path
    more: tuple[tuple[Path, Path], ...] = ()
    min_version: TLSVersion = TLSVersion.TLSv1_2

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them."""
        return (self.cert_file, self.key_file, *(path for pair in self.more for path in pair))


@dataclass(frozen=True, slots=True)
class RelayOptions:
    """The embedded relay and what the relay map says."""

    enable: bool
    region_id: int
    region_code: str
    region_name: str
    stun_addresses: tuple[HostPort, ...]
    stun_disabled: bool
    force_websockets: bool


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Everything a server is started with. `stun_address` None = no embedded responder."""

    name: str
    access_url: AccessUrl | None
    wildcard_access_url: str
    """Host pattern of subdomain apps in lower case; empty = there are none."""
    http_address: HostPort | None
    http_socket: Path | None
    tls: TlsOptions | None
    data_dir: Path
    relay: RelayOptions
    rules: PathRules
    stun_address: HostPort | None
    stun_address_is_default: bool
    metrics_address: HostPort | None
    hostname_prefix: str
    hostname_suffix: str
    secure_cookie: bool
    redirect_to_access_url: bool
    proxies: TrustedProxies
    hsts: str
    """Value of Strict-Transport-Security; empty = none."""
    api_rate_limit: int
    login_rate_limit: int
    session_duration: timedelta
    health_refresh: float
    """Seconds for which a health report is good enough."""
    health_database: float
    """Seconds from which the database is slow."""

    @property
    def block_direct(self) -> bool:
        """Is everybody relayed?"""
        return self.rules.direct is DirectRule.NEVER

    @property
    def database_path(self) -> Path:
        """The SQLite file."""
        return self.data_dir / "coder.db"


def resolve_options(settings: ServerSettings, default_data_dir: Callable[[], Path]) -> ServerOptions:
    """Check `settings`. Raises ConfigError naming the setting and what would be right."""
    http = parse_address("http_address", settings.http_address) if settings.http_address else None
    tls = _tls(settings)
    socket_path = Path(settings.http_socket).expanduser() if settings.http_socket else None
    if http is None and tls is None and socket_path is None:
        raise ConfigError("nothing to listen on: http_address is empty and TLS is off", hint="set --http-address")
    listen = http or (tls.address if tls else None)
    if listen is None and not settings.access_url:
        raise ConfigError("a unix socket alone has no address for others", hint="set --access-url")
    stun, is_default = _stun(settings, listen or HostPort("127.0.0.1", STUN_PORT))
    return ServerOptions(
        name=settings.name,
        access_url=parse_access_url(settings.access_url) if settings.access_url else None,
        wildcard_access_url=parse_wildcard(settings.wildcard_access_url),
        http_address=http,
        http_socket=socket_path,
        tls=tls,
        data_dir=Path(settings.data_dir).expanduser() if settings.data_dir else default_data_dir(),
        relay=_relay(settings),
        rules=_rules(settings),
        stun_address=stun,
        stun_address_is_default=is_default,
        metrics_address=(
            parse_address("prometheus_address", settings.prometheus_address) if settings.prometheus_enable else None
        ),
        hostname_prefix=settings.ssh_hostname_prefix,
        hostname_suffix=settings.workspace_hostname_suffix.strip("."),
        secure_cookie=settings.secure_auth_cookie,
        redirect_to_access_url=_redirect(settings),
        proxies=_proxies(settings),
        hsts=_hsts(settings),
        api_rate_limit=settings.api_rate_limit,
        login_rate_limit=settings.login_rate_limit,
        session_duration=timedelta(hours=max(1, settings.session_duration_hours)),
        health_refresh=_seconds("health_check_refresh", settings.health_check_refresh),
        health_database=_seconds("health_check_threshold_database", settings.health_check_threshold_database),
    )


def parse_access_url(text: str) -> AccessUrl:
    """Read the access URL. Raises ConfigError."""
    hint = "write it like https://coder.example.com or http://10.0.0.5:3000"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as exc:
        raise ConfigError(f"access_url: {text!r} is not a URL: {exc}", hint=hint) from exc
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"access_url: {text!r} is not an http or https URL", hint=hint)
    if parts.path.strip("/") or parts.query or parts.fragment or parts.username is not None:
        raise ConfigError(f"access_url: {text!r} has more than a scheme, a host and a port", hint=hint)
    return AccessUrl(parts.scheme, parts.hostname, port or {"http": 80, "https": 443}[parts.scheme])


_WILDCARD = re.compile(
    r"\*(?:-?[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)+\.?(?::([0-9]{1,5}))?"
)


def parse_wildcard(text: str) -> str:
    """Read the wildcard access URL: one ``*`` at the start, two labels or more, no scheme, perhaps a port. Lower case.

    Raises ConfigError. Source: coder coderd/workspaceapps/appurl/appurl.go, CompileHostnamePattern.
    """
    pattern = text.strip().lower()
    if not pattern:
        return ""
    hint = "write it like *.apps.example.com or *-apps.example.com"
    match = _WILDCARD.fullmatch(pattern)
    if match is None or not 0 < int(match[1] or 1) < 1 << 16:
        raise ConfigError(f"wildcard_access_url: {text!r} is not a host pattern", hint=hint)
    return pattern


def parse_address(setting: str, text: str, default_port: int | None = None) -> HostPort:
    """Read ``host:port``, ``[v6]:port`` or ``:port`` (all addresses). Raises ConfigError naming `setting`."""
    return listening.parse_address(setting, text, default_port, example="127.0.0.1:3000 or [::]:3000")


def _seconds(setting: str, text: str) -> float:
    try:
        return parse_duration(text)
    except BadParameter as exc:
        raise ConfigError(f"{setting}: {exc.message}") from exc


def _tls(settings: ServerSettings) -> TlsOptions | None:
    certs, keys = settings.tls_cert_file, settings.tls_key_file
    require_tls_pair(",".join(certs), ",".join(keys))
    if len(certs) != len(keys):
        raise ConfigError(
            f"{len(certs)} certificates, but {len(keys)} keys", hint="--tls-cert-file and --tls-key-file go in pairs"
        )
    if not settings.tls_enable:
        return None
    if not certs:
        raise ConfigError(
            "tls_enable is on, but there is no certificate", hint="set --tls-cert-file and --tls-key-file"
        )
    pairs = [(Path(cert), Path(key)) for cert, key in zip(certs, keys, strict=True)]
    for cert, key in pairs:
        require_tls_files(str(cert), str(key))
    version = {"tls12": TLSVersion.TLSv1_2, "tls13": TLSVersion.TLSv1_3}[settings.tls_min_version]
    return TlsOptions(
        parse_address("tls_address", settings.tls_address), *pairs[0], more=tuple(pairs[1:]), min_version=version
    )


def _redirect(settings: ServerSettings) -> bool:
    if settings.redirect_to_access_url and not settings.access_url:
        raise ConfigError("redirect_to_access_url is on, but there is no access URL", hint="set --access-url")
    return settings.redirect_to_access_url


def _proxies(settings: ServerSettings) -> TrustedProxies:
    known, unknown = known_headers(_split(settings.proxy_trusted_headers))
    if unknown:
        raise ConfigError(
            f"proxy_trusted_headers: {unknown[0]!r} is not understood", hint=f"known are {', '.join(ADDRESS_HEADERS)}"
        )
    origins = []
    for text in _split(settings.proxy_trusted_origins):
        try:
            origins.append(ip_network(text, strict=False))
        except ValueError as exc:
            raise ConfigError(f"proxy_trusted_origins: {exc}", hint="write it like 10.0.0.0/8") from exc
    if origins and not known:
        raise ConfigError(
            "proxy_trusted_origins is set, but no header is trusted", hint="set --proxy-trusted-headers X-Forwarded-For"
        )
    return TrustedProxies(tuple(origins), known)


def _hsts(settings: ServerSettings) -> str:
    if settings.strict_transport_security <= 0:
        return ""
    parts = [f"max-age={settings.strict_transport_security}"]
    names = {"includesubdomains": "includeSubDomains", "preload": "preload"}
    for option in _split(settings.strict_transport_security_options):
        if option.lower() not in names:
            raise ConfigError(
                f"strict_transport_security_options: {option!r} is not understood",
                hint=f"known are {', '.join(names.values())}",
            )
        parts.append(names[option.lower()])
    return "; ".join(parts)


def _split(texts: Sequence[str]) -> list[str]:
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]


def _rules(settings: ServerSettings) -> PathRules:
    never, only = settings.block_direct_connections, settings.require_direct_connections
    if never and only:
        raise ConfigError(
            "block_direct_connections and require_direct_connections exclude each other", hint="set at most one of them"
        )
    if not 0 <= settings.derp_prefer_region <= MAX_REGION:
        raise ConfigError(f"derp_prefer_region: {settings.derp_prefer_region} is not in 0…{MAX_REGION}")
    direct = DirectRule.NEVER if never else DirectRule.ONLY if only else DirectRule.AUTO
    rules = PathRules(direct, settings.derp_prefer_region, not settings.block_ipv6)
    return rules if rules == PathRules() else replace(rules, set_by="the deployment")


def _relay(settings: ServerSettings) -> RelayOptions:
    if not 1 <= settings.derp_server_region_id < 1 << 16:
        raise ConfigError(f"derp_server_region_id: {settings.derp_server_region_id} is not in 1…65535")
    return RelayOptions(
        enable=settings.derp_server_enable,
        region_id=settings.derp_server_region_id,
        region_code=settings.derp_server_region_code,
        region_name=settings.derp_server_region_name,
        stun_addresses=_stun_servers(settings.derp_server_stun_addresses),
        stun_disabled=DISABLE in settings.derp_server_stun_addresses,
        force_websockets=settings.derp_force_websockets,
    )


def _stun_servers(texts: Sequence[str]) -> tuple[HostPort, ...]:
    wanted = _split(texts)
    if DISABLE in wanted:
        return ()
    return tuple(parse_address("derp_server_stun_addresses", text, STUN_PORT) for text in wanted)


def _stun(settings: ServerSettings, listen: HostPort) -> tuple[HostPort | None, bool]:
    if settings.stun_address == DISABLE or settings.block_direct_connections:
        return None, False
    if settings.stun_address:
        return parse_address("stun_address", settings.stun_address, STUN_PORT), False
    return HostPort(listen.host, STUN_PORT), True


def is_only_local(url: AccessUrl) -> bool:
    """Does the access URL's host lead to this machine only? A name that does not resolve is somebody else's affair."""
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(url.host, None, type=socket.SOCK_STREAM)}
    except OSError:
        return False
    return bool(found) and all(ip_address(address.partition("%")[0]).is_loopback for address in found)
