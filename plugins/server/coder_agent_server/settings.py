"""The section ``[plugins.server]``: as written by people, in Coder's words. options.py turns it into values."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _setting(default: Any, env: str, description: str) -> Any:
    return Field(default, description=description, json_schema_extra={"env": env})


def _files(value: object) -> object:
    """One path, or several between commas."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Files = Annotated[list[str], BeforeValidator(_files)]


class ServerSettings(BaseModel):
    """What `coder server` can be told. Flags have the same names with dashes."""

    model_config = ConfigDict(extra="forbid")

    access_url: str = _setting("", "CODER_ACCESS_URL", "The URL at which users and agents reach this server.")
    wildcard_access_url: str = _setting(
        "", "CODER_WILDCARD_ACCESS_URL", "Host pattern of subdomain apps, such as *.apps.example.com; empty = none."
    )
    http_address: str = _setting("127.0.0.1:3000", "CODER_HTTP_ADDRESS", "host:port for HTTP; empty = no HTTP.")
    tls_enable: bool = _setting(False, "CODER_TLS_ENABLE", "Serve HTTPS too.")
    tls_address: str = _setting("127.0.0.1:3443", "CODER_TLS_ADDRESS", "host:port for HTTPS.")
    tls_cert_file: Files = _setting(
        [], "CODER_TLS_CERT_FILE", "PEM file: certificate, then its chain; several, for several host names (SNI)."
    )
    tls_key_file: Files = _setting(
        [], "CODER_TLS_KEY_FILE", "PEM file: the certificate's private key; as many, in the same order."
    )
    tls_min_version: Literal["tls12", "tls13"] = _setting("tls12", "CODER_TLS_MIN_VERSION", "Oldest TLS spoken.")
    http_socket: str = _setting("", "CODER_HTTP_SOCKET", "Path of a unix socket for HTTP, beside or instead of TCP.")
    data_dir: str = _setting("", "CODER_DATA_DIR", "Folder for the database.")
    name: str = _setting("coder-agent", "CODER_SERVER_NAME", "Name in the version and on the status page.")
    derp_server_enable: bool = _setting(True, "CODER_DERP_SERVER_ENABLE", "Serve the embedded relay at /derp.")
    derp_server_region_id: int = _setting(999, "CODER_DERP_SERVER_REGION_ID", "Region id of the embedded relay.")
    derp_server_region_code: str = _setting("coder", "CODER_DERP_SERVER_REGION_CODE", "Its short name.")
    derp_server_region_name: str = _setting("Coder Embedded Relay", "CODER_DERP_SERVER_REGION_NAME", "Its name.")
    derp_server_stun_addresses: list[str] = _setting(
        [], "CODER_DERP_SERVER_STUN_ADDRESSES", "STUN servers (host:port) for clients; default none: no calls outside."
    )
    derp_force_websockets: bool = _setting(False, "CODER_DERP_FORCE_WEBSOCKETS", "Everybody relays over WebSocket.")
    derp_config_url: str = _setting("", "CODER_DERP_CONFIG_URL", "URL of a JSON relay map, beside the embedded relay.")
    derp_config_path: str = _setting("", "CODER_DERP_CONFIG_PATH", "File with a JSON relay map; not with the URL.")
    derp_config_refresh_seconds: int = _setting(
        600, "CODER_DERP_CONFIG_REFRESH_SECONDS", "How often it is read again; 0 = only on SIGHUP."
    )
    block_direct_connections: bool = _setting(False, "CODER_BLOCK_DIRECT", "Relay only, for everybody.")
    require_direct_connections: bool = _setting(
        False, "CODER_REQUIRE_DIRECT", "No relay for data, for everybody; relays still help to find direct paths."
    )
    derp_prefer_region: int = _setting(
        0, "CODER_DERP_PREFER_REGION", "Relay region for everybody who can use it; 0 = each the nearest."
    )
    block_ipv6: bool = _setting(False, "CODER_BLOCK_IPV6", "Direct connections over IPv4 only, for everybody.")
    stun_address: str = _setting(
        "",
        "CODER_STUN_ADDRESS",
        "host:port of the embedded STUN responder (UDP), or `disable`; default: HTTP host, port 3478.",
    )
    prometheus_enable: bool = _setting(False, "CODER_PROMETHEUS_ENABLE", "Serve /metrics on an address of its own.")
    prometheus_address: str = _setting("127.0.0.1:2112", "CODER_PROMETHEUS_ADDRESS", "host:port for /metrics.")
    health_check_refresh: str = _setting(
        "10m", "CODER_HEALTH_CHECK_REFRESH", "How long a health report is good enough, such as 10m."
    )
    health_check_threshold_database: str = _setting(
        "15ms", "CODER_HEALTH_CHECK_THRESHOLD_DATABASE", "A database that takes longer to answer is warned of."
    )
    ssh_hostname_prefix: str = _setting("coder.", "CODER_SSH_HOSTNAME_PREFIX", "Host prefix that config-ssh writes.")
    workspace_hostname_suffix: str = _setting("coder", "CODER_WORKSPACE_HOSTNAME_SUFFIX", "Suffix of workspace names.")
    redirect_to_access_url: bool = _setting(
        False, "CODER_REDIRECT_TO_ACCESS_URL", "Requests for another host or by plain HTTP are sent to the access URL."
    )
    proxy_trusted_headers: list[str] = _setting(
        [], "CODER_PROXY_TRUSTED_HEADERS", "Headers in which trusted proxies name the visitor, such as X-Forwarded-For."
    )
    proxy_trusted_origins: list[str] = _setting(
        [], "CODER_PROXY_TRUSTED_ORIGINS", "Networks (CIDR) of reverse proxies whose headers are believed."
    )
    strict_transport_security: int = _setting(
        0, "CODER_STRICT_TRANSPORT_SECURITY", "Seconds for which browsers shall insist on HTTPS; 0 = they are not told."
    )
    strict_transport_security_options: list[str] = _setting(
        [], "CODER_STRICT_TRANSPORT_SECURITY_OPTIONS", "includeSubDomains, preload."
    )
    secure_auth_cookie: bool = _setting(False, "CODER_SECURE_AUTH_COOKIE", "Send the session cookie over HTTPS only.")
    api_rate_limit: int = _setting(512, "CODER_API_RATE_LIMIT", "Requests per minute and user or IP; negative = off.")
    login_rate_limit: int = _setting(60, "CODER_LOGIN_RATE_LIMIT", "Sign-ins per minute and IP; negative = off.")
    log_json: str = _setting("", "CODER_LOGGING_JSON", "File for log lines as JSON; /dev/stderr for the terminal.")
    session_duration_hours: int = _setting(24, "CODER_SESSION_DURATION_HOURS", "How long an idle session lives.")
